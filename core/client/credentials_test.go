// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// certified takes certificates that are the name of a client, and basic credentials.
type certified struct{ client.Basic }

func (c certified) Validate(credential core.Credential, key []byte, at time.Time, p core.Purpose) (core.Identity, error) {
	if credential.Type == core.CredentialX509 && len(credential.Certificates) == 2 {
		return core.Identity{ClientID: core.ClientID(credential.Certificates[0])}, nil
	}
	return c.Basic.Validate(credential, key, at, p)
}

// certificate is the n-th of a client.
func certificate(id core.ClientID, n int) core.Credential {
	return core.Credential{Type: core.CredentialX509, Certificates: [][]byte{[]byte(id), fmt.Append(nil, n)}}
}

func certifiedConfig() client.Config {
	cfg := config()
	cfg.Authenticator = certified{}
	return cfg
}

// newCredential makes a basic credential and, if n is not 0, a certificate for its key.
func (w *world) newCredential(d *clienttest.Device, suite core.SuiteID, n int) (own client.Credential) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		if own, err = tx.NewCredential(ctx, suite); err == nil && n != 0 {
			own, err = tx.AddCredential(ctx, certificate(d.Link.ID, n), own.SignatureKey)
		}
		return err
	})
	return own
}

func (w *world) credentials(d *clienttest.Device, filter client.CredentialFilter) []client.Credential {
	w.Helper()
	list, err := d.Credentials(w.Context(), filter)
	w.must(err)
	return list
}

// uses checks which credential our leaf has.
func (w *world) uses(d *clienttest.Device, want client.CredentialRef) {
	w.Helper()
	own, err := d.Credential(w.Context(), chat)
	if err != nil || own.Ref != want {
		w.Errorf("the leaf has credential %d, want %d; %v", own.Ref, want, err)
	}
}

// The reference pairs every credential that it loads with the first key of the
// signature scheme.
func TestQuirkEachCredentialHasItsOwnKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, certifiedConfig())
	made := []client.Credential{
		w.newCredential(alice, suite1, 1), w.newCredential(alice, suite1, 2), w.newCredential(alice, suite2, 3),
	}
	w.must(alice.Close(t.Context()))
	alice = clienttest.NewDevice(t, w.service, "alice", ks, certifiedConfig())
	bob := w.deviceOn("bob", memory.New(), certifiedConfig())
	for i, own := range made {
		id := core.ConversationID(fmt.Sprint("chat ", i))
		suite := []core.SuiteID{suite1, suite1, suite2}[i]
		var k client.KeyPackage
		w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
			if suite == suite2 {
				if _, err := tx.NewCredential(ctx, suite2); err != nil {
					return err
				}
			}
			list, err := tx.NewKeyPackages(ctx, suite, 0, 1)
			k = list[0]
			return err
		})
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: suite, CredentialRef: own.Ref})
			if err != nil {
				return err
			}
			if _, err := c.AddMembers(ctx, k.Message); err != nil {
				return err
			}
			_, err = c.Send(ctx, []byte("hello"), nil)
			return err
		})
		w.must(bob.Welcomes(t.Context())) // which verifies what alice has signed
		w.must(bob.Link.Drain(t.Context(), id))
		if got, err := alice.Credential(t.Context(), id); err != nil || got.Ref != own.Ref || !bytes.Equal(got.SignatureKey, own.SignatureKey) {
			t.Errorf("the leaf has credential %d, want %d; %v", got.Ref, own.Ref, err)
		}
	}
	if got := bob.Texts(); len(got) != 3 {
		t.Errorf("bob read %q; %v", got, bob.Failed())
	}
}

// 13.20: whatever our newest credential is, we sign with the key of our leaf. The
// reference makes commits that nobody takes.
func TestQuirkSignsWithTheKeyOfTheLeaf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice, bob, carol := w.deviceOn("alice", ks, config()), w.device("bob"), w.device("carol")
	w.create(alice)
	w.add(alice, bob)
	w.newCredential(alice, suite1, 0)
	w.must(alice.Close(t.Context()))
	w.devices = slices.DeleteFunc(w.devices, func(d *clienttest.Device) bool { return d == alice })
	alice = clienttest.NewDevice(t, w.service, "alice", ks, config()) // which has no key in memory
	w.devices = append(w.devices, alice)
	w.send(alice, "a")
	k := w.keyPackage(carol)
	for _, f := range []func(ctx context.Context, c *client.Conversation) error{
		func(ctx context.Context, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		},
		func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeUpdate(ctx, 0); return err },
		func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		},
		func(ctx context.Context, c *client.Conversation) error { _, err := c.ProposeAdd(ctx, k); return err },
		func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		},
		func(ctx context.Context, c *client.Conversation) error {
			_, err := c.ProposeRemove(ctx, "carol")
			return err
		},
		func(ctx context.Context, c *client.Conversation) error {
			_, err := c.RemoveMembers(ctx, "carol")
			return err
		},
		func(ctx context.Context, c *client.Conversation) error { // who joins verifies the GroupInfo
			info, err := c.GroupInfo(ctx)
			if err != nil {
				return err
			}
			return clienttest.NewDevice(t, w.service, "dave", memory.New(), config()).Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
				if err := tx.InitMLS(ctx, "dave", suite1); err != nil {
					return err
				}
				_, _, err := tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
				return err
			})
		},
	} {
		w.in(alice, f)
		w.catchUp()
		w.agree(alice, bob)
	}
	w.reads(bob, "a")
	w.uses(alice, 1)
}

func TestCredentialsFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	second := w.newCredential(alice, suite2, 1)
	for name, want := range map[string]struct {
		filter client.CredentialFilter
		refs   []client.CredentialRef
	}{
		"all":       {client.CredentialFilter{}, []client.CredentialRef{1, 2, 3}},
		"basic":     {client.CredentialFilter{Type: core.CredentialBasic}, []client.CredentialRef{1, 2}},
		"X.509":     {client.CredentialFilter{Type: core.CredentialX509}, []client.CredentialRef{3}},
		"suite":     {client.CredentialFilter{Suite: suite3}, []client.CredentialRef{1}},
		"both":      {client.CredentialFilter{Suite: suite1, Type: core.CredentialX509}, nil},
		"key":       {client.CredentialFilter{SignatureKey: second.SignatureKey}, []client.CredentialRef{2, 3}},
		"client":    {client.CredentialFilter{ClientID: "alice"}, []client.CredentialRef{1, 2, 3}},
		"no client": {client.CredentialFilter{ClientID: "bob"}, nil},
	} {
		var got []client.CredentialRef
		for _, c := range w.credentials(alice, want.filter) {
			got = append(got, c.Ref)
		}
		if !slices.Equal(got, want.refs) {
			t.Errorf("%s: %v, want %v", name, got, want.refs)
		}
	}
	if _, err := alice.Credentials(t.Context(), client.CredentialFilter{Suite: 0xfefe}); !errors.Is(err, core.ErrUnsupported) {
		t.Error(err)
	}
}

// What the client shows outside of transactions is durable.
func TestCredentialsShownAreDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.device("alice")
	w.create(alice)
	key, err := alice.ClientPublicKey(t.Context(), suite1, 0)
	w.must(err)
	w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.NewCredential(ctx, suite1); err != nil {
			return err
		}
		if _, err := tx.NewKeyPackages(ctx, suite1, 0, 2); err != nil {
			return err
		}
		own, err := tx.ClientPublicKey(ctx, suite1, 0)
		n, err2 := tx.CountKeyPackages(ctx, suite1, 0)
		list, err3 := tx.Credentials(ctx, client.CredentialFilter{})
		if bytes.Equal(own, key) || n != 2 || len(list) != 2 {
			t.Errorf("the transaction does not see what it did: %d key packages, %d credentials; %v", n, len(list), errors.Join(err, err2, err3))
		}
		again, err := alice.ClientPublicKey(ctx, suite1, 0)
		n, err2 = alice.CountKeyPackages(ctx, suite1, 0)
		if !bytes.Equal(again, key) || n != 0 || len(w.credentials(alice, client.CredentialFilter{})) != 1 {
			t.Errorf("what is not durable was shown: %v, %d key packages; %v", again, n, errors.Join(err, err2))
		}
		return errAbort
	})
	w.uses(alice, 1)
	if _, err := alice.ClientPublicKey(t.Context(), suite2, 0); !errors.Is(err, client.ErrCredentialNotFound) {
		t.Error(err)
	}
}

// The table of the credentials that operations choose.
func TestCredentialChosen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	create := func(id core.ConversationID, cfg client.ConversationConfig) (ref client.CredentialRef, err error) {
		err = alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.NewConversation(ctx, id, cfg)
			if err != nil {
				return err
			}
			own, err := c.Credential(ctx)
			ref = own.Ref
			return err
		})
		return ref, err
	}
	w.try(alice, client.ErrCredentialNotFound, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewKeyPackages(ctx, suite2, 0, 1)
		return err
	})
	if ref, err := create("on demand", client.ConversationConfig{Suite: suite2}); err != nil || ref != 2 {
		t.Errorf("a basic credential is made on demand: %d, %v", ref, err)
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewKeyPackages(ctx, suite2, 0, 1)
		return err
	})
	for _, kind := range []core.CredentialType{core.CredentialX509, 99} {
		_, err := create("none", client.ConversationConfig{Suite: suite1, Credential: kind})
		if !errors.Is(err, client.ErrCredentialNotFound) || errors.Is(err, client.ErrEnrollmentNotDone) != (kind == core.CredentialX509) {
			t.Errorf("type %d: %v", kind, err)
		}
	}
	newer, certificate := w.newCredential(alice, suite1, 0), w.newCredential(alice, suite1, 1)
	for _, want := range []struct {
		cfg client.ConversationConfig
		ref client.CredentialRef
		err error
	}{
		{client.ConversationConfig{}, certificate.Ref - 1, nil},
		{client.ConversationConfig{Credential: core.CredentialX509}, certificate.Ref, nil},
		{client.ConversationConfig{CredentialRef: newer.Ref}, newer.Ref, nil},
		{client.ConversationConfig{CredentialRef: 1}, 1, nil},
		{client.ConversationConfig{CredentialRef: 99}, 0, client.ErrCredentialNotFound},
		{client.ConversationConfig{Suite: suite2, CredentialRef: 1}, 0, client.ErrWrongCredential},
	} {
		if ref, err := create(core.ConversationID(fmt.Sprint(want)), want.cfg); !errors.Is(err, want.err) || ref != want.ref {
			t.Errorf("%+v: %d, %v", want, ref, err)
		}
	}
}

func TestAddCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	key := w.credentials(alice, client.CredentialFilter{})[0].SignatureKey
	add := func(want error, c core.Credential, key []byte) {
		t.Helper()
		w.try(alice, want, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.AddCredential(ctx, c, key)
			return err
		})
	}
	add(client.ErrCredentialExists, core.BasicCredential("alice"), key)
	add(client.ErrWrongCredential, certificate("bob", 1), key)
	add(client.ErrWrongCredential, certificate("alice", 1), append([]byte{1}, key[1:]...))
	add(core.ErrDenied, core.Credential{Type: 99, Opaque: []byte("alice")}, key)
	if n := len(w.credentials(alice, client.CredentialFilter{})); n != 1 {
		t.Fatalf("%d credentials after refusals", n)
	}
	add(nil, certificate("alice", 1), key)
	add(client.ErrCredentialExists, certificate("alice", 1), key)
	add(nil, certificate("alice", 2), key)
	if n := len(w.credentials(alice, client.CredentialFilter{SignatureKey: key})); n != 3 {
		t.Errorf("%d credentials share the key, want 3", n)
	}
}

// SetCredential takes any of ours into use, an older one too.
func TestSetCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice, bob := w.deviceOn("alice", memory.New(), certifiedConfig()), w.deviceOn("bob", memory.New(), certifiedConfig())
	w.create(alice)
	w.add(alice, bob)
	certificate, other := w.newCredential(alice, suite1, 1), w.newCredential(alice, suite2, 0)
	set := func(want error, ref client.CredentialRef) {
		t.Helper()
		err := in(t.Context(), alice, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.SetCredential(ctx, ref)
			if err != nil {
				return err
			}
			if own, err := c.Credential(ctx); err != nil || own.Ref != ref {
				t.Errorf("in use is %d, want %d; %v", own.Ref, ref, err)
			}
			return nil
		})
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		w.catchUp()
		w.agree(alice, bob)
		w.send(alice, "hello")
	}
	set(nil, certificate.Ref)
	w.uses(alice, certificate.Ref)
	set(client.ErrCredentialNotFound, 0)
	set(client.ErrCredentialNotFound, 99)
	set(client.ErrWrongCredential, other.Ref)
	w.uses(alice, certificate.Ref)
	set(nil, 1)
	w.uses(alice, 1)
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, certificate.Ref-1)
		return err
	})
	w.catchUp()
	w.in(bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	w.catchUp()
	w.uses(alice, certificate.Ref-1)
	w.agree(alice, bob)
}
