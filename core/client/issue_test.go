// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/basic"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A scripted issuer has one need after the other, and then issues. Its state says which need
// is next and for whom.
type scripted struct {
	needs []core.Need
	issue func(req core.IssueRequest) core.Need // nil: a certificate that certified takes

	begun   []core.IssueRequest
	carry   []byte // of the last of them
	answers []core.Input
	before  func(n int) // called before the n-th step
}

func (s *scripted) Describe(context.Context) (core.IssuerInfo, error) {
	return core.IssuerInfo{
		Name: "scripted", Type: core.CredentialX509, Actions: []core.IssueAction{core.ActionIssue, core.ActionRenew, core.ActionRevoke},
		Algorithms: []core.KeyAlgorithm{core.Ed25519, core.ECDSAP256},
	}, nil
}

func (s *scripted) Begin(_ context.Context, req core.IssueRequest) (core.Step, error) {
	s.carry = req.Carry // which is not ours to keep
	req.Carry = bytes.Clone(req.Carry)
	s.begun = append(s.begun, req)
	return s.step(0)
}

func (s *scripted) Advance(_ context.Context, state []byte, in core.Input) (core.Step, error) {
	n, err := strconv.Atoi(string(state))
	if err != nil {
		return core.Step{}, core.ErrInvalid
	}
	if in.Error != "" {
		return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: in.Error, Final: true}}}, nil
	}
	s.answers = append(s.answers, in)
	return s.step(n + 1)
}

func (s *scripted) step(n int) (core.Step, error) {
	if s.before != nil {
		s.before(n)
	}
	if n < len(s.needs) {
		return core.Step{State: fmt.Append(nil, n), Need: s.needs[n]}, nil
	}
	req := s.begun[len(s.begun)-1]
	if s.issue != nil {
		return core.Step{Need: s.issue(req)}, nil
	}
	return core.Step{Need: core.Need{Done: &core.Issued{Credential: certificate(req.ClientID, len(s.begun)), Carry: []byte("carried")}}}, nil
}

// revokesNothing says so, and asks no further.
type revokesNothing struct{ *scripted }

func (r revokesNothing) Describe(ctx context.Context) (core.IssuerInfo, error) {
	info, err := r.scripted.Describe(ctx)
	info.Actions = info.Actions[:2]
	return info, err
}

// noBegin is an issuer that begins nothing.
type noBegin struct {
	*scripted
	err error
}

func (n noBegin) Begin(context.Context, core.IssueRequest) (core.Step, error) {
	return core.Step{}, n.err
}

var (
	signNeed = core.Need{Sign: &core.SignNeed{Message: []byte("certify me")}}
	allNeeds = []core.Need{
		{Call: &core.CallNeed{Kind: "nonce", Args: map[string]string{"device": "1", "at": "here"}}},
		{Visit: &core.VisitNeed{URL: "https://login.example.com", RedirectURI: "http://localhost/"}},
		signNeed,
		{Show: &core.ShowNeed{Text: "take this", File: []byte("file")}},
		{Wait: &core.WaitNeed{After: time.Minute}},
	}
)

// fulfil answers each need with something of its own.
func fulfil(_ context.Context, n core.Need) (core.Input, error) {
	switch {
	case n.Call != nil:
		return core.Input{Result: []byte(n.Call.Args["device"])}, nil
	case n.Visit != nil:
		return core.Input{RedirectQuery: "code=1"}, nil
	case n.Show != nil:
		return core.Input{File: n.Show.File}, nil
	}
	return core.Input{}, nil
}

func (w *world) begin(d *clienttest.Device, p client.IssueParams) (h client.EnrollmentHandle) {
	w.Helper()
	w.do(d, func(ctx context.Context, tx *client.Transaction) (err error) {
		h, err = tx.BeginIssue(ctx, p)
		return err
	})
	return h
}

func (w *world) issue(d *clienttest.Device, p client.IssueParams, issuer core.CredentialIssuer) client.Credential {
	w.Helper()
	done, err := d.Issue(w.Context(), w.begin(d, p), issuer, fulfil)
	w.must(err)
	return done.Credential
}

func (w *world) openIssues(d *clienttest.Device) []client.OpenIssue {
	w.Helper()
	open, err := d.OpenIssues(w.Context())
	w.must(err)
	return open
}

func (w *world) drop(d *clienttest.Device, want error, h client.EnrollmentHandle) {
	w.Helper()
	w.tries(d, want, func(ctx context.Context, tx *client.Transaction) error { return tx.DropEnrollment(ctx, h) })
}

// Every need is durable before it is acted on, and what has become of it is the issuer's to
// hear: whoever stops at any of them goes on from there, in another process.
func TestIssueGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, certifiedConfig())
	p := client.IssueParams{
		Issuer: "scripted", Suite: suite1, Handle: "alice_1", DisplayName: "Alice", Extra: map[string]string{"team": "tea", "a": "b"}, Action: core.ActionIssue,
	}
	h := w.begin(alice, p)
	if open := w.openIssues(alice); len(open) != 1 || !reflect.DeepEqual(open[0], client.OpenIssue{Handle: h, IssueParams: p}) {
		t.Errorf("before the issuer was asked: %+v", open)
	}
	issuer := &scripted{needs: allNeeds}
	later := errors.New("later")
	for _, n := range allNeeds {
		if n.Sign != nil {
			continue
		}
		asked := 0
		_, err := alice.Issue(t.Context(), h, issuer, func(_ context.Context, got core.Need) (core.Input, error) {
			if asked++; asked == 1 && len(issuer.answers) > 0 { // the one that was left open
				return fulfil(t.Context(), got)
			}
			if !reflect.DeepEqual(got, n) {
				t.Errorf("needs %+v, want %+v", got, n)
			}
			if open := w.openIssues(alice); len(open) != 1 || !reflect.DeepEqual(open[0].Need, n) || !reflect.DeepEqual(open[0].IssueParams, p) {
				t.Errorf("while it is answered: %+v", open)
			}
			return core.Input{}, later
		})
		if !errors.Is(err, later) {
			t.Fatal(err)
		}
		w.must(alice.Close(t.Context()))
		alice = clienttest.NewDevice(t, w.service, "alice", ks, certifiedConfig())
		if open := w.openIssues(alice); len(open) != 1 || !reflect.DeepEqual(open[0].Need, n) {
			t.Errorf("after a restart: %+v", open)
		}
		if n.Call != nil {
			issuer.answers = append(issuer.answers, core.Input{}) // from now on there is one
		}
	}
	done, err := alice.Issue(t.Context(), h, issuer, fulfil)
	w.must(err)
	req := issuer.begun[0]
	own := done.Credential
	if own.Ref != 2 || !bytes.Equal(own.SignatureKey, req.PublicKey) || !w.verifies(own.SignatureKey, signNeed.Sign.Message, issuer.answers[3].Signature) {
		t.Errorf("issued %+v", own)
	}
	want := []core.Input{{}, {Result: []byte("1")}, {RedirectQuery: "code=1"}, issuer.answers[3], {File: []byte("file")}, {}}
	if !reflect.DeepEqual(issuer.answers, want) {
		t.Errorf("the issuer heard %+v", issuer.answers)
	}
	if len(issuer.begun) != 1 || req.ClientID != "alice" || req.Handle != "alice_1" || req.Display != "Alice" || req.Algorithm != core.Ed25519 || !reflect.DeepEqual(req.Extra, p.Extra) || req.Action != core.ActionIssue {
		t.Errorf("asked for %+v", issuer.begun)
	}
	if newest, err := alice.ClientPublicKey(t.Context(), suite1, core.CredentialX509); err != nil || !bytes.Equal(newest, own.SignatureKey) {
		t.Errorf("the newest: %x, %v", newest, err)
	}
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); len(w.openIssues(alice)) != 0 || !errors.Is(err, client.ErrEnrollmentNotFound) {
		t.Errorf("it is over: %v", err)
	}
}

func (w *world) verifies(key, message, signature []byte) bool {
	w.Helper()
	suite, err := pure.New().Suite(suite1)
	w.must(err)
	return suite.Verify(key, message, signature) == nil
}

// What cannot be is refused, and nothing was made for it.
func TestIssueRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok, ks := newToken(), memory.New()
	cfg := certifiedConfig()
	cfg.Keys = tok
	alice, nobody := w.deviceOn("alice", ks, cfg), w.nobody(memory.New())
	history := "history-client-1"
	for _, c := range []struct {
		who  *clienttest.Device
		p    client.IssueParams
		want error
	}{
		{nobody, client.IssueParams{}, client.ErrNotInitialized},
		{nobody, client.IssueParams{ClientID: "alice", Credential: 1}, client.ErrNotInitialized},
		{nobody, client.IssueParams{ClientID: "alice", Action: core.ActionRenew}, client.ErrCredentialNotFound},
		{nobody, client.IssueParams{ClientID: core.ClientID(history)}, core.ErrInvalid},
		{alice, client.IssueParams{ClientID: "bob"}, client.ErrWrongCredential},
		{alice, client.IssueParams{Action: core.ActionRenew}, client.ErrCredentialNotFound},
		{alice, client.IssueParams{Action: core.ActionRevoke, Credential: 9}, client.ErrCredentialNotFound},
		{alice, client.IssueParams{Credential: 1, Suite: suite2}, client.ErrWrongCredential},
		{alice, client.IssueParams{Suite: 0xfefe}, core.ErrUnsupported},
		{alice, client.IssueParams{Action: core.ActionRevoke + 1}, core.ErrUnsupported},
	} {
		w.tries(c.who, c.want, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.BeginIssue(ctx, c.p)
			return err
		})
	}
	keys := tok.count()
	issuer := &scripted{}
	h := w.begin(alice, client.IssueParams{Suite: core.SuiteX448AES256Ed448})
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("Ed448: %v", err)
	}
	revoke := w.begin(alice, client.IssueParams{Action: core.ActionRevoke, Credential: 1})
	if _, err := alice.Issue(t.Context(), revoke, revokesNothing{issuer}, nil); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("an action: %v", err)
	}
	if len(issuer.begun) > 0 || tok.count() != keys {
		t.Errorf("%d keys, there were %d", tok.count(), keys)
	}
	for _, refusal := range []error{core.ErrInvalid, core.ErrUnsupported} { // of the names, for example
		h := w.begin(alice, client.IssueParams{})
		if _, err := alice.Issue(t.Context(), h, noBegin{issuer, refusal}, fulfil); !errors.Is(err, refusal) {
			t.Errorf("%v", err)
		}
	}
	if n := len(w.openIssues(alice)); n != 0 || tok.count() != keys {
		t.Errorf("what cannot begin: %d open, %d keys, there were %d", n, tok.count(), keys)
	}
	h = w.begin(alice, client.IssueParams{})
	if _, err := alice.Issue(t.Context(), h, noBegin{issuer, core.ErrUnavailable}, fulfil); !errors.Is(err, core.ErrUnavailable) || len(w.openIssues(alice)) != 1 {
		t.Errorf("what cannot begin now: %v", err)
	}
	w.drop(alice, nil, h)
	w.drop(alice, client.ErrEnrollmentNotFound, h)
	revoke = w.begin(alice, client.IssueParams{Action: core.ActionRevoke, Credential: 1})
	w.drop(alice, nil, revoke)
	if tok.count() != keys {
		t.Error("the key of a credential went with what was to be done about it")
	}
	h = w.begin(alice, client.IssueParams{})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := alice.Issue(ctx, h, basic.New(), nil); !errors.Is(err, client.ErrNestedTransaction) {
			t.Errorf("within a transaction: %v", err)
		}
		return nil
	})
	issuer.needs = allNeeds[:1]
	if _, err := alice.Issue(t.Context(), h, issuer, nil); !errors.Is(err, core.ErrUnavailable) || len(w.openIssues(alice)) != 1 {
		t.Errorf("nobody answers: %v", err)
	}
	w.must(alice.Close(t.Context()))
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, core.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// An issuer that breaks its contract ends nothing, and gets no signature of a kind that
// counts in a conversation.
func TestIssueWithABadIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	h := w.begin(alice, client.IssueParams{})
	label := "MLS 1.0 FramedContentTBS"
	for name, c := range map[string]struct {
		needs []core.Need
		want  error
	}{
		"none":             {[]core.Need{{}}, core.ErrInvalid},
		"two":              {[]core.Need{{Sign: signNeed.Sign, Wait: &core.WaitNeed{}}}, core.ErrInvalid},
		"done and more":    {[]core.Need{{Sign: signNeed.Sign, Done: &core.Issued{}}}, core.ErrInvalid},
		"never ends":       {slices.Repeat([]core.Need{signNeed}, 2000), core.ErrTooLarge},
		"too large":        {[]core.Need{{Show: &core.ShowNeed{File: make([]byte, core.MaxValue)}}}, core.ErrTooLarge},
		"signature of MLS": {[]core.Need{{Sign: &core.SignNeed{Message: append([]byte{byte(len(label))}, label+"\x05hello"...)}}}, client.ErrForeignSignature},
		"of a long label":  {[]core.Need{{Sign: &core.SignNeed{Message: append([]byte{0x40, 0x60}, label...)}}}, client.ErrForeignSignature},
		"of a longer one":  {[]core.Need{{Sign: &core.SignNeed{Message: append([]byte{0x80, 0, 0x60, 0}, label...)}}}, client.ErrForeignSignature},
	} {
		h := w.begin(alice, client.IssueParams{})
		if _, err := alice.Issue(t.Context(), h, &scripted{needs: c.needs}, fulfil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		w.drop(alice, nil, h)
	}
	if own, err := alice.Issue(t.Context(), h, &scripted{}, nil); err != nil || own.Credential.Ref != 2 {
		t.Errorf("%+v, %v", own, err)
	}
}

// A final refusal takes the key with it, unless a credential has it. After another one, the
// issuer is asked again from the start, for the same key.
func TestIssueRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok := newToken()
	cfg := certifiedConfig()
	cfg.Keys = tok
	alice := w.deviceOn("alice", memory.New(), cfg)
	refusal := core.Refusal{Reason: "not today"}
	issuer := &scripted{needs: []core.Need{signNeed}, issue: func(core.IssueRequest) core.Need { return core.Need{Refused: &refusal} }}
	refused := func(h client.EnrollmentHandle) {
		t.Helper()
		_, err := alice.Issue(t.Context(), h, issuer, fulfil)
		var is *client.IssueRefusedError
		if !errors.As(err, &is) || !reflect.DeepEqual(is.Refusal, refusal) || !errors.Is(err, core.ErrDenied) || errors.Is(err, core.ErrConflict) {
			t.Errorf("%v", err)
		}
	}
	h := w.begin(alice, client.IssueParams{})
	refused(h)
	if open := w.openIssues(alice); len(open) != 1 || !reflect.DeepEqual(open[0].Need, core.Need{}) {
		t.Errorf("after a refusal that is not final: %+v", open)
	}
	refusal.Final = true
	refused(h)
	if len(issuer.begun) != 2 || !bytes.Equal(issuer.begun[0].PublicKey, issuer.begun[1].PublicKey) {
		t.Error("begun again with another key")
	}
	w.noKeyIsLeft(alice, tok)
	refused(w.begin(alice, client.IssueParams{Credential: 1}))
	issuer.needs = allNeeds
	h = w.begin(alice, client.IssueParams{})
	_, err := alice.Issue(t.Context(), h, issuer, func(context.Context, core.Need) (core.Input, error) { return core.Input{Error: "nobody at home"}, nil })
	if is := (*client.IssueRefusedError)(nil); !errors.As(err, &is) || is.Reason != "nobody at home" {
		t.Errorf("%v", err)
	}
	if open := w.openIssues(alice); len(open) != 0 {
		t.Errorf("open after a final refusal: %+v", open)
	}
	w.noKeyIsLeft(alice, tok)
}

// What an issuer gives with a refusal is for its next try; for a renewal it takes the place of
// what came with the credential, also if there is no next try.
func TestIssueRefusalCarries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, certifiedConfig())
	refusal := core.Refusal{Reason: "not today"}
	issuer := &scripted{needs: []core.Need{signNeed}}
	refused := func(h client.EnrollmentHandle, carry string) {
		t.Helper()
		given := []byte(carry)
		refusal.Carry = given
		issuer.issue = func(core.IssueRequest) core.Need { return core.Need{Refused: &refusal} }
		_, err := alice.Issue(t.Context(), h, issuer, fulfil)
		if is := (*client.IssueRefusedError)(nil); !errors.As(err, &is) || is.Carry != nil || is.Final != refusal.Final {
			t.Errorf("%v", err)
		}
		if !bytes.Equal(given, make([]byte, len(given))) {
			t.Errorf("what was carried is not wiped: %q", given)
		}
		issuer.issue = nil
		w.must(alice.Close(t.Context()))
		alice = clienttest.NewDevice(t, w.service, "alice", ks, certifiedConfig())
	}
	asked := func(want string) {
		t.Helper()
		if got := issuer.begun[len(issuer.begun)-1].Carry; string(got) != want {
			t.Errorf("begun with %q, want %q", got, want)
		}
	}
	h := w.begin(alice, client.IssueParams{})
	refused(h, "one")
	asked("")
	refused(h, "")
	asked("one")
	refused(h, "two")
	asked("one")
	done, err := alice.Issue(t.Context(), h, issuer, fulfil)
	w.must(err)
	asked("two")

	renew := client.IssueParams{Action: core.ActionRenew, Credential: done.Credential.Ref}
	h = w.begin(alice, renew)
	refused(h, "three")
	asked("carried")
	refused(h, "")
	asked("three")
	w.drop(alice, nil, h)
	h = w.begin(alice, renew)
	refusal.Final = true
	refused(h, "four")
	asked("three")
	h = w.begin(alice, renew)
	refusal.Final = false
	refused(h, "")
	asked("four")
	w.drop(alice, nil, h)
	// A credential that is gone has none.
	_, before := w.rows(ks)
	h = w.begin(alice, renew)
	issuer.before = func(n int) {
		if n == 1 {
			w.remove(alice, nil, done.Credential.Ref)
		}
	}
	refused(h, "five")
	issuer.before = nil
	w.drop(alice, nil, h)
	if _, n := w.rows(ks); n != before-3 { // the credential, what was carried, and the key
		t.Errorf("%d records, there were %d", n, before)
	}
}

// What an issuer gave is for that one: neither another one nor an enrolment that the
// application makes gets it.
func TestCarryIsForItsIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	issuer := &scripted{}
	first := w.issue(alice, client.IssueParams{Issuer: "one"}, issuer)
	for _, c := range []struct{ issuer, want string }{{"another", ""}, {"", ""}, {"one", "carried"}} {
		w.issue(alice, client.IssueParams{Issuer: c.issuer, Action: core.ActionRenew, Credential: first.Ref}, issuer)
		if got := issuer.begun[len(issuer.begun)-1].Carry; string(got) != c.want {
			t.Errorf("%q is given %q", c.issuer, got)
		}
	}

	ca := newWireCA(t, "ours")
	bob := w.deviceOn(wireID(2).Core(), memory.New(), config())
	w.trust(ca, bob)
	issuer.issue = func(req core.IssueRequest) core.Need {
		leaf := ca.leaf(wireID(2), "alice_1", client.Credential{SignatureKey: req.PublicKey}, time.Hour)
		return core.Need{Done: &core.Issued{
			Credential: core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf.Raw, ca.ca.Raw}}, Carry: []byte("carried"),
		}}
	}
	w.issue(bob, client.IssueParams{Suite: suite1}, issuer)
	p := enrolAlice
	p.DisplayName, p.Handle = "", ""
	e := w.enrol(bob, rotation, p)
	if token := e.Config().RefreshToken; !token.IsZero() {
		t.Errorf("an enrolment is given %q", token.Bytes())
	}
	own := w.enrolled(ca, bob, 2, e)
	w.issue(bob, client.IssueParams{Action: core.ActionRenew, Credential: own.Ref}, issuer)
	if got := issuer.begun[len(issuer.begun)-1].Carry; got != nil {
		t.Errorf("an issuer is given %q of an enrolment", got)
	}
}

// What an issuer gives is of the type that it says.
func TestIssueOfAnotherType(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	alice := w.deviceOn("alice", memory.New(), certifiedConfig())
	issuer := &scripted{issue: func(req core.IssueRequest) core.Need {
		return core.Need{Done: &core.Issued{Credential: core.BasicCredential(req.ClientID)}}
	}}
	h := w.begin(alice, client.IssueParams{})
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, client.ErrWrongCredential) || len(w.credentials(alice, client.CredentialFilter{})) != 1 {
		t.Errorf("%v", err)
	}
	issuer.issue = nil
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); err != nil {
		t.Error(err)
	}
}

// A credential is renewed by an issuer once at a time, and what was begun for one that is gone
// is over.
func TestIssueOfOneCredential(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok := newToken()
	cfg := certifiedConfig()
	cfg.Keys = tok
	alice := w.deviceOn("alice", memory.New(), cfg)
	issuer := &scripted{}
	first := w.issue(alice, client.IssueParams{Issuer: "one"}, issuer)
	for _, action := range []core.IssueAction{core.ActionRenew, core.ActionRevoke} {
		p := client.IssueParams{Issuer: "one", Action: action, Credential: first.Ref}
		other := p
		other.Issuer = "another"
		basic := p
		basic.Credential = 1 // of another credential it is open beside this one
		list := []client.EnrollmentHandle{w.begin(alice, p), w.begin(alice, other), w.begin(alice, basic)}
		p.Suite = suite1
		w.tries(alice, client.ErrIssueOpen, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.BeginIssue(ctx, p)
			return err
		})
		for _, h := range list {
			w.drop(alice, nil, h)
		}
		w.drop(alice, nil, w.begin(alice, p))
	}
	h := w.begin(alice, client.IssueParams{Action: core.ActionRenew, Credential: first.Ref})
	w.remove(alice, nil, first.Ref)
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, client.ErrCredentialNotFound) {
		t.Errorf("%v", err)
	}
	if open := w.openIssues(alice); len(open) != 0 || len(issuer.begun) != 1 {
		t.Errorf("%d open, %d begun", len(open), len(issuer.begun))
	}
	w.noKeyIsLeft(alice, tok)
}

// TestIssueOutsideTheStore: whatever fails, and wherever the process ends, the issue goes on
// or is dropped after the next start, and then the token holds exactly the keys of
// credentials.
func TestIssueOutsideTheStore(t *testing.T) {
	t.Parallel()
	reached := false
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate} {
		for n := 1; n < 9; n++ {
			for _, dies := range []bool{false, true} {
				for _, drops := range []bool{false, true} {
					tok, store := newToken(), memory.New()
					cfg := certifiedConfig()
					cfg.Keys = tok
					w := newWorld(t, clienttest.Options{})
					dead := new(bool)
					faulty := &coretest.Faulty{Keystore: store}
					alice := clienttest.NewDevice(t, w.service, "alice", grave{faulty, dead}, cfg)
					ran := faulty.Applies()
					faulty.Plan = func(i int, _ core.Batch) coretest.Fault {
						if i != ran+n {
							return coretest.FaultNone
						}
						*dead = dies
						return fault
					}
					issuer := &scripted{needs: []core.Need{signNeed, signNeed}}
					var h client.EnrollmentHandle
					_ = alice.Transaction(t.Context(), func(ctx context.Context, tx *client.Transaction) (err error) {
						h, err = tx.BeginIssue(ctx, client.IssueParams{ClientID: "alice"})
						return err
					})
					_, _ = alice.Issue(t.Context(), h, issuer, fulfil)
					reached = reached || len(w.credentials2(store, cfg)) > 0
					faulty.Land(t.Context())

					alice = clienttest.NewDevice(t, w.service, "alice", store, cfg)
					for _, open := range w.openIssues(alice) {
						if drops {
							w.drop(alice, nil, open.Handle)
							continue
						}
						_, err := alice.Issue(t.Context(), open.Handle, issuer, fulfil)
						w.must(err)
					}
					w.noKeyIsLeft(alice, tok)
					if n := len(w.credentials(alice, client.CredentialFilter{})); n > 1 {
						t.Errorf("%v at %d: %d credentials of one issue", fault, n, n)
					}
				}
			}
		}
	}
	if !reached {
		t.Error("no issue has come to its end")
	}
}

// credentials2 lists what a store has.
func (w *world) credentials2(store core.Keystore, cfg client.Config) []client.Credential {
	w.Helper()
	d := clienttest.NewDevice(w, w.service, "alice", store, cfg)
	return w.credentials(d, client.CredentialFilter{})
}

// Two processes drive one issue: one of them is told so, whichever step they meet at, and
// there is one credential.
func TestIssueDrivenTwice(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		w := newWorld(t, clienttest.Options{})
		tok, ks := newToken(), memory.New()
		cfg := certifiedConfig()
		cfg.Keys = tok
		alice := w.deviceOn("alice", ks, cfg)
		other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
		h := w.begin(alice, client.IssueParams{})
		issuer := &scripted{needs: []core.Need{signNeed, signNeed, signNeed}}
		met := false
		issuer.before = func(step int) {
			if step == n && !met {
				met = true
				_, err := other.Issue(t.Context(), h, &scripted{needs: issuer.needs, begun: issuer.begun}, fulfil)
				w.must(err)
			}
		}
		if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, core.ErrConflict) {
			t.Errorf("step %d: %v", n, err)
		}
		if !met || len(w.credentials(alice, client.CredentialFilter{Type: core.CredentialX509})) != 1 {
			t.Errorf("step %d: %d credentials", n, len(w.credentials(alice, client.CredentialFilter{})))
		}
		w.noKeyIsLeft(alice, tok)
	}
	// They make the key at the same time.
	w := newWorld(t, clienttest.Options{})
	tok, ks := newToken(), memory.New()
	cfg := certifiedConfig()
	cfg.Keys = tok
	alice := w.deviceOn("alice", ks, cfg)
	other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	h := w.begin(alice, client.IssueParams{})
	tok.making = func() {
		_, err := other.Issue(t.Context(), h, &scripted{}, fulfil)
		w.must(err)
	}
	if _, err := alice.Issue(t.Context(), h, &scripted{}, fulfil); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the key: %v", err)
	}
	w.noKeyIsLeft(alice, tok)
	// They find the key made at the same time, and one has asked the issuer.
	faulty := &coretest.Faulty{Keystore: ks}
	late := clienttest.NewDevice(t, w.service, "alice", faulty, cfg)
	h = w.begin(alice, client.IssueParams{})
	made, named, asked := false, false, false
	tok.making = func() { made = true }
	faulty.Plan = func(n int, b core.Batch) coretest.Fault {
		named = made
		return coretest.FaultNone
	}
	faulty.PlanRead = func(int) bool {
		if named && !asked {
			asked = true
			if _, err := other.Issue(t.Context(), h, &scripted{needs: allNeeds[4:]}, nil); !errors.Is(err, core.ErrUnavailable) {
				t.Error(err)
			}
		}
		return false
	}
	if _, err := late.Issue(t.Context(), h, &scripted{}, nil); !errors.Is(err, core.ErrConflict) || !asked || len(w.openIssues(alice)) != 1 {
		t.Errorf("begun meanwhile: %v", err)
	}
	w.drop(alice, nil, h)
	// One is a step further when the other ends.
	h = w.begin(alice, client.IssueParams{})
	ends := &scripted{needs: []core.Need{signNeed}}
	ends.before = func(n int) {
		if n == 1 {
			further := &scripted{needs: []core.Need{signNeed, allNeeds[4]}}
			if _, err := other.Issue(t.Context(), h, further, nil); !errors.Is(err, core.ErrUnavailable) {
				t.Error(err)
			}
		}
	}
	if _, err := alice.Issue(t.Context(), h, ends, nil); !errors.Is(err, core.ErrConflict) || len(w.openIssues(alice)) != 1 {
		t.Errorf("ended behind another one: %v", err)
	}
	w.drop(alice, nil, h)
	// One drops what the other drives.
	h = w.begin(alice, client.IssueParams{})
	issuer := &scripted{needs: []core.Need{signNeed}, before: func(int) { w.drop(other, nil, h) }}
	if _, err := alice.Issue(t.Context(), h, issuer, fulfil); !errors.Is(err, core.ErrConflict) {
		t.Errorf("dropped meanwhile: %v", err)
	}
	w.noKeyIsLeft(alice, tok)
}

// An issue keeps the key of its credential, which may be removed meanwhile, and gives it up at
// the end.
func TestIssueKeepsTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok, ks := newToken(), memory.New()
	cfg := certifiedConfig()
	cfg.Keys = tok
	alice := w.deviceOn("alice", ks, cfg)
	first := w.credentials(alice, client.CredentialFilter{})[0]
	one, two := w.begin(alice, client.IssueParams{Credential: 1}), w.begin(alice, client.IssueParams{Credential: 1})
	revoke := w.begin(alice, client.IssueParams{Credential: 1, Action: core.ActionRevoke})
	waits := &scripted{needs: allNeeds[4:], issue: func(core.IssueRequest) core.Need { return core.Need{Done: &core.Issued{}} }}
	if _, err := alice.Issue(t.Context(), revoke, waits, nil); !errors.Is(err, core.ErrUnavailable) {
		t.Fatal(err)
	}
	w.remove(alice, nil, 1)
	if tok.count() != 1 {
		t.Fatal("the key went, and an issue needs it")
	}
	done, err := alice.Issue(t.Context(), one, &scripted{}, nil)
	if err != nil || !bytes.Equal(done.Credential.SignatureKey, first.SignatureKey) || done.Credential.Ref != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	w.drop(alice, nil, two)
	w.remove(alice, nil, 2)
	if done, err := alice.Issue(t.Context(), revoke, waits, fulfil); err != nil || done.Credential.Ref != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
	// Two processes drop the last two that have a key: one of them sees that it is the last.
	w.fresh(alice)
	one, two = w.begin(alice, client.IssueParams{Credential: 3}), w.begin(alice, client.IssueParams{Credential: 3})
	w.remove(alice, nil, 3)
	other := clienttest.NewDevice(t, w.service, "alice", ks, cfg)
	tx, err := other.Begin(t.Context())
	w.must(err)
	w.must(tx.DropEnrollment(t.Context(), one))
	w.drop(alice, nil, two)
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("both were dropped, and nobody saw the last: %v", err)
	}
	w.drop(alice, nil, one)
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
	// A process removes the credential while another one begins an issue for it.
	w.fresh(alice)
	tx, err = other.Begin(t.Context())
	w.must(err)
	w.must(tx.RemoveCredential(t.Context(), 4))
	h := w.begin(alice, client.IssueParams{Credential: 4})
	if err := tx.Finish(t.Context()); !errors.Is(err, core.ErrConflict) {
		t.Errorf("the key of an issue was removed: %v", err)
	}
	w.remove(alice, nil, 4)
	w.drop(alice, nil, h)
	if tok.count() != 0 {
		t.Errorf("%d keys are left", tok.count())
	}
}

// What an issuer wants for a renewal is kept with the credential, and goes with it.
func TestIssueRenews(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ks := memory.New()
	alice := w.deviceOn("alice", ks, certifiedConfig())
	rows := func() int { _, n := w.rows(ks); return n }
	issuer := &scripted{needs: []core.Need{signNeed}}
	before := rows()
	first := w.issue(alice, client.IssueParams{}, issuer)
	second := w.issue(alice, client.IssueParams{Action: core.ActionRenew, Credential: first.Ref}, issuer)
	asked := issuer.begun[1]
	if asked.Action != core.ActionRenew || string(asked.Carry) != "carried" || !reflect.DeepEqual(asked.Previous, first.Credential) || !bytes.Equal(asked.PublicKey, first.SignatureKey) {
		t.Errorf("asked for %+v", asked)
	}
	if !bytes.Equal(issuer.carry, make([]byte, len("carried"))) {
		t.Errorf("what was carried is not wiped: %q", issuer.carry)
	}
	if !bytes.Equal(second.SignatureKey, first.SignatureKey) || second.Ref != first.Ref+1 || reflect.DeepEqual(second.Credential, first.Credential) {
		t.Errorf("renewed: %+v", second)
	}
	if issuer.begun[0].Carry != nil || issuer.begun[0].Previous.Type != 0 {
		t.Errorf("the first: %+v", issuer.begun[0])
	}
	if revoked := w.issue(alice, client.IssueParams{Action: core.ActionRevoke, Credential: second.Ref}, issuer); !reflect.DeepEqual(revoked, second) || len(w.credentials(alice, client.CredentialFilter{})) != 3 {
		t.Errorf("revoked: %+v", revoked)
	}
	if !reflect.DeepEqual(issuer.begun[2].Previous, second.Credential) {
		t.Errorf("to revoke: %+v", issuer.begun[2])
	}
	// An issuer may give what we have.
	issuer.issue = func(core.IssueRequest) core.Need {
		return core.Need{Done: &core.Issued{Credential: second.Credential, Carry: []byte("more")}}
	}
	if again := w.issue(alice, client.IssueParams{Action: core.ActionRenew, Credential: second.Ref}, issuer); !reflect.DeepEqual(again, second) {
		t.Errorf("again: %+v", again)
	}
	w.issue(alice, client.IssueParams{Action: core.ActionRenew, Credential: second.Ref}, issuer)
	if carry := issuer.begun[4].Carry; string(carry) != "more" {
		t.Errorf("carried %q", carry)
	}
	w.remove(alice, nil, first.Ref)
	w.remove(alice, nil, second.Ref)
	if n := rows(); n != before {
		t.Errorf("%d records, there were %d", n, before)
	}
	// The basic issuer is done at once, without an answer.
	renewed, err := alice.Issue(t.Context(), w.begin(alice, client.IssueParams{Action: core.ActionRenew, Credential: 1}), basic.New(), nil)
	if err != nil || renewed.Credential.Ref != 1 {
		t.Errorf("%+v, %v", renewed, err)
	}
	if own := w.issue(alice, client.IssueParams{Suite: suite2}, basic.New()); own.Credential.Type != core.CredentialBasic || len(own.SignatureKey) != 65 {
		t.Errorf("%+v", own)
	}
}

// A client without an identity gets it with its first credential.
func TestIssueInitializes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	tok := newToken()
	cfg := certifiedConfig()
	cfg.InitialKeyPackages, cfg.Keys = 2, tok
	alice := clienttest.NewDevice(t, w.service, "alice", memory.New(), cfg)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.GenerateKeypairs(ctx, suite1, suite2)
		return err
	})
	h, late := w.begin(alice, client.IssueParams{ClientID: "alice", Suite: suite2}), w.begin(alice, client.IssueParams{ClientID: "bob"})
	issuer := &scripted{needs: []core.Need{signNeed}}
	issuer.before = func(int) {
		if _, err := alice.ClientID(t.Context()); !errors.Is(err, client.ErrNotInitialized) {
			t.Errorf("an identity before the end: %v", err)
		}
	}
	done, err := alice.Issue(t.Context(), h, issuer, fulfil)
	w.must(err)
	if id, err := alice.ClientID(t.Context()); err != nil || id != "alice" || issuer.begun[0].ClientID != "alice" {
		t.Errorf("%q, %v", id, err)
	}
	if list := w.credentials(alice, client.CredentialFilter{}); len(list) != 1 || list[0].Credential.Type != core.CredentialX509 || list[0].Ref != done.Credential.Ref {
		t.Errorf("%+v", list)
	}
	w.noKeyIsLeft(alice, tok)
	if n, err := alice.CountKeyPackages(t.Context(), suite2, core.CredentialX509); n != 2 || err != nil {
		t.Errorf("%d key packages, %v", n, err)
	}
	// The other one was for somebody else, whom this is not.
	issuer.before = nil
	issuer.issue = func(core.IssueRequest) core.Need {
		return core.Need{Done: &core.Issued{Credential: certificate("bob", 1)}}
	}
	if _, err := alice.Issue(t.Context(), late, issuer, fulfil); !errors.Is(err, client.ErrWrongCredential) {
		t.Errorf("%v", err)
	}
	w.drop(alice, nil, late)
	w.noKeyIsLeft(alice, tok)
}

// A certificate that is not ours, or that nobody would take, changes nothing, and the issue
// goes on to the right one.
func TestIssueTakesTheRightCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, clienttest.Options{})
	ca, other := newWireCA(t, "ours"), newWireCA(t, "other")
	ks := memory.New()
	alice := w.deviceOn(wireID(1).Core(), ks, config())
	chain := func(ca *wireCA, n byte, key []byte, validity time.Duration) core.Credential {
		leaf := ca.leaf(wireID(n), "alice_1", client.Credential{SignatureKey: key}, validity)
		return core.Credential{Type: core.CredentialX509, Certificates: [][]byte{leaf.Raw, ca.ca.Raw}}
	}
	h := w.begin(alice, client.IssueParams{})
	issuer := &scripted{needs: []core.Need{signNeed}}
	try := func(want error, make func(key []byte) core.Credential) (client.IssueResult, error) {
		t.Helper()
		issuer.issue = func(req core.IssueRequest) core.Need {
			return core.Need{Done: &core.Issued{Credential: make(req.PublicKey)}}
		}
		var before []core.Record
		issuer.before = func(n int) {
			if n == 1 {
				before = snapshot(t, ks)
			}
		}
		done, err := alice.Issue(t.Context(), h, issuer, fulfil)
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if want != nil && (!same(before, snapshot(t, ks)) || len(w.openIssues(alice)) != 1) {
			t.Errorf("%v, and something has changed", want)
		}
		return done, err
	}
	right := func(key []byte) core.Credential { return chain(ca, 1, key, time.Hour) }
	_, _ = try(e2ei.ErrNotReady, right)
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, pemOf(ca.root))
	})
	basic, err := alice.ClientPublicKey(t.Context(), suite1, 0)
	w.must(err)
	for _, c := range []struct {
		want error
		make func(key []byte) core.Credential
	}{
		{e2ei.ErrWrongKey, func([]byte) core.Credential { return chain(ca, 1, basic, time.Hour) }},
		{client.ErrWrongCredential, func(key []byte) core.Credential { return chain(ca, 2, key, time.Hour) }},
		{e2ei.ErrNoPath, func(key []byte) core.Credential { return chain(other, 1, key, time.Hour) }},
		{e2ei.ErrNoPath, func(key []byte) core.Credential {
			c := chain(ca, 1, key, time.Hour)
			c.Certificates = c.Certificates[:1]
			return c
		}},
		{e2ei.ErrExpired, func(key []byte) core.Credential { return chain(ca, 1, key, -time.Minute) }},
		{e2ei.ErrCertificate, func([]byte) core.Credential { return core.Credential{Type: core.CredentialX509} }},
		{e2ei.ErrCertificate, func([]byte) core.Credential { return certificate(wireID(1).Core(), 1) }},
		{core.ErrDenied, func([]byte) core.Credential { return core.Credential{Type: 7} }},
	} {
		_, _ = try(c.want, c.make)
	}
	surplus := func(key []byte) core.Credential { // such as what an old root has signed of a new one
		c := right(key)
		c.Certificates = append(c.Certificates, other.ca.Raw)
		return c
	}
	done, err := try(nil, surplus)
	if err != nil || !slices.Equal(done.DistributionPoints, []string{listURL}) || len(done.Credential.Credential.Certificates) != 3 {
		t.Errorf("%+v, %v", done, err)
	}
	env, err := alice.Environment(t.Context())
	w.must(err)
	if _, intermediates, _ := env.Dump(); !slices.Equal(intermediates, []string{string(pemOf(ca.ca))}) {
		t.Errorf("%d intermediates", len(intermediates))
	}
}
