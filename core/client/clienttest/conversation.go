// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// TB is what this package needs of a test: a [testing.TB] has it. Where there is
// none, as in an Example, [Run] makes one.
type TB interface {
	Helper()
	Context() context.Context
	Fatal(args ...any)
	Cleanup(func())
}

// Run gives f a [TB] where there is no test. What goes wrong is a panic.
func Run(f func(TB)) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{ctx: ctx}
	defer func() {
		cancel()
		for _, f := range slices.Backward(r.cleanup) {
			f()
		}
	}()
	f(r)
}

type running struct {
	ctx     context.Context
	cleanup []func()
}

func (r *running) Helper()                  {}
func (r *running) Context() context.Context { return r.ctx }
func (r *running) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (r *running) Cleanup(f func())         { r.cleanup = append(r.cleanup, f) }

// A Provider has cipher suites and makes keys, as providers/pure does.
type Provider interface {
	core.SuiteSource
	core.CryptoProvider
}

// NewConversation makes a device for each name, each with a keystore of its own,
// and a conversation that all of them are in: the first has made it and has added
// the others. They are connected to a [Service] of their own; see [Device.Link]. Who
// wants another configuration makes the devices with [NewDevice], sets Device.New of the
// first and calls [Group].
func NewConversation[K core.Keystore](t TB, p Provider, keystore func() K, id core.ConversationID, names ...core.ClientID) []*Device {
	t.Helper()
	service := NewService(Options{})
	var devices []*Device
	for _, name := range names {
		d := NewDevice(t, service, name, keystore(), client.Config{Suites: p, Keys: p})
		d.Identify(t, p.Suites()[0])
		devices = append(devices, d)
	}
	if len(devices) == 0 {
		t.Fatal("clienttest: a conversation of nobody")
	}
	Group(t, id, devices[0], devices[1:]...)
	return devices
}

// Say sends a text to a conversation. What could not be delivered yet waits in the
// outbox: see [client.Client.Settle].
func (d *Device) Say(t TB, id core.ConversationID, text string) {
	t.Helper()
	err := d.In(t.Context(), id, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte(text), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Hear takes what waits for the device, Welcomes and then the messages of a
// conversation, and returns the texts among them.
func (d *Device) Hear(t TB, id core.ConversationID) []string {
	t.Helper()
	if err := d.Welcomes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Link.Drain(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return d.Texts()
}

// In runs f on a conversation in a transaction.
func (d *Device) In(ctx context.Context, id core.ConversationID, f func(context.Context, *client.Conversation) error) error {
	return d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, c)
	})
}
