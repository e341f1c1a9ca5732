// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// An answer of version 1 may be a refusal.
type answer interface{ GetError() *wire.Error }

// call makes a call that is one message each way. What the plugin refuses is as it says;
// a call that did not get through is the context's error or ErrUnavailable.
func call[C any, Q proto.Message, A answer](ctx context.Context, p *Plugin, op string,
	client func(grpc.ClientConnInterface) C, method func(C, context.Context, Q, ...grpc.CallOption) (A, error), ask Q,
) (A, error) {
	var none A
	if err := ctx.Err(); err != nil {
		return none, p.err(op, err)
	}
	conn, err := p.conn()
	if err != nil {
		return none, p.err(op, err)
	}
	if size := proto.Size(ask); size > wire.MaxToPlugin {
		return none, p.err(op, fmt.Errorf("a message of %d bytes: %w", size, core.ErrTooLarge))
	}
	limited, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	a, err := method(client(conn), limited, ask)
	if err != nil {
		if _, bad := proto.Marshal(ask); bad != nil {
			return none, p.err(op, fmt.Errorf("%w: %w", core.ErrInvalid, bad)) // text that is not UTF-8
		}
		return none, p.err(op, broken(ctx, limited, err))
	}
	if e := a.GetError(); e != nil {
		return none, p.err(op, wire.FromError(e))
	}
	return a, nil
}

// broken is what a failed call is, which the plugin did not answer.
func broken(ctx, limited context.Context, err error) error {
	if ended := over(ctx, limited, err); ended != nil {
		return ended
	}
	return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
}

// over is the error of the caller's context if that is why a call failed, else nil. The
// deadline may have passed for gRPC, in the plugin or here, before it has for the context.
func over(ctx, limited context.Context, err error) error {
	if status.Code(err) == codes.DeadlineExceeded {
		theirs, ok := ctx.Deadline()
		if ours, _ := limited.Deadline(); ok && theirs.Equal(ours) {
			return context.DeadlineExceeded
		}
	}
	return ctx.Err()
}

// lied is what an answer is that does not keep to the protocol.
func (p *Plugin) lied(op string, err error) error {
	p.cfg.Logger.Error("plugin does not keep to the protocol", "op", op, "error", err)
	return p.err(op, fmt.Errorf("%w: the plugin does not keep to the protocol: %s", core.ErrUnavailable, err))
}

func (p *Plugin) err(op string, err error) error {
	return &core.ProviderError{Provider: "plugin " + p.cfg.Name, Op: op, Err: err}
}
