// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/localca"
	"github.com/conclave-mls/conclave/storage/memory"
)

// authority is a CA with its certificate in PEM.
func authority(t *testing.T) (issuer core.CredentialIssuer, root []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	must(t, err)
	issuer, err = localca.New(t.Context(), localca.Config{Certificates: der, Key: func(context.Context) (crypto.Signer, error) { return key, nil }})
	must(t, err)
	return issuer, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// certifiable is somebody whose issuer is the CA.
func certifiable(t *testing.T, address string, name core.ClientID, issuer core.CredentialIssuer) *person {
	t.Helper()
	return arriveWith(t, address, name, memory.New(), client.Refuse, issuer)
}

func (p *person) trust(root []byte) {
	p.t.Helper()
	must(p.t, p.client.Transaction(p.t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, root)
	}))
}

// packages counts the key packages that are kept, by credential.
func (p *person) packages() map[client.CredentialRef]int {
	p.t.Helper()
	count := map[client.CredentialRef]int{}
	must(p.t, p.client.Transaction(p.t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		clear(count)
		list, err := tx.StoredKeyPackages(ctx)
		for _, k := range list {
			count[k.Credential]++
		}
		return err
	}))
	return count
}

// Whose issuer certifies begins with a certificate, once there is a trust anchor.
func TestRegisterWithCertificate(t *testing.T) {
	bob := people(t, "bob")[0]
	issuer, root := authority(t)
	alice := certifiable(t, bob.address, "alice", issuer)
	if err := alice.Register(t.Context(), "alice"); !errors.Is(err, e2ei.ErrNotReady) {
		t.Errorf("without a trust anchor: %v", err)
	}
	if _, err := alice.ID(t.Context()); !errors.Is(err, client.ErrNotInitialized) {
		t.Errorf("an identity all the same: %v", err)
	}
	alice.trust(root)
	must(t, alice.Register(t.Context(), "alice"))
	must(t, alice.Register(t.Context(), "alice"))
	if open, err := alice.Open(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("open: %v, %v", open, err)
	}
	// The key packages at the service have it: bob, who trusts nobody, adds her.
	id := conversation(t, "friends", []*person{bob, alice})
	agree(t, id, bob, alice)
	v, err := alice.Verify(t.Context(), "friends")
	if err != nil || v.State != e2ei.NotVerified || !v.Trusting || len(v.Members) != 2 || v.Members[0].X509 != nil || v.Members[1].X509 == nil {
		t.Errorf("verdict %+v, %v", v, err)
	}
	if v, err := bob.Verify(t.Context(), "friends"); err != nil || v.Trusting {
		t.Errorf("bob's verdict %+v, %v", v, err)
	}
	if _, err := alice.Rotate(t.Context()); !errors.Is(err, messenger.ErrCertified) {
		t.Errorf("a fresh key: %v", err)
	}
	if _, err := bob.Enroll(t.Context(), client.IssueParams{}, nil); !errors.Is(err, messenger.ErrNobody) {
		t.Errorf("the issuer of basic credentials: %v", err)
	}
	if _, err := alice.Create(t.Context(), "own"); err != nil {
		t.Fatal(err)
	}
	if v, err := alice.Verify(t.Context(), "own"); err != nil || v.State != e2ei.Verified {
		t.Errorf("her own: %+v, %v", v, err)
	}
	carol := certifiable(t, bob.address, "carol", issuer)
	carol.trust(root)
	must(t, carol.Register(t.Context(), "carol"))
	must(t, carol.Join(t.Context(), core.ConversationID(id)))
	if v, err := carol.Verify(t.Context(), "friends"); err != nil || len(v.Members) != 3 || v.Members[2].X509 == nil {
		t.Errorf("joined: %+v, %v", v, err)
	}
	// By an external commit she comes back with her certificate.
	must(t, alice.Rejoin(t.Context(), "friends"))
	if v, err := alice.Verify(t.Context(), "friends"); err != nil || v.Members[1].X509 == nil {
		t.Errorf("rejoined: %+v, %v", v, err)
	}
}

// Who has a certificate later takes it into use everywhere. What fails does not stop the
// rest, and is done the next time.
func TestAdopt(t *testing.T) {
	bob := people(t, "bob")[0]
	issuer, root := authority(t)
	alice := certifiable(t, bob.address, "alice", issuer)
	must(t, alice.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, "alice", 1) }))
	must(t, alice.Register(t.Context(), "alice"))
	first := conversation(t, "first", []*person{alice, bob})
	second := conversation(t, "second", []*person{alice, bob})
	if _, err := bob.Create(t.Context(), "waiting"); err != nil {
		t.Fatal(err)
	}
	must(t, bob.Add(t.Context(), "waiting", "alice"))
	alice.trust(root)
	got, err := alice.Enroll(t.Context(), client.IssueParams{}, nil)
	must(t, err)

	must(t, alice.Rejoin(t.Context(), "first"))
	if own, err := alice.client.Credential(t.Context(), core.ConversationID(first)); err != nil || own.Ref != got.Ref {
		t.Errorf("rejoined with %+v, %v", own, err)
	}
	commits := 0
	late := sync.OnceFunc(func() {
		if _, err := bob.Create(t.Context(), "late"); err != nil {
			t.Error(err)
		}
		if err := bob.Add(t.Context(), "late", "alice"); err != nil {
			t.Error(err)
		}
	})
	alice.network.set(func(r *http.Request) error { // all but the first commit are lost
		if r.Method == http.MethodPost && r.URL.Path == "/v1/commits" {
			if commits++; commits > 1 {
				return errNetwork
			}
		}
		if r.Method == http.MethodPost && r.URL.Path == "/v1/key-packages" { // somebody has one of the old ones
			late()
		}
		return nil
	}, nil)
	done, err := alice.Adopt(t.Context())
	must(t, err)
	if len(done) != 3 || done[0].Err != nil || done[1].Err == nil || done[2].Err == nil {
		t.Fatalf("adopted: %+v", done)
	}
	if count := alice.packages(); len(count) != 1 || count[got.Ref] != 21 {
		t.Errorf("key packages by credential: %v, want 21 of %d", count, got.Ref)
	}
	alice.network.set(nil, nil)
	done, err = alice.Adopt(t.Context())
	if err != nil || len(done) != 2 || done[0].Err != nil || done[1].Err != nil || done[0].Epoch != 2 || done[1].Epoch != 2 {
		t.Errorf("again: %+v, %v", done, err)
	}
	if done, err := alice.Adopt(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("a third time: %+v, %v", done, err)
	}
	// A newer basic credential is not what is used, and goes.
	must(t, alice.client.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewCredential(ctx, 1)
		return err
	}))
	if done, err := alice.Adopt(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("a basic one: %+v, %v", done, err)
	}
	own, err := alice.client.Credentials(t.Context(), client.CredentialFilter{})
	if err != nil || len(own) != 1 || own[0].Ref != got.Ref {
		t.Errorf("credentials %v, %v", own, err)
	}
	agree(t, first, alice, bob)
	agree(t, second, alice, bob)

	// Renewed, the key is the same, and the old certificate can still be revoked.
	renewed, err := alice.Enroll(t.Context(), client.IssueParams{Action: core.ActionRenew, Credential: got.Ref}, nil)
	must(t, err)
	done, err = alice.Adopt(t.Context())
	if err != nil || len(done) != 4 || string(renewed.SignatureKey) != string(got.SignatureKey) {
		t.Errorf("renewed: %+v, %v", done, err)
	}
	if _, err := alice.Enroll(t.Context(), client.IssueParams{Action: core.ActionRenew, Credential: got.Ref}, nil); !errors.Is(err, messenger.ErrReplaced) {
		t.Errorf("what was replaced is renewed: %v", err)
	}
	if open, err := alice.Open(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("open: %+v, %v", open, err)
	}
	list, err := alice.Certificates(t.Context())
	if err != nil || len(list) != 2 || list[0].Newest || !list[1].Newest || list[1].Ref != renewed.Ref || list[1].Identity.ClientID != "alice" {
		t.Errorf("certificates %+v, %v", list, err)
	}
	// One for another signature scheme stands beside it, for conversations of that.
	another, err := alice.Enroll(t.Context(), client.IssueParams{Suite: core.SuiteP256AES128P256}, nil)
	must(t, err)
	again, err := alice.Enroll(t.Context(), client.IssueParams{Action: core.ActionRenew, Credential: another.Ref}, nil)
	if err != nil || again.Scheme != another.Scheme || another.Scheme == got.Scheme {
		t.Errorf("of another scheme: %+v, %+v, %v", another, again, err)
	}
	if done, err := alice.Adopt(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("of another scheme: %+v, %v", done, err)
	}
	all, err := alice.Certificates(t.Context())
	if err != nil || len(all) != 4 || !all[1].Newest || all[2].Newest || !all[3].Newest {
		t.Errorf("certificates of two schemes %+v, %v", all, err)
	}
	// When it is due differs from certificate to certificate, within bounds.
	end := list[1].NotAfter()
	for _, c := range list {
		if due := c.Due(48 * time.Hour); due.Before(c.NotAfter().Add(-48*time.Hour)) || due.After(c.NotAfter().Add(-24*time.Hour)) {
			t.Errorf("due %v, valid to %v", due, c.NotAfter())
		}
	}
	if list[0].Due(time.Hour).Sub(list[0].NotAfter()) == list[1].Due(time.Hour).Sub(end) {
		t.Error("both are due at once")
	}
	if due := list[1].Due(0); end.Sub(due) > 31*24*time.Hour || end.Sub(due) < 14*24*time.Hour { // of 90 days
		t.Errorf("due %v before the end by default", end.Sub(due))
	}
}

// What waits for a person stays open, with the names that it was for.
func TestEnrollOpen(t *testing.T) {
	bob := people(t, "bob")[0]
	issuer, root := authority(t)
	ask := &asking{CredentialIssuer: issuer}
	alice := certifiable(t, bob.address, "alice", ask)
	alice.trust(root)
	if err := alice.Register(t.Context(), "alice"); !errors.Is(err, messenger.ErrPerson) {
		t.Errorf("nobody answers: %v", err)
	}
	if _, err := alice.Enroll(t.Context(), client.IssueParams{ClientID: "alice", Handle: "other"}, nil); !errors.Is(err, messenger.ErrOpen) {
		t.Errorf("other names: %v", err)
	}
	open, err := alice.Open(t.Context())
	if err != nil || len(open) != 1 || open[0].Need.Show == nil {
		t.Fatalf("open: %+v, %v", open, err)
	}
	got, err := alice.Resume(t.Context(), open[0], func(_ context.Context, need core.Need) (core.Input, error) {
		return core.Input{File: []byte("yes")}, nil
	})
	if err != nil || got.Ref == 0 {
		t.Errorf("%+v, %v", got, err)
	}
	must(t, alice.Register(t.Context(), "alice"))
	if _, err := alice.Enroll(t.Context(), client.IssueParams{}, nil); !errors.Is(err, messenger.ErrPerson) {
		t.Errorf("nobody answers: %v", err)
	}
	if _, err := alice.Enroll(t.Context(), client.IssueParams{Suite: core.SuiteP256AES128P256}, nil); !errors.Is(err, messenger.ErrPerson) {
		t.Errorf("nobody answers: %v", err)
	}
	if n, err := alice.Drop(t.Context()); err != nil || n != 2 {
		t.Errorf("dropped %d, %v", n, err)
	}
	if n, err := alice.Drop(t.Context()); err != nil || n != 0 {
		t.Errorf("dropped %d more, %v", n, err)
	}
	if _, err := alice.Enroll(t.Context(), client.IssueParams{Action: core.ActionRevoke, Credential: got.Ref}, nil); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("revoked: %v", err)
	}
	if open, err := alice.Open(t.Context()); err != nil || len(open) > 0 {
		t.Errorf("open: %+v, %v", open, err)
	}
	if _, err := alice.Resume(t.Context(), client.OpenIssue{IssueParams: client.IssueParams{Issuer: "another"}}, nil); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("of another issuer: %v", err)
	}
}

// An asking issuer shows something before it begins.
type asking struct{ core.CredentialIssuer }

func (a *asking) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	step, err := a.CredentialIssuer.Begin(ctx, req)
	if err != nil {
		return step, err
	}
	message := step.Need.Sign.Message
	return core.Step{State: append([]byte{byte(len(message) >> 8), byte(len(message))}, append(message, step.State...)...), Need: core.Need{Show: &core.ShowNeed{Text: "well?"}}}, nil
}

func (a *asking) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	n := int(state[0])<<8 | int(state[1])
	if in.File != nil {
		return core.Step{State: state, Need: core.Need{Sign: &core.SignNeed{Message: state[2 : 2+n]}}}, nil
	}
	return a.CredentialIssuer.Advance(ctx, state[2+n:], in)
}

// Two processes that adopt at once, as two runs of cron, leave key packages at the service that
// are kept here.
func TestAdoptAtOnce(t *testing.T) {
	bob := people(t, "bob")[0]
	issuer, root := authority(t)
	alice := certifiable(t, bob.address, "alice", issuer)
	alice.trust(root)
	must(t, alice.Register(t.Context(), "alice"))
	_, err := alice.Enroll(t.Context(), client.IssueParams{}, nil)
	must(t, err)
	alice.network.set(func(r *http.Request) error { // the other process is faster
		if r.Method == http.MethodPost && r.URL.Path == "/v1/key-packages" {
			alice.network.set(nil, nil)
			if _, err := alice.Adopt(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return nil
	}, nil)
	_, err = alice.Adopt(t.Context())
	must(t, err)
	id := conversation(t, "friends", []*person{bob, alice})
	agree(t, id, bob, alice)
}
