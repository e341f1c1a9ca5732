// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/storage/memory"
)

// enrolAlice is what the tests ask for; the names are those of wireCA.leaf.
var enrolAlice = client.EnrollmentParams{
	Suite: suite1, DisplayName: "Person alice_1", Handle: "alice_1", Team: "tea", Validity: time.Hour, Directory: "https://ca.example.com/directory",
}

// proceed takes an enrolment to a step, by the replies of a server to which all is well.
func (w *world) proceed(e *client.Enrollment, next e2ei.Step) {
	w.Helper()
	const ca = "https://ca.example.com"
	now := time.Now()
	cfg := e.Config()
	handle, err := e2ei.NewHandle(cfg.Handle, cfg.ClientID.Domain)
	w.must(err)
	encode := func(v any) string {
		text, err := json.Marshal(v)
		w.must(err)
		return string(text)
	}
	user := map[string]string{"handle": handle.URI(), "name": cfg.DisplayName, "domain": cfg.ClientID.Domain}
	userID := map[string]string{"type": "wireapp-user", "value": encode(user)}
	user["client-id"] = cfg.ClientID.URI()
	deviceID := map[string]string{"type": "wireapp-device", "value": encode(user)}
	expires := now.Add(time.Hour).Format(time.RFC3339)
	order := func(status string) []byte {
		return []byte(encode(map[string]any{
			"status": status, "expires": expires, "identifiers": []any{deviceID, userID}, "authorizations": []string{ca + "/authz/1", ca + "/authz/2"},
			"finalize": ca + "/finalize", "certificate": ca + "/certificate",
		}))
	}
	authz := func(id any, kind string) []byte {
		return []byte(encode(map[string]any{"status": "pending", "expires": expires, "identifier": id, "challenges": []any{map[string]string{
			"type": kind, "url": ca + "/challenge", "status": "pending", "token": "0123456789abcdefghijABCDEFGHIJ-_", "target": "https://backend.example.com/",
		}}}))
	}
	valid := func(kind string) []byte {
		return []byte(encode(map[string]string{"type": kind, "url": ca + "/challenge", "status": "valid", "token": "t"}))
	}
	for e.Next() != next {
		switch e.Next() {
		case e2ei.StepDirectory:
			err = e.DirectoryResponse([]byte(encode(map[string]string{"newNonce": ca + "/n", "newAccount": ca + "/a", "newOrder": ca + "/o", "revokeCert": ca + "/r"})))
		case e2ei.StepNewAccount:
			err = e.NewAccountResponse([]byte(`{"status":"valid","orders":"`+ca+`/account/1/orders"}`), "")
		case e2ei.StepNewOrder:
			err = e.NewOrderResponse(order("pending"), ca+"/order/1", now)
		case e2ei.StepDeviceAuthorization:
			err = e.AuthorizationResponse(ca+"/authz/1", authz(deviceID, "wire-dpop-01"), now)
		case e2ei.StepUserAuthorization:
			err = e.AuthorizationResponse(ca+"/authz/2", authz(userID, "wire-oidc-01"), now)
		case e2ei.StepDPoPChallenge:
			err = e.DPoPChallengeResponse(valid("wire-dpop-01"))
		case e2ei.StepOIDCChallenge:
			w.must(e.SetRefreshToken(core.NewSecret([]byte("refresh"))))
			err = e.OIDCChallengeResponse(valid("wire-oidc-01"))
		case e2ei.StepCheckOrder:
			err = e.CheckOrderResponse(order("ready"), now)
		case e2ei.StepFinalize:
			err = e.FinalizeResponse(order("valid"), now)
		default:
			w.Fatalf("%q comes before %q", e.Next(), next)
		}
		w.must(err)
	}
}

// chain is what the CA issues for an enrolment of the n-th device, in PEM.
func (c *wireCA) chain(n byte, e *client.Enrollment) []byte {
	c.Helper()
	return pemOf(c.leaf(wireID(n), e.Config().Handle, client.Credential{SignatureKey: e.Config().PublicKey}, time.Hour), c.ca)
}

// enrol begins an enrolment, of those three kinds.
func (w *world) enrol(d *clienttest.Device, begin func(*client.Transaction, context.Context, client.EnrollmentParams) (*client.Enrollment, error), p client.EnrollmentParams) (e *client.Enrollment) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		e, err = begin(tx, ctx, p)
		return err
	})
	return e
}

// newOf begins one of the n-th device.
func newOf(n byte) func(*client.Transaction, context.Context, client.EnrollmentParams) (*client.Enrollment, error) {
	return func(tx *client.Transaction, ctx context.Context, p client.EnrollmentParams) (*client.Enrollment, error) {
		return tx.NewEnrollment(ctx, wireID(n), p)
	}
}

var (
	activation = (*client.Transaction).NewActivationEnrollment
	rotation   = (*client.Transaction).NewRotateEnrollment
)

// enrolled finishes an enrolment of the n-th device.
func (w *world) enrolled(ca *wireCA, d *clienttest.Device, n byte, e *client.Enrollment) (own client.Credential) {
	w.Helper()
	w.proceed(e, e2ei.StepCertificate)
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		own, _, err = tx.SaveX509Credential(ctx, e, ca.chain(n, e))
		return err
	})
	return own
}

func (w *world) openEnrollments(d *clienttest.Device) int {
	w.Helper()
	open, err := d.Enrollments(w.Context())
	w.must(err)
	return len(open)
}

// A chain that is refused leaves everything as it was, and the enrolment goes on to the right
// one.
func TestEnrollmentTakesTheRightCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, other := newWireCA(t, "ours"), newWireCA(t, "other")
	ks := memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	e := w.enrol(alice, newOf(1), enrolAlice)
	w.proceed(e, e2ei.StepCertificate)
	basic, err := alice.ClientPublicKey(t.Context(), suite1, 0)
	w.must(err)
	leaf := func(n byte, handle string, key []byte, validity time.Duration) []byte {
		return pemOf(ca.leaf(wireID(n), handle, client.Credential{SignatureKey: key}, validity), ca.ca)
	}
	key := e.Config().PublicKey
	save := func(want error, chain []byte) {
		t.Helper()
		before := snapshot(t, ks)
		w.tries(alice, want, func(ctx context.Context, tx *client.Transaction) error {
			_, _, err := tx.SaveX509Credential(ctx, e, chain)
			if want != nil {
				w.must(tx.SetData(ctx, []byte("the transaction goes on")))
			}
			return err
		})
		if want != nil && !same(before, snapshot(t, ks)) {
			t.Errorf("%v, and something has changed", want)
		}
	}
	right := ca.chain(1, e)
	save(e2ei.ErrNotReady, right)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
	})
	save(e2ei.ErrWrongKey, leaf(1, "alice_1", basic, time.Hour))
	save(e2ei.ErrMismatch, leaf(2, "alice_1", key, time.Hour))
	save(e2ei.ErrMismatch, leaf(1, "alice_2", key, time.Hour))
	save(e2ei.ErrExpired, leaf(1, "alice_1", key, -time.Minute))
	save(e2ei.ErrNoPath, other.chain(1, e))
	save(e2ei.ErrNoPath, right[:bytes.LastIndex(right, []byte("-----BEGIN"))])
	save(core.ErrInvalid, []byte("no certificate"))
	save(nil, right)
	if _, err := e.Stash(); !errors.Is(err, core.ErrClosed) {
		t.Errorf("it was not wiped: %v", err)
	}
	save(client.ErrEnrollmentNotFound, right)
	if n := w.openEnrollments(alice); n != 0 {
		t.Errorf("%d are open", n)
	}
}

// Several X.509 credentials, of one scheme and of several, each with its key: the newest is
// the one that was saved last, also within a second.
func TestEnrollmentsSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	p256 := enrolAlice
	p256.Suite = suite2
	one, two, three := w.enrol(alice, newOf(1), enrolAlice), w.enrol(alice, newOf(1), enrolAlice), w.enrol(alice, newOf(1), p256)
	four := w.enrol(alice, activation, enrolAlice)
	var list []client.Credential
	for _, e := range []*client.Enrollment{two, three, one, four} {
		own := w.enrolled(ca, alice, 1, e)
		list = append(list, own)
		if !bytes.Equal(own.SignatureKey, e.Config().PublicKey) {
			t.Error("another key")
		}
		suite := core.SuiteID(suite1)
		if e == three {
			suite = suite2
		}
		if key, err := alice.ClientPublicKey(t.Context(), suite, core.CredentialX509); err != nil || !bytes.Equal(key, own.SignatureKey) {
			t.Errorf("the newest is %x, %v, want %x", key, err, own.SignatureKey)
		}
	}
	w.must(alice.Close(t.Context()))
	alice = clienttest.NewDevice(t, w.service, wireID(1).Core(), ks, config())
	for _, own := range list { // each signs with its own key
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			suite := core.SuiteID(suite1)
			if len(own.SignatureKey) != 32 {
				suite = suite2
			}
			_, err := tx.MakeKeyPackages(ctx, client.KeyPackageOptions{Suite: suite, CredentialRef: own.Ref}, 1)
			return err
		})
	}
	// They rotate from the newest, one after the other.
	for range 2 {
		e := w.enrol(alice, rotation, client.EnrollmentParams{Suite: suite1, Validity: time.Hour, Directory: enrolAlice.Directory})
		if own := w.enrolled(ca, alice, 1, e); !bytes.Equal(own.SignatureKey, list[3].SignatureKey) || own.Ref <= list[3].Ref {
			t.Errorf("rotated to %+v", own)
		}
	}
}

// A transaction that is run again, over a conflict, finds the enrolment as it was.
func TestEnrollmentOverAConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	other := clienttest.NewDevice(t, w.service, wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	e := w.enrol(alice, newOf(1), enrolAlice)
	w.proceed(e, e2ei.StepCertificate)
	again := func(f func(ctx context.Context, tx *client.Transaction) error) {
		t.Helper()
		tries := 0
		w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
			if _, _, err := tx.Data(ctx); err != nil {
				return err
			}
			if tries++; tries == 1 {
				w.do(other, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, client.RandomBytes(8)) })
			}
			return f(ctx, tx)
		})
		if tries != 2 {
			t.Errorf("%d tries", tries)
		}
	}
	var h client.EnrollmentHandle
	again(func(ctx context.Context, tx *client.Transaction) (err error) {
		h, err = tx.StashEnrollment(ctx, e)
		return err
	})
	again(func(ctx context.Context, tx *client.Transaction) (err error) {
		e, err = tx.PopEnrollment(ctx, h)
		return err
	})
	again(func(ctx context.Context, tx *client.Transaction) error {
		_, _, err := tx.SaveX509Credential(ctx, e, ca.chain(1, e))
		return err
	})
	if n := len(w.credentials(alice, client.CredentialFilter{Type: core.CredentialX509})); n != 1 {
		t.Errorf("%d credentials", n)
	}
}

// TestEnrollmentOutsideTheStore: whatever fails, and wherever the process ends, the token
// holds the keys of credentials and of enrolments that are listed, and no other.
func TestEnrollmentOutsideTheStore(t *testing.T) {
	t.Parallel()
	ca := newWireCA(t, "ours")
	reached := 0
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate} {
		for n := 1; n < 10; n++ {
			for _, dies := range []bool{false, true} {
				tok, store := newToken(), memory.New()
				cfg := config()
				cfg.Keys = tok
				w := newWorld(t, clienttest.Options{})
				dead := new(bool)
				faulty := &coretest.Faulty{Keystore: store}
				alice := clienttest.NewDevice(t, w.service, wireID(1).Core(), grave{faulty, dead}, cfg)
				w.trust(ca, alice)
				ran := faulty.Applies()
				faulty.Plan = func(i int, _ core.Batch) coretest.Fault {
					if i != ran+n {
						return coretest.FaultNone
					}
					*dead = dies
					return fault
				}
				var e *client.Enrollment
				var h client.EnrollmentHandle
				in := func(f func(ctx context.Context, tx *client.Transaction) error) error {
					return alice.Transaction(t.Context(), f)
				}
				begin := func(ctx context.Context, tx *client.Transaction) (err error) {
					e, err = tx.NewEnrollment(ctx, wireID(1), enrolAlice)
					return err
				}
				_ = in(func(ctx context.Context, tx *client.Transaction) error { return errors.Join(begin(ctx, tx), errAbort) })
				_ = in(func(ctx context.Context, tx *client.Transaction) error {
					if err := begin(ctx, tx); err != nil {
						return err
					}
					return tx.DropEnrollment(ctx, e.Handle())
				})
				if in(begin) == nil {
					w.proceed(e, e2ei.StepCertificate)
					_ = in(func(ctx context.Context, tx *client.Transaction) (err error) {
						h, err = tx.StashEnrollment(ctx, e)
						return err
					})
					_ = in(func(ctx context.Context, tx *client.Transaction) error {
						e, err := tx.PopEnrollment(ctx, h)
						if err != nil {
							return err
						}
						_, err = tx.InitMLSWithEnrollment(ctx, e, ca.chain(1, e))
						return err
					})
				}
				faulty.Land(t.Context())

				alice = clienttest.NewDevice(t, w.service, wireID(1).Core(), store, cfg)
				open, err := alice.Enrollments(t.Context())
				w.must(err)
				own := len(w.credentials(alice, client.CredentialFilter{}))
				if tok.count() != len(open)+own {
					t.Fatalf("%v at %d: the token holds %d keys; %d enrolments, %d credentials", fault, n, tok.count(), len(open), own)
				}
				for _, h := range open {
					w.drop(alice, nil, h)
				}
				w.noKeyIsLeft(alice, tok)
				reached += own
			}
		}
	}
	if reached == 0 {
		t.Error("no enrolment has come to its end")
	}
}

// The key of a credential stays for an enrolment that began with it, and is not dropped with
// that while the credential has it.
func TestEnrollmentKeepsTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, tok, ks := newWireCA(t, "ours"), newToken(), memory.New()
	cfg := config()
	cfg.Keys = tok
	alice := w.deviceOn(wireID(1).Core(), ks, cfg)
	w.trust(ca, alice)
	w.drop(alice, nil, w.enrol(alice, activation, enrolAlice).Handle())
	w.noKeyIsLeft(alice, tok)
	one, two := w.enrol(alice, activation, enrolAlice), w.enrol(alice, activation, enrolAlice)
	w.remove(alice, nil, 1)
	w.drop(alice, nil, one.Handle())
	own := w.enrolled(ca, alice, 1, two)
	w.noKeyIsLeft(alice, tok)
	w.remove(alice, nil, own.Ref)
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
	// Another process takes the credential away while an enrolment begins with it.
	w.fresh(alice)
	other := clienttest.NewDevice(t, w.service, wireID(1).Core(), ks, cfg)
	tx, err := other.Begin(t.Context())
	w.must(err)
	w.must(tx.RemoveCredential(t.Context(), own.Ref+1))
	e := w.enrol(alice, activation, enrolAlice)
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the key of an enrolment was removed: %v", err)
	}
	w.remove(alice, nil, own.Ref+1)
	w.enrolled(ca, alice, 1, e)
	w.noKeyIsLeft(alice, tok)
}

// An enrolment is in one place at a time.
func TestEnrollmentIsTakenUpOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, ks := newWireCA(t, "ours"), memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	other := clienttest.NewDevice(t, w.service, wireID(1).Core(), ks, config())
	w.trust(ca, alice)
	first := w.enrol(alice, newOf(1), enrolAlice)
	w.proceed(first, e2ei.StepCertificate)
	w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) error { // the stash comes to nothing
		_, err := tx.StashEnrollment(ctx, first)
		return errors.Join(err, errAbort)
	})
	h := w.stash(alice, first)
	var lost *client.Enrollment
	w.try(alice, errAbort, func(ctx context.Context, tx *client.Transaction) (err error) {
		lost, err = tx.PopEnrollment(ctx, h)
		return errors.Join(err, errAbort)
	})
	tx, err := other.Begin(t.Context())
	w.must(err)
	_, err = tx.PopEnrollment(t.Context(), h)
	w.must(err)
	second := w.pop(alice, h)
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("two have it: %v", err)
	}
	for _, e := range []*client.Enrollment{first, lost} {
		for _, f := range []func(ctx context.Context, tx *client.Transaction) error{
			func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.StashEnrollment(ctx, e)
				return err
			},
			func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.SignEnrollment(ctx, e)
				return err
			},
			func(ctx context.Context, tx *client.Transaction) error {
				_, _, err := tx.SaveX509Credential(ctx, e, ca.chain(1, second))
				return err
			},
			func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.PopEnrollment(ctx, h)
				return err
			},
		} {
			w.tries(alice, client.ErrEnrollmentNotFound, f)
		}
	}
	if _, err := alice.Issue(t.Context(), h, &scripted{}, nil); !errors.Is(err, client.ErrEnrollmentNotFound) {
		t.Errorf("driven: %v", err)
	}
	issue := w.begin(alice, client.IssueParams{})
	w.tries(alice, client.ErrEnrollmentNotFound, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.PopEnrollment(ctx, issue)
		return err
	})
	if open, err := alice.Enrollments(t.Context()); err != nil || !slices.Equal(open, []client.EnrollmentHandle{h}) {
		t.Errorf("%v, %v", open, err)
	}
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		open, err := tx.OpenIssues(ctx)
		if len(open) != 1 || open[0].Handle != issue {
			t.Errorf("%+v", open)
		}
		return err
	})
}

func (w *world) stash(d *clienttest.Device, e *client.Enrollment) (h client.EnrollmentHandle) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		h, err = tx.StashEnrollment(ctx, e)
		return err
	})
	return h
}

func (w *world) pop(d *clienttest.Device, h client.EnrollmentHandle) (e *client.Enrollment) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		e, err = tx.PopEnrollment(ctx, h)
		return err
	})
	return e
}
