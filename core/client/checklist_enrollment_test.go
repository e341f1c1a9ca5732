// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/storage/memory"
)

// refuses says that an enrolment cannot begin, and that nothing was made for it.
func (w *world) refuses(d *clienttest.Device, ks core.Keystore, want error, begin func(*client.Transaction, context.Context, client.EnrollmentParams) (*client.Enrollment, error), p client.EnrollmentParams) {
	w.Helper()
	_, before := w.rows(ks)
	w.tries(d, want, func(ctx context.Context, tx *client.Transaction) error {
		_, err := begin(tx, ctx, p)
		if err != nil {
			return errors.Join(err, tx.SetData(ctx, nil)) // which a broken transaction refuses
		}
		return nil
	})
	if _, after := w.rows(ks); after != before {
		w.Errorf("%v: %d records, there were %d", want, after, before)
	}
}

func methodActivation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	nobody, other := memory.New(), memory.New()
	w.refuses(w.nobody(nobody), nobody, client.ErrNotInitialized, activation, enrolAlice)
	w.refuses(w.deviceOn("alice", other, config()), other, e2ei.ErrClientID, activation, enrolAlice)
	spelt := memory.New()
	id := core.ClientID(strings.Replace(wireID(1).String(), ":", ":0", 1)) // which is read, and is another client
	w.refuses(w.deviceOn(id, spelt, config()), spelt, e2ei.ErrClientID, activation, enrolAlice)
	p := enrolAlice
	p.Suite = suite2
	w.refuses(alice, ks, client.ErrCredentialNotFound, activation, p)
	p.Suite = 0xfefe
	w.refuses(alice, ks, core.ErrUnsupported, activation, p)
	p = enrolAlice
	p.Handle = ""
	w.refuses(alice, ks, e2ei.ErrHandle, activation, p)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, core.SuiteX448AES256Ed448)
		return err
	})
	p = enrolAlice
	p.Suite = core.SuiteX448AES256Ed448
	w.refuses(alice, ks, core.ErrUnsupported, activation, p)

	newest := w.fresh(alice)
	e := w.enrol(alice, activation, enrolAlice)
	cfg := e.Config()
	if !bytes.Equal(cfg.PublicKey, newest.SignatureKey) || cfg.ClientID != wireID(1) || cfg.KeyRef == "" || !cfg.RefreshToken.IsZero() || cfg.Team != "tea" {
		t.Errorf("%+v", cfg)
	}
	own := w.enrolled(ca, alice, 1, e)
	if own.Ref != newest.Ref+1 || !bytes.Equal(own.SignatureKey, newest.SignatureKey) {
		t.Errorf("%+v", own)
	}
}

func methodRotateEnrollment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	nobody := memory.New()
	w.refuses(w.nobody(nobody), nobody, client.ErrNotInitialized, rotation, enrolAlice)
	w.refuses(alice, ks, client.ErrEnrollmentNotDone, rotation, enrolAlice)
	first := w.enrolled(ca, alice, 1, w.enrol(alice, activation, enrolAlice))
	p := enrolAlice
	p.Suite = suite2
	w.refuses(alice, ks, client.ErrEnrollmentNotDone, rotation, p)

	p = client.EnrollmentParams{Suite: suite1, Validity: time.Hour, Directory: enrolAlice.Directory}
	e := w.enrol(alice, rotation, p)
	cfg := e.Config()
	if !bytes.Equal(cfg.PublicKey, first.SignatureKey) || cfg.ClientID != wireID(1) || cfg.Handle != "alice_1" || cfg.DisplayName != "Person alice_1" {
		t.Errorf("the names of the certificate: %+v", cfg)
	}
	if string(cfg.RefreshToken.Bytes()) != "refresh" {
		t.Errorf("refresh token %q", cfg.RefreshToken.Bytes())
	}
	w.drop(alice, nil, e.Handle())
	p.DisplayName, p.Handle = "Person al", "al"
	e = w.enrol(alice, rotation, p)
	if cfg := e.Config(); cfg.Handle != "al" || cfg.DisplayName != "Person al" {
		t.Errorf("other names: %+v", cfg)
	}
	w.enrolled(ca, alice, 1, e)
	p.DisplayName, p.Handle = "", ""
	if cfg := w.enrol(alice, rotation, p).Config(); cfg.Handle != "al" {
		t.Errorf("not of the newest: %+v", cfg)
	}
	w.certify(ca, alice, 1, time.Hour) // which comes without a token
	if cfg := w.enrol(alice, rotation, p).Config(); cfg.Handle != "person_b" || !cfg.RefreshToken.IsZero() {
		t.Errorf("%+v", cfg)
	}
}

func methodSaveCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca := newWireCA(t, "ours")
	alice := w.deviceOn(wireID(1).Core(), memory.New(), config())
	bob := w.deviceOn(wireID(2).Core(), memory.New(), config())
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
	})
	w.trust(ca, bob)
	w.create(alice)
	w.add(alice, bob)
	e := w.enrol(alice, activation, enrolAlice)
	w.proceed(e, e2ei.StepFinalize)
	var signature []byte
	w.do(alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		signature, err = tx.SignEnrollment(ctx, e)
		return err
	})
	if _, err := e.FinalizeRequest(signature, "bm9uY2U"); err != nil {
		t.Errorf("the signature: %v", err)
	}
	w.proceed(e, e2ei.StepCertificate)
	var own client.Credential
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		var points []string
		var err error
		own, points, err = tx.SaveX509Credential(ctx, e, ca.chain(1, e))
		if err == nil && !slices.Equal(points, []string{listURL}) {
			t.Errorf("distribution points %q", points)
		}
		if env, err := tx.Environment(ctx); err != nil || len(env.NewDistributionPoints()) != 0 {
			t.Error(err)
		} else if _, intermediates, _ := env.Dump(); len(intermediates) != 1 {
			t.Errorf("%d intermediates", len(intermediates))
		}
		return err
	})
	w.uses(alice, 1) // nothing was sent
	w.in(alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Rotate(ctx, core.CredentialX509)
		return err
	})
	w.catchUp()
	w.uses(alice, own.Ref)
	w.agree(alice, bob)
	ids, err := bob.View(chat).DeviceIdentities(t.Context(), wireID(1).Core())
	if err != nil || len(ids) != 1 || ids[0].Status != e2ei.StatusValid || ids[0].X509 == nil || ids[0].X509.Handle.Name() != "alice_1" {
		t.Errorf("%+v, %v", ids, err)
	}
	nobody := w.nobody(memory.New())
	w.do(nobody, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
	})
	e = w.enrol(nobody, newOf(3), enrolAlice)
	w.proceed(e, e2ei.StepCertificate)
	w.tries(nobody, client.ErrNotInitialized, func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.SaveX509Credential(ctx, e, ca.chain(3, e))
		return err
	})
	w.do(nobody, func(ctx context.Context, tx *client.Transaction) error {
		return tx.InitMLS(ctx, "somebody else", suite1)
	})
	w.tries(nobody, client.ErrWrongCredential, func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.SaveX509Credential(ctx, e, ca.chain(3, e))
		w.must(tx.SetData(ctx, nil)) // nothing was written that cannot stay
		return err
	})
}

func methodStash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	e := w.enrol(alice, newOf(1), enrolAlice)
	w.proceed(e, e2ei.StepOIDCChallenge)
	before := e.Config()
	h := w.stash(alice, e)
	if h != e.Handle() || h == (client.EnrollmentHandle{}) || e.Next() != "" {
		t.Errorf("handle %v, next is %q", h, e.Next())
	}
	w.must(alice.Close(t.Context()))
	alice = clienttest.NewDevice(t, w.service, wireID(1).Core(), ks, config())
	e = w.pop(alice, h)
	if cfg := e.Config(); e.Next() != e2ei.StepOIDCChallenge || e.Handle() != h || cfg.KeyRef != before.KeyRef || cfg.ClientID != before.ClientID || cfg.Team != "tea" {
		t.Errorf("next is %q, %+v", e.Next(), cfg)
	}
	missing := func(h client.EnrollmentHandle) {
		t.Helper()
		w.tries(alice, client.ErrEnrollmentNotFound, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.PopEnrollment(ctx, h)
			return err
		})
	}
	missing(h) // it was taken up
	missing(client.EnrollmentHandle{1})
	w.enrolled(ca, alice, 1, e)
	missing(h)
}

func methodNewEnrollment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok, ks := newToken(), memory.New()
	cfg := config()
	cfg.Keys = tok
	nobody := clienttest.NewDevice(t, w.service, "nobody", ks, cfg)
	bad := map[string]error{}
	for _, c := range []struct {
		change func(*client.EnrollmentParams)
		want   error
	}{
		{func(p *client.EnrollmentParams) { p.Suite = core.SuiteX448ChaChaEd448 }, core.ErrUnsupported},
		{func(p *client.EnrollmentParams) { p.Suite = 0xfefe }, core.ErrUnsupported},
		{func(p *client.EnrollmentParams) { p.Handle = "" }, e2ei.ErrHandle},
		{func(p *client.EnrollmentParams) { p.DisplayName = "" }, core.ErrInvalid},
		{func(p *client.EnrollmentParams) { p.Validity = 0 }, core.ErrInvalid},
		{func(p *client.EnrollmentParams) { p.Directory = "http://ca.example.com/" }, e2ei.ErrForeignURL},
	} {
		p := enrolAlice
		c.change(&p)
		tok.making = func() { bad["made"] = c.want }
		w.refuses(nobody, ks, c.want, newOf(1), p)
	}
	tok.making = nil
	if len(bad) > 0 || tok.count() != 0 {
		t.Errorf("a key was made: %v", bad)
	}
	w.refuses(nobody, ks, e2ei.ErrClientID, func(tx *client.Transaction, ctx context.Context, p client.EnrollmentParams) (*client.Enrollment, error) {
		return tx.NewEnrollment(ctx, e2ei.ClientID{Domain: "not a domain"}, p)
	}, enrolAlice)
	e := w.enrol(nobody, newOf(1), enrolAlice)
	if cfg := e.Config(); cfg.ClientID != wireID(1) || len(cfg.PublicKey) != 32 || e.Next() != e2ei.StepDirectory || tok.count() != 1 {
		t.Errorf("%+v, next is %q", cfg, e.Next())
	}
	if _, err := nobody.ClientID(t.Context()); !errors.Is(err, client.ErrNotInitialized) {
		t.Errorf("%v", err)
	}
	w.drop(nobody, nil, e.Handle())
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
	other := memory.New()
	w.refuses(w.deviceOn(wireID(2).Core(), other, config()), other, client.ErrWrongCredential, newOf(1), enrolAlice)
}

func methodInitWithEnrollment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, tok := newWireCA(t, "ours"), newToken()
	cfg := config()
	cfg.InitialKeyPackages, cfg.Keys = 3, tok
	alice := clienttest.NewDevice(t, w.service, wireID(1).Core(), memory.New(), cfg)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, suite2)
		return err
	})
	p := enrolAlice
	p.Suite = suite2
	e := w.enrol(alice, newOf(1), p)
	w.proceed(e, e2ei.StepCertificate)
	initialize := func(want error) (points []string) {
		t.Helper()
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) (err error) {
			points, err = tx.InitMLSWithEnrollment(ctx, e, ca.chain(1, e))
			return err
		})
		return points
	}
	initialize(e2ei.ErrNotReady)
	w.trust(ca, alice)
	if points := initialize(nil); !slices.Equal(points, []string{listURL}) {
		t.Errorf("distribution points %q", points)
	}
	initialize(client.ErrInitialized)
	id, err := alice.ClientID(t.Context())
	list := w.credentials(alice, client.CredentialFilter{})
	if err != nil || id != wireID(1).Core() || len(list) != 1 || list[0].Credential.Type != core.CredentialX509 {
		t.Errorf("%q with %+v, %v", id, list, err)
	}
	w.noKeyIsLeft(alice, tok)
	if n, err := alice.CountKeyPackages(t.Context(), suite2, core.CredentialX509); n != 3 || err != nil {
		t.Errorf("%d key packages, %v", n, err)
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite2, Credential: core.CredentialX509})
		return err
	})
	if state, err := alice.View(chat).E2EIState(t.Context()); err != nil || state != e2ei.Verified {
		t.Errorf("%v, %v", state, err)
	}
	e = w.enrol(alice, rotation, client.EnrollmentParams{Suite: suite2, Validity: time.Hour, Directory: p.Directory})
	if string(e.Config().RefreshToken.Bytes()) != "refresh" {
		t.Error("the refresh token was lost")
	}
}
