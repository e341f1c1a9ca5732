// SPDX-License-Identifier: Apache-2.0

package sdk

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

type keystoreServer struct {
	wire.UnimplementedKeystoreServer
	*server
}

// errShort is a stream that ended before its last message: the host is gone, or gave up.
var errShort = status.Error(codes.Aborted, "the stream ended before its last message")

// Read sends the answer in pieces. An error of the store is the answer too.
func (s keystoreServer) Read(stream grpc.BidiStreamingServer[wire.ReadRequest, wire.ReadResponse]) error {
	refuse := func(err error) error { return stream.Send(&wire.ReadResponse{Error: wire.ToError(err)}) }
	var name string
	var queries []core.Query
	for last := false; !last; {
		m, err := stream.Recv()
		if err != nil {
			return errShort
		}
		name, last = m.GetInstance(), m.GetLast()
		for _, q := range m.GetQueries() {
			query, err := wire.FromQuery(q)
			if err != nil {
				return refuse(err)
			}
			queries = append(queries, query)
		}
	}
	store, err := instance(s.keystores, name)
	if err != nil {
		return refuse(err)
	}
	answers, err := store.Read(stream.Context(), queries)
	if err != nil {
		return refuse(err)
	}
	m, size := &wire.ReadResponse{}, 0
	for query, records := range answers {
		for i := range records {
			if size >= wire.Piece {
				if err := stream.Send(m); err != nil {
					return err
				}
				m, size = &wire.ReadResponse{}, 0
			}
			m.Records = append(m.Records, wire.ToRecord(query, &records[i]))
			size += wire.Overhead + len(records[i].Key) + len(records[i].Value)
		}
	}
	return stream.Send(m)
}

// Apply gathers the batch. What is over the limit is refused before it is there.
func (s keystoreServer) Apply(stream grpc.ClientStreamingServer[wire.ApplyRequest, wire.ApplyResponse]) error {
	refuse := func(err error) error { return stream.SendAndClose(&wire.ApplyResponse{Error: wire.ToError(err)}) }
	var name string
	var b core.Batch
	size := 0
	for last := false; !last; {
		m, err := stream.Recv()
		if err != nil {
			return errShort
		}
		name, last = m.GetInstance(), m.GetLast()
		size, err = gather(&b, m, size)
		if err != nil {
			return refuse(err)
		}
	}
	store, err := instance(s.keystores, name)
	if err == nil {
		err = store.Apply(stream.Context(), b)
	}
	return refuse(err) // nil: it is applied
}

// gather adds a part to a batch.
func gather(b *core.Batch, m *wire.ApplyRequest, size int) (int, error) {
	for _, e := range m.GetExpect() {
		expect, err := wire.FromExpectation(e)
		if err != nil {
			return 0, err
		}
		b.Expect = append(b.Expect, expect)
		size += len(expect.Key)
	}
	for _, r := range m.GetDels() {
		del, err := wire.FromRange(r)
		if err != nil {
			return 0, err
		}
		b.Dels = append(b.Dels, del)
		size += len(del.Prefix)
	}
	for _, p := range m.GetPuts() {
		put, err := wire.FromPut(p)
		if err != nil {
			return 0, err
		}
		b.Puts = append(b.Puts, put)
		size += len(put.Key) + len(put.Value)
	}
	if size > core.MaxBatch {
		return 0, fmt.Errorf("batch of %d bytes or more: %w", size, core.ErrTooLarge)
	}
	return size, nil
}
