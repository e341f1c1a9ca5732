// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/vlbytes"
	"github.com/conclave-mls/conclave/storage/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a service on a loopback port until stop is called or the test ends.
func serve(t *testing.T, store core.Keystore, options delivery.Options) (address string, stop func()) {
	t.Helper()
	server, err := delivery.New(store, options)
	if err != nil {
		t.Fatal(err)
	}
	l, err := delivery.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + l.Addr().String(), start(t, server, l)
}

func start(t *testing.T, server *delivery.Server, l net.Listener) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// dial returns a client that has not registered.
func dial(t *testing.T, address string, options delivery.ClientOptions) *delivery.Client {
	t.Helper()
	c, err := delivery.Dial(address, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// keyOf is the registration key of a client, the same in every run of a service.
func keyOf(id core.ClientID) core.Secret {
	return core.NewSecret([]byte(fmt.Sprintf("%-32s", "the registration key of "+id)))
}

// person returns a registered client.
func person(t *testing.T, address string, id core.ClientID) *delivery.Client {
	t.Helper()
	c := dial(t, address, delivery.ClientOptions{})
	if _, err := c.Register(t.Context(), id, keyOf(id)); err != nil {
		t.Fatal(err)
	}
	return c
}

// people returns a fresh service in memory and its registered clients.
func people(t *testing.T, ids ...core.ClientID) []*delivery.Client {
	t.Helper()
	store := memory.New()
	t.Cleanup(func() { _ = store.Close() })
	address, _ := serve(t, store, delivery.Options{})
	var clients []*delivery.Client
	for _, id := range ids {
		clients = append(clients, person(t, address, id))
	}
	return clients
}

const (
	application = 1
	proposal    = 2
	commit      = 3
)

// private builds what a delivery service sees of a PrivateMessage (RFC 9420
// section 6.3).
func private(group core.ConversationID, epoch uint64, content byte, body string) []byte {
	b := []byte{0, 1, 0, 2}
	b = vlbytes.Append(b, []byte(group))
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = append(b, content)
	b = vlbytes.Append(b, nil)
	return vlbytes.Append(b, []byte(body))
}

// public builds a PublicMessage (section 6.2) of a sender type.
func public(group core.ConversationID, epoch uint64, sender, content byte, body string) []byte {
	b := []byte{0, 1, 0, 1}
	b = vlbytes.Append(b, []byte(group))
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = append(b, sender)
	if sender <= 2 {
		b = append(b, 0, 0, 0, 0)
	}
	b = vlbytes.Append(b, nil)
	return append(append(b, content), body...)
}

// submit and send fail the test unless the outcome is the wanted one.
func submit(t *testing.T, c *delivery.Client, commit client.CommitBundle, want client.OutcomeKind) delivery.Answer {
	t.Helper()
	answer, err := c.SubmitCommit(t.Context(), commit)
	if err != nil || answer.Kind != want {
		t.Fatalf("SubmitCommit: %+v (%v), %v; want %v", answer, answer.Refusal, err, want)
	}
	return answer
}

func send(t *testing.T, c *delivery.Client, key string, message []byte, want client.OutcomeKind) delivery.Answer {
	t.Helper()
	answer, err := c.SendMessage(t.Context(), []byte(key), message)
	if err != nil || answer.Kind != want {
		t.Fatalf("SendMessage: %+v (%v), %v; want %v", answer, answer.Refusal, err, want)
	}
	return answer
}

// drain returns the sequence numbers that were waiting.
func drain(t *testing.T, c *delivery.Client, group core.ConversationID) (seqs []uint64) {
	t.Helper()
	err := c.Drain(t.Context(), group, func(_ context.Context, e delivery.Entry) error {
		seqs = append(seqs, e.Seq)
		return nil
	})
	if err != nil {
		t.Fatalf("Drain: %v", err)
	}
	return seqs
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}
