// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// written counts what a write set puts: keys and values, before sealing.
func written(ws *record.WriteSet) (bytes int) {
	for _, p := range ws.Puts {
		bytes += len(p.Key) + len(p.Value)
	}
	return bytes
}

// warmGroup grows a group of n in which every second member has committed, so
// that no parent is blank. Two members are kept; the others only lived that long.
func warmGroup(t testing.TB, n int) (first, second *member) {
	first = newMember(t, 1, "first", mls.DefaultConfig)
	first.reload = false
	first.create("warm", nil)
	for i := 1; i < n; i++ {
		m := newMember(t, 1, fmt.Sprintf("member %d", i), mls.DefaultConfig)
		m.reload = false
		add := []mls.Proposal{&mls.Add{KeyPackage: m.keyPackage()}}
		b, err := first.commit(mls.CommitParams{Proposals: add})
		if err != nil {
			t.Fatal(err)
		}
		first.merge()
		if second != nil {
			if _, err := second.process(b.Commit); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 1 && i > 1 {
			continue
		}
		if err := m.join(b.Welcome); err != nil {
			t.Fatal(err)
		}
		if b, err = m.commit(mls.CommitParams{ForcePath: true}); err != nil {
			t.Fatal(err)
		}
		m.merge()
		for _, o := range []*member{first, second} {
			if o != nil {
				if _, err := o.process(b.Commit); err != nil {
					t.Fatal(err)
				}
			}
		}
		if second == nil {
			second = m
		}
	}
	return first, second
}

func BenchmarkGroup(b *testing.B) {
	for _, n := range []int{2, 1000} {
		first, second := warmGroup(b, n)
		send := func(b *testing.B, m *member) ([]byte, int) {
			g, message, ws, err := m.group.Protect(b.Context(), m.env(), make([]byte, 100), nil)
			if err != nil {
				b.Fatal(err)
			}
			m.set(g, ws)
			return message, written(ws)
		}
		receive := func(b *testing.B, m *member, message []byte) int {
			msg, err := mls.UnmarshalMLSMessage(message)
			if err != nil {
				b.Fatal(err)
			}
			g, _, ws, err := m.group.Process(b.Context(), m.env(), msg)
			if err != nil {
				b.Fatal(err)
			}
			bytes := written(ws)
			m.set(g, ws)
			return bytes
		}
		message, bytes := send(b, first)
		b.Logf("n=%d first send in an epoch: %d bytes; first receipt: %d", n, bytes, receive(b, second, message))
		b.Run(fmt.Sprintf("Send/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				message, bytes = send(b, first)
			}
			b.ReportMetric(float64(bytes), "written-B/op")
		})
		b.Run(fmt.Sprintf("Receive/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				message, _ = send(b, second)
				b.StartTimer()
				bytes = receive(b, first, message)
			}
			b.ReportMetric(float64(bytes), "written-B/op")
		})
		var own, merged, received int
		b.Run(fmt.Sprintf("Commit/n=%d", n), func(b *testing.B) {
			for b.Loop() {
				g, pending, ws, err := first.group.Commit(b.Context(), first.env(), mls.CommitParams{ForcePath: true})
				if err != nil {
					b.Fatal(err)
				}
				own = written(ws)
				first.set(g, ws)
				g, _, ws, err = g.Merge(b.Context(), first.env(), pending)
				if err != nil {
					b.Fatal(err)
				}
				merged = written(ws)
				first.set(g, ws)
				b.StopTimer()
				received = receive(b, second, pending.Message())
				b.StartTimer()
			}
			b.ReportMetric(float64(own+merged), "written-B/op")
			b.ReportMetric(float64(received), "received-written-B/op")
		})
	}
}
