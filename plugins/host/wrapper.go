// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// KeyWrapper is that of an instance; "" is the unnamed one. ErrNotFound: the plugin does
// not offer it.
func (p *Plugin) KeyWrapper(instance string) (core.KeyWrapper, error) {
	o, err := p.offer(wire.Part_PART_KEY_WRAPPER, instance)
	if err != nil {
		return nil, err
	}
	return &wrapper{p: p, instance: instance, id: o.GetWrapperId()}, nil
}

type wrapper struct {
	p            *Plugin
	instance, id string
}

func (w *wrapper) ID() string { return w.id }

func (w *wrapper) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	ask := &wire.WrapRequest{Instance: w.instance, Dek: dek.Bytes(), Aad: aad}
	return callBytes(ctx, w.p, "wrap", wire.NewKeyWrapperClient, wire.KeyWrapperClient.Wrap, ask)
}

func (w *wrapper) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	ask := &wire.UnwrapRequest{Instance: w.instance, Blob: blob, Aad: aad}
	b, err := callBytes(ctx, w.p, "unwrap", wire.NewKeyWrapperClient, wire.KeyWrapperClient.Unwrap, ask)
	return core.NewSecret(b), err
}
