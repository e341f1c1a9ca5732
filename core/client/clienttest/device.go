// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"
	"errors"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// A Device is a client, its connection, and what it has received.
type Device struct {
	*client.Client
	Link *Link
	Join client.JoinConfig // for Welcomes
	// New is what [Group] makes a conversation of; its Group, if zero, is that of Join.
	New client.ConversationConfig

	mu       sync.Mutex
	received []client.Received
	failed   []error
	events   []client.Event
}

// NewDevice opens a client on a keystore and connects it. The configuration needs
// Suites and Keys; the transport and the observer are the device's, and so is the store,
// but where the configuration has one the keystore is not used. It is closed with the
// test.
func NewDevice(t TB, service Backend, id core.ClientID, ks core.Keystore, cfg client.Config) *Device {
	t.Helper()
	d := &Device{Link: &Link{Service: service, ID: id}}
	var err error
	if cfg.Store == nil {
		wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32))) // a test has nothing to hide
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Store, err = seal.Open(t.Context(), ks, wrapper, "device"); err != nil {
			t.Fatal(err)
		}
	}
	d.Link.Receive = d.receive
	cfg.Transport = d.Link
	observe := cfg.Observe
	cfg.Observe = func(e client.Event) {
		d.mu.Lock()
		d.events = append(d.events, e)
		d.mu.Unlock()
		if observe != nil {
			observe(e)
		}
	}
	if d.Client, err = client.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	return d
}

// receive processes one message in a transaction. What a message is to blame for
// is recorded and the message taken. Who was removed and added again has a Welcome
// to process first.
func (d *Device) receive(ctx context.Context, id core.ConversationID, message []byte) error {
	var got client.Received
	decrypt := func(ctx context.Context, tx *client.Transaction) (err error) {
		got, err = tx.DecryptMessage(ctx, id, message)
		return err
	}
	err := d.Transaction(ctx, decrypt)
	if errors.Is(err, client.ErrConversationNotFound) {
		if err := d.Welcomes(ctx); err != nil {
			return err
		}
		err = d.Transaction(ctx, decrypt)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		d.received = append(d.received, got)
	case client.Blames(err):
		d.failed = append(d.failed, err)
	default:
		return err
	}
	return nil
}

func (d *Device) keep(replayed []client.Decrypted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range replayed {
		if r.Err != nil {
			d.failed = append(d.failed, r.Err)
		} else {
			d.received = append(d.received, r.Received)
		}
	}
}

// Received returns what came since the last call, in order.
func (d *Device) Received() []client.Received {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.received
	d.received = nil
	return out
}

// Texts returns the application data that came since the last call of it or of
// Received, what was replayed included. A history secret is among them, see
// [client.Conversation.EnableHistorySharing]: unless Config.PrepareHistory wraps it, it
// is the text that [client.ParseHistorySecret] takes.
func (d *Device) Texts() (texts []string) {
	for _, r := range d.Received() {
		for r := range client.All(r) {
			if text, ok := r.(*client.Text); ok {
				texts = append(texts, string(text.Data))
			}
		}
	}
	return texts
}

// Failed returns the errors of messages since the last call, without those that
// say that it was seen before or is our own.
func (d *Device) Failed() (errs []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, err := range d.failed {
		if !errors.Is(err, mls.ErrDuplicateMessage) && !errors.Is(err, mls.ErrOwnMessage) {
			errs = append(errs, err)
		}
	}
	d.failed = nil
	return errs
}

// Events returns the events since the last call.
func (d *Device) Events() []client.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.events
	d.events = nil
	return out
}

// Welcomes joins every conversation that waits for the device.
func (d *Device) Welcomes(ctx context.Context) error {
	for {
		if err := d.Link.online(); err != nil {
			return err
		}
		w, ok := d.Link.Service.Welcome(d.Link.ID)
		if !ok {
			return nil
		}
		var replayed []client.Decrypted
		err := d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.ProcessWelcome(ctx, w.Message, d.Join)
			if err == nil {
				replayed, err = c.Replay(ctx)
			}
			return err
		})
		d.keep(replayed)
		switch {
		case errors.Is(err, client.ErrConversationExists):
			return nil // the queue has something to say first
		case err != nil && !errors.Is(err, client.ErrOrphanWelcome) && !errors.Is(err, mls.ErrDuplicateMessage):
			return err
		}
		d.Link.Service.TakeWelcome(d.Link.ID)
	}
}
