// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/storage/memory"
)

// verified is a conversation of two people, who have certificates in it.
type verified struct {
	*world
	ca         *wireCA
	alice, bob *clienttest.Device
	now        time.Time // of both
}

func newVerified(t testing.TB) *verified {
	v := &verified{world: newWorld(t, clienttest.Options{}), ca: newWireCA(t, "ours"), now: time.Now()}
	cfg := config()
	cfg.Clock = func() time.Time { return v.now }
	v.alice, v.bob = v.deviceOn(wireID(1).Core(), memory.New(), cfg), v.deviceOn(wireID(2).Core(), memory.New(), cfg)
	v.trust(v.ca, v.alice, v.bob)
	v.create(v.alice)
	v.add(v.alice, v.bob)
	return v
}

// rotate gives a device a certificate in the conversation.
func (v *verified) rotate(d *clienttest.Device, n byte, validity time.Duration) *x509.Certificate {
	v.Helper()
	_, leaf := v.certify(v.ca, d, n, validity)
	v.in(d, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Rotate(ctx, core.CredentialX509)
		return err
	})
	v.catchUp()
	return leaf
}

// state checks what both see.
func (v *verified) state(want e2ei.ConversationState) {
	v.Helper()
	for _, d := range []*clienttest.Device{v.alice, v.bob} {
		if state, err := d.View(chat).E2EIState(v.Context()); err != nil || state != want {
			v.Errorf("%v, %v, want %v", state, err, want)
		}
		info := v.groupInfo(d)
		if state, err := d.GroupInfoState(v.Context(), info, nil); err != nil || state != want {
			v.Errorf("before joining: %v, %v, want %v", state, err, want)
		}
	}
}

// status checks how somebody's device is seen.
func (v *verified) status(n byte, want e2ei.DeviceStatus, kind core.CredentialType) {
	v.Helper()
	for _, d := range []*clienttest.Device{v.alice, v.bob} {
		list, err := d.View(chat).DeviceIdentities(v.Context(), wireID(n).Core())
		if err != nil || len(list) != 1 || list[0].Status != want || list[0].CredentialType != kind || list[0].ClientID != wireID(n).String() {
			v.Errorf("%+v, %v, want %v", list, err, want)
		}
	}
}

func (v *verified) revoke(number int64, leaves ...*x509.Certificate) {
	v.Helper()
	for _, d := range []*clienttest.Device{v.alice, v.bob} {
		v.do(d, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.RegisterCRL(ctx, listURL, v.ca.list(number, leaves...))
			return err
		})
	}
}

func methodState(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	v.state(e2ei.NotEnabled)
	v.status(1, e2ei.StatusValid, core.CredentialBasic)
	v.rotate(v.alice, 1, 2*time.Hour)
	v.state(e2ei.NotVerified)
	bobs := v.rotate(v.bob, 2, 3*time.Hour)
	v.state(e2ei.Verified)
	v.status(1, e2ei.StatusValid, core.CredentialX509)

	v.revoke(1, bobs)
	v.state(e2ei.NotVerified)
	v.status(2, e2ei.StatusRevoked, core.CredentialX509)
	v.status(1, e2ei.StatusValid, core.CredentialX509)
	v.send(v.bob, "still a member") // MLS goes on
	v.catchUp()
	v.rotate(v.bob, 2, 3*time.Hour)
	v.state(e2ei.Verified)

	v.now = v.now.Add(150 * time.Minute) // Alice's has expired, and the list is overdue
	v.state(e2ei.NotVerified)
	v.status(1, e2ei.StatusExpired, core.CredentialX509)
	v.now = v.now.Add(time.Hour) // all have
	v.state(e2ei.NotVerified)

	v.tries(v.alice, client.ErrConversationNotFound, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.Conversation(ctx, "another")
		return err
	})
	if _, err := v.alice.View("another").E2EIState(t.Context()); !errors.Is(err, client.ErrConversationNotFound) {
		t.Error(err)
	}
}

// A transaction sees the conversation with what it has registered.
func TestStateIsStaged(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	v.rotate(v.alice, 1, time.Hour)
	bobs := v.rotate(v.bob, 2, time.Hour)
	undo := errors.New("undo")
	v.tries(v.alice, undo, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.Conversation(ctx, chat)
		v.must(err)
		if state, err := c.E2EIState(ctx); err != nil || state != e2ei.Verified {
			t.Errorf("%v, %v", state, err)
		}
		_, err = tx.RegisterCRL(ctx, listURL, v.ca.list(1, bobs))
		v.must(err)
		if state, err := c.E2EIState(ctx); err != nil || state != e2ei.NotVerified {
			t.Errorf("%v, %v", state, err)
		}
		if state, err := v.alice.View(chat).E2EIState(ctx); err != nil || state != e2ei.Verified {
			t.Errorf("%v, %v", state, err)
		}
		return undo
	})
	v.state(e2ei.Verified)
}

// Whose certificate does not hold comes into no conversation of those who trust somebody;
// who trusts nobody takes it, and says that it is valid: nothing was asked for.
func TestUntrustedCertificate(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	thief := newWireCA(t, "thief")
	mallory := v.deviceOn(wireID(3).Core(), memory.New(), config())
	v.certify(thief, mallory, 3, time.Hour)
	var invitation []byte
	v.do(mallory, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, suite1, core.CredentialX509, 1)
		v.must(err)
		invitation = k[0].Message
		return nil
	})
	v.triesIn(v.alice, core.ErrDenied, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, invitation)
		return err
	})
	v.state(e2ei.NotEnabled)

	carol := v.deviceOn(wireID(4).Core(), memory.New(), config())
	v.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.NewConversation(ctx, "elsewhere", client.ConversationConfig{Suite: suite1})
		v.must(err)
		_, err = c.AddMembers(ctx, invitation)
		return err
	})
	view := carol.View("elsewhere")
	list, err := view.DeviceIdentities(t.Context(), wireID(3).Core())
	if err != nil || len(list) != 1 || list[0].Status != e2ei.StatusValid {
		t.Errorf("%+v, %v", list, err)
	}
	info, err := view.GroupInfo(t.Context())
	v.must(err)
	// Before joining it is no error: the state says it.
	if state, err := v.alice.GroupInfoState(t.Context(), info, nil); err != nil || state != e2ei.NotVerified {
		t.Errorf("%v, %v", state, err)
	}
	v.trust(v.ca, carol)
	list, err = view.DeviceIdentities(t.Context(), wireID(3).Core())
	if err != nil || len(list) != 1 || list[0].Status != e2ei.StatusRevoked {
		t.Errorf("no path: %+v, %v", list, err)
	}
}

// Our own certificate must hold as well, and be ours.
func TestOwnCertificate(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	thief := newWireCA(t, "thief")
	add := func(ca *wireCA, n byte, want error) {
		t.Helper()
		v.tries(v.alice, want, func(ctx context.Context, tx *client.Transaction) error {
			own, err := tx.NewCredential(ctx, suite1)
			v.must(err)
			leaf := ca.leaf(wireID(n), "alice", own, time.Hour)
			_, err = tx.AddCredential(ctx, core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf.Raw}}, own.SignatureKey)
			return err
		})
	}
	add(thief, 1, e2ei.ErrNoPath)
	add(v.ca, 2, client.ErrWrongCredential)
	add(v.ca, 1, nil)
	another := v.leafOfAnother()
	v.tries(v.alice, e2ei.ErrWrongKey, func(ctx context.Context, tx *client.Transaction) error {
		own, err := tx.NewCredential(ctx, suite1)
		v.must(err)
		_, err = tx.AddCredential(ctx, core.Credential{Type: core.CredentialX509, Certificates: [][]byte{another.Raw}}, own.SignatureKey)
		return err
	})
}

// leafOfAnother is Alice's by name, and of Bob's key.
func (v *verified) leafOfAnother() *x509.Certificate {
	list, err := v.bob.Credentials(v.Context(), client.CredentialFilter{})
	v.must(err)
	return v.ca.leaf(wireID(1), "alice", list[0], time.Hour)
}

func methodGroupInfoState(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	v.rotate(v.alice, 1, time.Hour)
	bobs := v.rotate(v.bob, 2, time.Hour)
	info := v.groupInfo(v.alice)
	carol := v.nobody(memory.New())
	check := func(info []byte, want e2ei.ConversationState, wantErr error) {
		t.Helper()
		if state, err := carol.GroupInfoState(t.Context(), info, nil); state != want || !errors.Is(err, wantErr) {
			t.Errorf("%v, %v, want %v, %v", state, err, want, wantErr)
		}
	}
	check(info, e2ei.NotVerified, nil) // she trusts nobody
	v.trust(newWireCA(t, "other"), carol)
	check(info, e2ei.NotVerified, nil)
	v.trust(v.ca, carol)
	check(info, e2ei.Verified, nil)
	v.do(carol, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterCRL(ctx, listURL, v.ca.list(1, bobs))
		v.must(err)
		if state, err := tx.GroupInfoState(ctx, info, nil); err != nil || state != e2ei.NotVerified {
			t.Errorf("%v, %v", state, err)
		}
		return nil
	})
	check(info, e2ei.NotVerified, nil)
	check(nil, e2ei.NotVerified, mls.ErrMalformed)
	check(v.service.Log(chat)[0], e2ei.NotVerified, mls.ErrMalformed) // a message of another kind
	broken := slices.Clone(info)
	broken[len(broken)-1] ^= 1 // of the signature
	check(broken, e2ei.NotVerified, core.ErrInvalid)
}

func methodEnabled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn(wireID(1).Core(), memory.New(), config())
	enabled := func(d *clienttest.Device, suite core.SuiteID, want bool, wantErr error) {
		t.Helper()
		w.tries(d, wantErr, func(ctx context.Context, tx *client.Transaction) error {
			is, err := tx.E2EIEnabled(ctx, suite)
			if is != want {
				t.Errorf("%v, want %v", is, want)
			}
			return err
		})
		if is, err := d.E2EIEnabled(t.Context(), suite); is != want || !errors.Is(err, wantErr) {
			t.Errorf("%v, %v, want %v, %v", is, err, want, wantErr)
		}
	}
	enabled(alice, suite1, false, nil)
	enabled(alice, suite2, false, client.ErrCredentialNotFound)
	enabled(alice, 0xfefe, false, core.ErrUnsupported)
	enabled(w.nobody(memory.New()), suite1, false, client.ErrNotInitialized)
	w.certify(newWireCA(t, "ours"), alice, 1, time.Hour)
	enabled(alice, suite1, true, nil)
	enabled(alice, 3, true, nil) // the same scheme
	enabled(alice, suite2, false, client.ErrCredentialNotFound)
}

func methodDeviceIdentities(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	leaf := v.rotate(v.bob, 2, time.Hour)
	view := v.alice.View(chat)
	if _, err := view.DeviceIdentities(t.Context()); !errors.Is(err, client.ErrEmptyInput) {
		t.Error(err)
	}
	list, err := view.DeviceIdentities(t.Context(), wireID(2).Core(), wireID(9).Core(), wireID(1).Core())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	alice, bob := list[0], list[1]
	if alice.ClientID != wireID(1).String() || alice.X509 != nil || alice.CredentialType != core.CredentialBasic || alice.Thumbprint == "" {
		t.Errorf("%+v", alice)
	}
	x := bob.X509
	if bob.ClientID != wireID(2).String() || x == nil || x.Handle.Name() != "person_c" || x.DisplayName != "Person person_c" ||
		x.Certificate != string(pemOf(leaf)) || !x.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("%+v", bob)
	}
	if list, err := view.DeviceIdentities(t.Context(), "nobody"); err != nil || list != nil {
		t.Errorf("%+v, %v", list, err)
	}
}

func methodUserIdentities(t *testing.T) {
	t.Parallel()
	v := newVerified(t)
	v.rotate(v.bob, 2, time.Hour)
	other := v.deviceOn(core.ClientID(wireID(2).String()[:36]+":99@example.com"), memory.New(), config())
	v.add(v.alice, other, v.device("without a colon"))
	view := v.alice.View(chat)
	if _, err := view.UserIdentities(t.Context()); !errors.Is(err, client.ErrEmptyInput) {
		t.Error(err)
	}
	user := func(n byte) string { return wireID(n).String()[:36] }
	found, err := view.UserIdentities(t.Context(), user(1), user(2), user(9), "without a colon")
	if err != nil || len(found) != 2 || len(found[user(1)]) != 1 || len(found[user(2)]) != 2 {
		t.Errorf("%+v, %v", found, err)
	}
	if x := found[user(2)][0].X509; x == nil || x.Handle.Name() != "person_c" {
		t.Errorf("%+v", found)
	}
}

// An application with an Authenticator of its own has no environment in it, and one beside it.
func TestOtherAuthenticator(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	cfg := config()
	cfg.Authenticator = client.Basic{}
	alice := w.deviceOn(wireID(1).Core(), memory.New(), cfg)
	w.trust(ca, alice)
	w.tries(alice, core.ErrDenied, func(ctx context.Context, tx *client.Transaction) error {
		own, err := tx.NewCredential(ctx, suite1)
		w.must(err)
		leaf := ca.leaf(wireID(1), "alice", own, time.Hour)
		_, err = tx.AddCredential(ctx, core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf.Raw}}, own.SignatureKey)
		return err
	})
	w.create(alice)
	if state, err := alice.View(chat).E2EIState(t.Context()); err != nil || state != e2ei.NotEnabled {
		t.Errorf("%v, %v", state, err)
	}
}
