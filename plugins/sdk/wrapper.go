// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

type wrapperServer struct {
	wire.UnimplementedKeyWrapperServer
	*server
}

func (s wrapperServer) Wrap(ctx context.Context, m *wire.WrapRequest) (*wire.BytesResponse, error) {
	w, err := instance(s.wrappers, m.GetInstance())
	if err != nil {
		return bytesResponse(nil, err)
	}
	dek := core.NewSecret(m.GetDek())
	defer dek.Wipe()
	return bytesResponse(w.Wrap(ctx, dek, m.GetAad()))
}

func (s wrapperServer) Unwrap(ctx context.Context, m *wire.UnwrapRequest) (*wire.BytesResponse, error) {
	w, err := instance(s.wrappers, m.GetInstance())
	if err != nil {
		return bytesResponse(nil, err)
	}
	return secretResponse(w.Unwrap(ctx, m.GetBlob(), m.GetAad()))
}
