// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Keystore is that of an instance; "" is the unnamed one. Closing it leaves the plugin and
// its store as they are. ErrNotFound: the plugin does not offer it.
func (p *Plugin) Keystore(instance string) (core.Keystore, error) {
	if _, err := p.offer(wire.Part_PART_KEYSTORE, instance); err != nil {
		return nil, err
	}
	return &keystore{p: p, instance: instance}, nil
}

type keystore struct {
	p        *Plugin
	instance string

	mu     sync.RWMutex // held for reading by each call
	closed bool
}

func (k *keystore) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	return nil
}

// Read sends the queries in pieces and gathers the answer. The plugin is believed nothing
// that would be more or something else than was asked for.
func (k *keystore) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	const op = "read"
	p := k.p
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return nil, p.err(op, core.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, p.err(op, err)
	}
	for i := range queries {
		if err := queries[i].Check(); err != nil {
			return nil, p.err(op, err)
		}
	}
	conn, err := p.conn()
	if err != nil {
		return nil, p.err(op, err)
	}
	limited, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel() // ends the stream, however we leave
	stream, err := wire.NewKeystoreClient(conn).Read(limited, grpc.MaxCallRecvMsgSize(wire.MaxOfRead))
	if err != nil {
		return nil, p.err(op, broken(ctx, limited, err))
	}
	m, size := &wire.ReadRequest{Instance: k.instance}, 0
	for i := range queries {
		if size >= wire.Piece {
			if stream.Send(m) != nil {
				break // Recv says why
			}
			m, size = &wire.ReadRequest{Instance: k.instance}, 0
		}
		m.Queries = append(m.Queries, wire.ToQuery(&queries[i]))
		size += wire.Overhead + len(queries[i].Prefix) + len(queries[i].After)
	}
	m.Last = true
	_ = stream.Send(m)
	_ = stream.CloseSend()

	g := gathering{queries: queries, answers: make([][]core.Record, len(queries))}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return g.answers, nil
		}
		if err != nil {
			return nil, p.err(op, broken(ctx, limited, err))
		}
		if e := m.GetError(); e != nil {
			return nil, p.err(op, refusal(ctx, limited, e))
		}
		for _, r := range m.GetRecords() {
			if err := g.add(r); err != nil {
				return nil, p.lied(op, err)
			}
		}
	}
}

// maxRecordsRead keeps tiny records from filling our memory: each takes 200 bytes of it.
const maxRecordsRead = 1 << 20

// A gathering is an answer on its way.
type gathering struct {
	queries []core.Query
	answers [][]core.Record
	at      int // the query that is being answered
	size    int // bytes of keys and values
	count   int // records
}

// add takes the next record if it answers a query, and is the next one of it.
func (g *gathering) add(m *wire.Record) error {
	at, r, err := wire.FromRecord(m)
	if err != nil {
		return err
	}
	if at < g.at || at >= len(g.queries) {
		return errors.New("a record that answers no query")
	}
	g.at = at
	q, answer := &g.queries[at], g.answers[at]
	after := q.After
	if len(answer) > 0 {
		after = answer[len(answer)-1].Key
	}
	switch {
	case len(r.Key) == 0 || len(r.Key) > core.MaxKey || len(r.Value) > core.MaxValue || q.KeysOnly && len(r.Value) > 0:
		return errors.New("a record of a size that none can have")
	case !bytes.HasPrefix(r.Key, q.Prefix) || bytes.Compare(r.Key, after) <= 0:
		return errors.New("a record that was not asked for, or not in its order")
	case q.Limit > 0 && len(answer) == q.Limit:
		return errors.New("more records than were asked for")
	case r.Version == core.Version{}:
		return errors.New("a record without a version")
	}
	if g.count++; g.count > maxRecordsRead {
		return fmt.Errorf("an answer of more than %d records", maxRecordsRead)
	}
	if g.size += len(r.Key) + len(r.Value); g.size > core.MaxBatch {
		return fmt.Errorf("an answer of more than %d bytes", core.MaxBatch)
	}
	g.answers[at] = append(answer, r)
	return nil
}

// Apply sends the batch in pieces. Until the last of them is sent nothing can have
// happened; from then on only the plugin's answer says what has.
func (k *keystore) Apply(ctx context.Context, b core.Batch) error {
	const op = "apply"
	p := k.p
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.closed {
		return p.err(op, core.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return p.err(op, err)
	}
	if err := b.Check(); err != nil {
		return p.err(op, err)
	}
	conn, err := p.conn()
	if err != nil {
		return p.err(op, err)
	}
	limited, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	stream, err := wire.NewKeystoreClient(conn).Apply(limited)
	if err != nil {
		return p.err(op, broken(ctx, limited, err))
	}
	m, size := &wire.ApplyRequest{Instance: k.instance}, 0
	// room sends what there is when a piece is full.
	room := func(n int) error {
		if size >= wire.Piece {
			if err := stream.Send(m); err != nil {
				// An early answer may say why: a refusal, as the batch is not whole.
				if a, errAnswer := stream.CloseAndRecv(); errAnswer != nil {
					return broken(ctx, limited, errAnswer)
				} else if e := a.GetError(); e != nil {
					return refusal(ctx, limited, e)
				}
				return broken(ctx, limited, err)
			}
			m, size = &wire.ApplyRequest{Instance: k.instance}, 0
		}
		size += n + wire.Overhead
		return nil
	}
	for i := range b.Expect {
		if err := room(len(b.Expect[i].Key)); err != nil {
			return p.err(op, err)
		}
		m.Expect = append(m.Expect, wire.ToExpectation(&b.Expect[i]))
	}
	for i := range b.Dels {
		if err := room(len(b.Dels[i].Prefix)); err != nil {
			return p.err(op, err)
		}
		m.Dels = append(m.Dels, wire.ToRange(&b.Dels[i]))
	}
	for i := range b.Puts {
		if err := room(len(b.Puts[i].Key) + len(b.Puts[i].Value)); err != nil {
			return p.err(op, err)
		}
		m.Puts = append(m.Puts, wire.ToPut(&b.Puts[i]))
	}
	m.Last = true
	_ = stream.Send(m) // if it fails, CloseAndRecv says why
	a, err := stream.CloseAndRecv()
	if err != nil {
		if ended := over(ctx, limited, err); ended != nil {
			return p.err(op, fmt.Errorf("%w: %w", core.ErrUnknownOutcome, ended))
		}
		return p.err(op, fmt.Errorf("%w: %s", core.ErrUnknownOutcome, wire.Clean(err.Error())))
	}
	e := a.GetError()
	switch {
	case e == nil:
		return nil
	case len(e.GetCodes()) == 0: // it may be of after the commit
		return p.err(op, fmt.Errorf("%w: %w", core.ErrUnknownOutcome, wire.FromError(e)))
	}
	return p.err(op, refusal(ctx, limited, e))
}
