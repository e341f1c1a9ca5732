// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/providers/acme"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A town is people with certificates of a real CA.
type town struct {
	*world
	peer *e2eitest.Peer
}

// A resident has a device, whose clock may be wrong.
type resident struct {
	*clienttest.Device
	who   e2eitest.Person
	ahead time.Duration
}

func newTown(t *testing.T) *town {
	t.Parallel()
	return &town{newWorld(t, clienttest.Options{}), e2eitest.Start(t)}
}

// resident makes somebody who trusts the CA, and has no identity yet.
func (w *town) resident() *resident {
	w.Helper()
	r := &resident{who: w.peer.Person(w)}
	cfg := config()
	cfg.Clock = func() time.Time { return time.Now().Add(r.ahead) }
	r.Device = clienttest.NewDevice(w, w.service, r.who.ClientID.Core(), memory.New(), cfg)
	w.devices = append(w.devices, r.Device)
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, []byte(w.peer.RootPEM))
	})
	return r
}

func (w *town) issuer(change func(*acme.Config)) *acme.Issuer {
	w.Helper()
	cfg := acme.Config{Directory: w.peer.Directory, RedirectURI: "http://127.0.0.1:1/callback", HTTP: w.peer.HTTP, AllowHTTP: true}
	if change != nil {
		change(&cfg)
	}
	issuer, err := acme.New(cfg)
	w.must(err)
	return issuer
}

func (w *town) begin(r *resident, p client.IssueParams) client.EnrollmentHandle {
	w.Helper()
	p.Suite, p.ClientID, p.Handle, p.DisplayName = suite1, r.who.ClientID.Core(), r.who.Handle, r.who.DisplayName
	return w.world.begin(r.Device, p)
}

// issue ends well; then the lists that are new are fetched.
func (w *town) issue(r *resident, p client.IssueParams, issuer core.CredentialIssuer) client.Credential {
	w.Helper()
	return w.goOn(r, w.begin(r, p), issuer)
}

func (w *town) goOn(r *resident, h client.EnrollmentHandle, issuer core.CredentialIssuer) client.Credential {
	w.Helper()
	done, err := r.Issue(w.Context(), h, issuer, w.peer.Answer(r.who))
	w.must(err)
	for _, url := range done.DistributionPoints {
		if url != w.peer.CRL {
			w.Errorf("distribution point %q", url)
		}
		w.list(r)
	}
	return done.Credential
}

// list registers the revocation list as it is now.
func (w *town) list(r *resident) (done e2ei.CRLRegistration) {
	w.Helper()
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) (err error) {
		done, err = tx.RegisterCRL(ctx, w.peer.CRL, w.peer.FetchCRL(w))
		return err
	})
	return done
}

// refused asks for an issue that fails so, changes nothing, and stays open.
func (w *town) refused(r *resident, h client.EnrollmentHandle, issuer core.CredentialIssuer, want error) {
	w.Helper()
	before, err := r.Environment(w.Context())
	w.must(err)
	if _, err := r.Issue(w.Context(), h, issuer, w.peer.Answer(r.who)); !errors.Is(err, want) {
		w.Errorf("got %v, want %v", err, want)
	}
	after, err := r.Environment(w.Context())
	w.must(err)
	if before != after {
		w.Error("the PKI environment has changed")
	}
	if _, err := r.ClientID(w.Context()); !errors.Is(err, client.ErrNotInitialized) {
		w.Errorf("the client has an identity: %v", err)
	}
	if open := w.openIssues(r.Device); len(open) != 1 {
		w.Errorf("open: %+v", open)
	}
}

// chat is a conversation of residents, the first of whom makes it.
func (w *town) chat(first *resident, others ...*resident) {
	w.Helper()
	w.do(first.Device, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1, Credential: core.CredentialX509, Group: w.policy})
		return err
	})
	for _, r := range others {
		w.must(w.admit(first, r))
		w.catchUp()
	}
}

func (w *town) admit(by, r *resident) error {
	w.Helper()
	var packages [][]byte
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) error {
		k, err := tx.NewKeyPackages(ctx, suite1, core.CredentialX509, 1)
		if err == nil {
			packages = append(packages, k[0].Message)
		}
		return err
	})
	return in(w.Context(), by.Device, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, packages...)
		return err
	})
}

func (w *town) rotate(r *resident) {
	w.Helper()
	w.in(r.Device, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.Rotate(ctx, core.CredentialX509)
		return err
	})
	w.catchUp()
}

// sees checks what somebody sees: the state, also before joining, and how each of the others
// stands.
func (w *town) sees(r *resident, want e2ei.ConversationState, others map[*resident]e2ei.DeviceStatus) {
	w.Helper()
	if state, err := r.View(chat).E2EIState(w.Context()); err != nil || state != want {
		w.Errorf("%v, %v, want %v", state, err, want)
	}
	if state, err := r.GroupInfoState(w.Context(), w.groupInfo(r.Device), nil); err != nil || state != want {
		w.Errorf("before joining: %v, %v, want %v", state, err, want)
	}
	for other, status := range others {
		id := other.who.ClientID
		list, err := r.View(chat).DeviceIdentities(w.Context(), id.Core())
		if err != nil || len(list) != 1 || list[0].X509 == nil {
			w.Fatalf("%+v, %v", list, err)
		}
		x := list[0].X509
		if list[0].Status != status || list[0].ClientID != id.String() || x.ClientID != id || x.Handle.Name() != other.who.Handle ||
			x.DisplayName != other.who.DisplayName || x.Domain != w.peer.Domain || list[0].Thumbprint == "" {
			w.Errorf("%+v, want %v", list[0], status)
		}
	}
}

// Two people enrol, meet, and see each other verified. One is revoked, which both see once they
// have the list; with another certificate all is well again.
func TestVerifiedByRealCA(t *testing.T) {
	w := newTown(t)
	alice, bob := w.resident(), w.resident()
	issuer := w.issuer(nil)
	w.issue(alice, client.IssueParams{}, issuer)
	first := w.issue(bob, client.IssueParams{}, issuer)
	w.chat(alice, bob)
	everybody := map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusValid}
	w.sees(alice, e2ei.Verified, everybody)
	w.sees(bob, e2ei.Verified, everybody)

	if own := w.issue(bob, client.IssueParams{Action: core.ActionRevoke, Credential: first.Ref}, issuer); own.Ref != first.Ref {
		t.Errorf("revoked %v, want %v", own.Ref, first.Ref)
	}
	w.sees(alice, e2ei.Verified, everybody) // who has not heard of it
	revoked := map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusRevoked}
	for _, r := range []*resident{alice, bob} {
		if done := w.list(r); !done.Dirty || done.Expiration.Before(time.Now()) {
			t.Errorf("the list: %+v", done)
		}
		w.sees(r, e2ei.NotVerified, revoked)
	}
	w.send(bob.Device, "still a member") // MLS goes on
	w.reads(alice.Device, "still a member")

	second := w.issue(bob, client.IssueParams{}, issuer)
	if string(second.SignatureKey) == string(first.SignatureKey) {
		t.Error("the key is the revoked one")
	}
	w.sees(alice, e2ei.NotVerified, revoked) // until it is taken into use
	w.rotate(bob)
	w.sees(alice, e2ei.Verified, everybody)
	w.sees(bob, e2ei.Verified, everybody)
	w.agree(alice.Device, bob.Device)
}

// A certificate that expires degrades the conversation and nothing else, until it is renewed.
func TestExpiredOfRealCA(t *testing.T) {
	w := newTown(t)
	alice, bob, carol := w.resident(), w.resident(), w.resident()
	issuer := w.issuer(nil)
	w.issue(alice, client.IssueParams{}, issuer)
	short := w.issuer(func(cfg *acme.Config) { cfg.Validity = time.Hour })
	own := w.issue(bob, client.IssueParams{}, short)
	w.issue(carol, client.IssueParams{}, short)
	w.chat(alice, bob)
	everybody := map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusValid}
	w.sees(alice, e2ei.Verified, everybody)
	alice.ahead, bob.ahead = 2*time.Hour, 2*time.Hour
	expired := map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusExpired}
	w.sees(alice, e2ei.NotVerified, expired)
	w.sees(bob, e2ei.NotVerified, expired)
	w.send(bob.Device, "still a member")
	w.reads(alice.Device, "still a member")

	renewed := w.issue(bob, client.IssueParams{Action: core.ActionRenew, Credential: own.Ref}, issuer)
	if string(renewed.SignatureKey) != string(own.SignatureKey) {
		t.Error("the renewal is of another key")
	}
	w.rotate(bob)
	w.sees(alice, e2ei.Verified, everybody)
	w.sees(bob, e2ei.Verified, everybody)

	w.must(w.admit(alice, carol)) // MLS takes who has expired
	w.catchUp()
	w.sees(alice, e2ei.NotVerified, map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusValid, carol: e2ei.StatusExpired})
}

// A certificate that is valid later is not taken now, not by its owner and not by others. An ID
// token is good for five minutes.
func TestNotYetValidOfRealCA(t *testing.T) {
	w := newTown(t)
	alice, bob := w.resident(), w.resident()
	w.issue(alice, client.IssueParams{}, w.issuer(nil))
	w.chat(alice)
	early := w.issuer(func(cfg *acme.Config) { cfg.Clock = func() time.Time { return time.Now().Add(4 * time.Minute) } })
	h := w.begin(bob, client.IssueParams{})
	w.refused(bob, h, early, e2ei.ErrNotYetValid)

	bob.ahead = time.Hour
	w.goOn(bob, h, early)
	if err := w.admit(alice, bob); !errors.Is(err, e2ei.ErrNotYetValid) || !errors.Is(err, core.ErrDenied) {
		t.Errorf("got %v, want a certificate that is not yet valid", err)
	}
	alice.ahead = time.Hour
	w.must(w.admit(alice, bob))
	w.catchUp()
	w.sees(alice, e2ei.Verified, map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid, bob: e2ei.StatusValid})
	alice.ahead = 0 // a clock that is put back
	w.sees(alice, e2ei.NotVerified, map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid})
}

// A liar asks the real CA for something else, or hands something else on.
type liar struct {
	core.CredentialIssuer
	ask  func(*core.IssueRequest)
	hand func(*core.Issued)
}

func (l liar) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	if l.ask != nil {
		l.ask(&req)
	}
	return l.lie(l.CredentialIssuer.Begin(ctx, req))
}

func (l liar) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	return l.lie(l.CredentialIssuer.Advance(ctx, state, in))
}

func (l liar) lie(s core.Step, err error) (core.Step, error) {
	if l.hand != nil && s.Need.Done != nil {
		l.hand(s.Need.Done)
	}
	return s, err
}

// What an issuer hands on that is not what was asked for is refused; who is honest then goes
// on with the same issue.
func TestLyingIssuerOfRealCA(t *testing.T) {
	w := newTown(t)
	mallory, other := w.resident(), newWireCA(t, "other")
	w.issue(mallory, client.IssueParams{}, w.issuer(nil))
	foreign, err := mallory.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	for name, c := range map[string]struct {
		liar liar
		want error
	}{
		"another intermediate": {liar{hand: func(i *core.Issued) { i.Credential.Certificates[1] = other.ca.Raw }}, e2ei.ErrNoPath},
		"no intermediate":      {liar{hand: func(i *core.Issued) { i.Credential.Certificates = i.Credential.Certificates[:1] }}, e2ei.ErrNoPath},
		"the chain of another": {liar{hand: func(i *core.Issued) { i.Credential = foreign[0].Credential }}, e2ei.ErrWrongKey},
		"a basic credential": {liar{hand: func(i *core.Issued) {
			i.Credential = core.Credential{Type: core.CredentialBasic, Identity: []byte("x")}
		}}, client.ErrWrongCredential},
	} {
		t.Run(name, func(t *testing.T) {
			w := &town{&world{TB: t, service: w.service, policy: w.policy}, w.peer}
			bob := w.resident()
			h := w.begin(bob, client.IssueParams{})
			c.liar.CredentialIssuer = w.issuer(nil)
			w.refused(bob, h, c.liar, c.want)
			w.goOn(bob, h, c.liar.CredentialIssuer)
		})
	}
}

// A certificate of our key with the names of somebody else is not ours.
func TestOtherNamesOfRealCA(t *testing.T) {
	w := newTown(t)
	bob := w.resident()
	mallory := w.peer.Person(t)
	h := w.begin(bob, client.IssueParams{})
	bob.who = mallory // who logs in
	w.refused(bob, h, liar{CredentialIssuer: w.issuer(nil), ask: func(req *core.IssueRequest) {
		req.ClientID, req.Handle = mallory.ClientID.Core(), mallory.Handle
	}}, client.ErrWrongCredential)
}

// A list is believed of who issued the certificates that it revokes, and of nobody else.
func TestListOfAnotherCA(t *testing.T) {
	w := newTown(t)
	alice, other := w.resident(), newWireCA(t, "other")
	w.issue(alice, client.IssueParams{}, w.issuer(nil))
	w.chat(alice)
	own, err := alice.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	leaf, err := x509.ParseCertificate(own[0].Credential.Certificates[0])
	w.must(err)
	real, err := x509.ParseCertificate(own[0].Credential.Certificates[1])
	w.must(err)
	forged := [][]byte{other.list(1, leaf)}
	other.ca = real // in whose name the other one signs
	forged = append(forged, other.list(2, leaf))
	for _, list := range forged {
		w.tries(alice.Device, e2ei.ErrCRLSignature, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.RegisterCRL(ctx, w.peer.CRL, list)
			return err
		})
	}
	w.tries(alice.Device, e2ei.ErrCRL, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.RegisterCRL(ctx, "http://elsewhere.example/crl", w.peer.FetchCRL(t))
		return err
	})
	w.sees(alice, e2ei.Verified, map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid})
}
