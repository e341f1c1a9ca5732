// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
		return none, p.err(op, refusal(ctx, limited, e))
	}
	return a, nil
}

// broken is what a failed call is, which the plugin did not answer.
func broken(ctx, limited context.Context, err error) error {
	if ended := over(ctx, limited, err); ended != nil {
		return ended
	}
	return fmt.Errorf("%w: %s", core.ErrUnavailable, wire.Clean(err.Error()))
}

// refusal is what the plugin answered. That the caller gave up is known here, and not
// believed of the plugin.
func refusal(ctx, limited context.Context, e *wire.Error) error {
	err := wire.FromError(e)
	if len(e.GetCodes()) == 0 { // nothing is known of it
		return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ended := over(ctx, limited, status.Error(codes.DeadlineExceeded, ""))
	switch kind := core.Kind(err); {
	case ended == nil && kind == nil:
		return fmt.Errorf("%w: %s", core.ErrUnavailable, err)
	case ended == nil:
		return fmt.Errorf("%w: %s", kind, err)
	case kind == nil:
		return ended
	default:
		return fmt.Errorf("%w: %w: %s", kind, ended, err)
	}
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

// isText says whether a name of the plugin's is there, of the right size and printable.
func isText(s string, size int) bool {
	return s != "" && len(s) <= size && s == wire.Printable(s)
}

// areNames says whether a list of algorithms is one.
func areNames(algs []core.KeyAlgorithm) bool {
	return len(algs) <= wire.MaxOffers && !slices.ContainsFunc(algs, func(a core.KeyAlgorithm) bool { return !isText(string(a), wire.MaxAlgorithm) })
}

// sized says whether bytes may be a public key, a signature or another answer of a call
// that gives bytes.
func sized(b []byte) bool { return len(b) > 0 && len(b) <= wire.MaxPublic }

// callBytes makes a call whose answer is bytes, which are never none.
func callBytes[C any, Q proto.Message](ctx context.Context, p *Plugin, op string,
	client func(grpc.ClientConnInterface) C, method func(C, context.Context, Q, ...grpc.CallOption) (*wire.BytesResponse, error), ask Q,
) ([]byte, error) {
	a, err := call(ctx, p, op, client, method, ask)
	if err != nil {
		return nil, err
	}
	if !sized(a.GetBytes()) {
		return nil, p.lied(op, fmt.Errorf("an answer of %d bytes", len(a.GetBytes())))
	}
	return a.GetBytes(), nil
}
