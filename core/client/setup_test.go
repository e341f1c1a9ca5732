// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

const (
	suite1 = core.SuiteX25519AES128Ed25519
	chat   = core.ConversationID("chat")
)

// private is the policy of handshakes that only members can read.
var private = func() mls.Config {
	c := mls.DefaultConfig
	c.Handshake = mls.HandshakePrivate
	return c
}()

// config is enough for a client of the tests.
func config() client.Config {
	p := pure.New()
	return client.Config{Suites: p, Keys: p}
}

// world is some devices and their delivery service.
type world struct {
	testing.TB
	service *clienttest.Service
	policy  mls.Config
	devices []*clienttest.Device
}

func newWorld(t testing.TB, options clienttest.Options) *world {
	return &world{TB: t, service: clienttest.NewService(options), policy: mls.DefaultConfig}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// device makes a device with an identity.
func (w *world) device(id core.ClientID) *clienttest.Device {
	w.Helper()
	return w.deviceOn(id, memory.New(), config())
}

func (w *world) deviceOn(id core.ClientID, ks core.Keystore, cfg client.Config) *clienttest.Device {
	w.Helper()
	d := clienttest.NewDevice(w, w.service, id, ks, cfg)
	d.Join.Group = w.policy
	w.do(d, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, id, suite1) })
	w.devices = append(w.devices, d)
	return d
}

func (w *world) do(d *clienttest.Device, f func(ctx context.Context, tx *client.Transaction) error) {
	w.Helper()
	w.must(d.Transaction(w.Context(), f))
}

// in runs f on the chat.
func (w *world) in(d *clienttest.Device, f func(ctx context.Context, c *client.Conversation) error) {
	w.Helper()
	w.must(in(w.Context(), d, f))
}

func in(ctx context.Context, d *clienttest.Device, f func(ctx context.Context, c *client.Conversation) error) error {
	return d.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		return f(ctx, c)
	})
}

// keyPackage makes a key package of a device.
func (w *world) keyPackage(d *clienttest.Device) (message []byte) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
		if err == nil {
			message = k[0].Message
		}
		return err
	})
	return message
}

func (w *world) create(d *clienttest.Device) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1, Group: w.policy})
		return err
	})
}

// add adds devices in one commit, and lets all catch up.
func (w *world) add(by *clienttest.Device, who ...*clienttest.Device) {
	w.Helper()
	var packages [][]byte
	for _, d := range who {
		packages = append(packages, w.keyPackage(d))
	}
	w.in(by, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, packages...)
		return err
	})
	w.catchUp()
}

// catchUp lets every device process what waits for it, until nothing changes.
func (w *world) catchUp() {
	w.Helper()
	for range 3 {
		for _, d := range w.devices {
			w.must(d.Welcomes(w.Context()))
			if _, err := d.Info(w.Context(), chat); err == nil {
				w.must(d.Link.Drain(w.Context(), chat))
			}
		}
	}
}

func (w *world) send(d *clienttest.Device, text string) {
	w.Helper()
	w.in(d, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Send(ctx, []byte(text), nil)
		return err
	})
}

// agree checks that the devices are in one epoch and share its secret.
func (w *world) agree(devices ...*clienttest.Device) {
	w.Helper()
	state := func(d *clienttest.Device) string {
		w.Helper()
		i, err := d.Info(w.Context(), chat)
		w.must(err)
		s, err := d.ExportSecret(w.Context(), chat, 32)
		w.must(err)
		ids, err := d.ClientIDs(w.Context(), chat)
		w.must(err)
		return fmt.Sprintf("epoch %d %x %v", i.Epoch, s.Bytes(), ids)
	}
	want := state(devices[0])
	for _, d := range devices[1:] {
		if got := state(d); got != want {
			w.Fatalf("%s: %s\n%s: %s", devices[0].Link.ID, want, d.Link.ID, got)
		}
	}
}

// reads checks what texts a device received, and that nothing failed.
func (w *world) reads(d *clienttest.Device, want ...string) {
	w.Helper()
	w.must(d.Link.Drain(w.Context(), chat))
	if got := d.Texts(); !slices.Equal(got, want) {
		w.Fatalf("%s read %q, want %q", d.Link.ID, got, want)
	}
	if errs := d.Failed(); len(errs) > 0 {
		w.Fatalf("%s: %v", d.Link.ID, errs)
	}
}

// eventsOf returns the events of one type.
func eventsOf[E client.Event](d *clienttest.Device) (list []E) {
	for _, e := range d.Events() {
		if e, ok := e.(E); ok {
			list = append(list, e)
		}
	}
	return list
}
