// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// TestCredentialIssuer is the contract of core.CredentialIssuer. The suite has
// the enrolling keys and answers Sign and Wait; an issuer that needs a person,
// a hook or a file comes from its constructor wrapped with an [Answerer].
//
// The constructor is called again for what a restart would do: the issuer that it
// returns must go on where the one before stopped. Each enrolment must end, in a
// credential, within 100 steps.
func TestCredentialIssuer(t *testing.T, open func(t *testing.T) core.CredentialIssuer) {
	t.Helper()
	runChecks(t, issuerChecks, open)
}

// An Answerer is an issuer under test that can say how its own needs (Visit,
// Call, Show) would be met.
type Answerer interface {
	Answer(ctx context.Context, need core.Need) (core.Input, error)
}

const maxSteps = 100

// afterRestart is the check whose constructor is called for the next step by what would be
// another process.
const afterRestart = "goes on after a restart"

var issuerChecks = []check[core.CredentialIssuer]{
	{"describes itself", checkDescribe},
	{"issues", checkIssue},
	{afterRestart, checkRestart},
	{"keeps enrolments apart", checkInterleaved},
	{"takes the same answer twice", checkRepeatedAdvance},
	{"renews and revokes if it says so", checkRenew},
	{"refuses other actions and algorithms", checkIssueUnsupported},
	{"refuses states and answers that do not fit", checkForeignState},
	{"believes no wrong signature", checkWrongSignature},
	{"ends when a need cannot be met", checkUnmetNeed},
	{"neither keeps nor changes slices", checkIssuerSlices},
	{"works concurrently", checkIssuerConcurrency},
	{"heeds cancellation", checkIssuerCancellation},
}

// An enrolment is one client's way through an issuer.
type enrolment struct {
	testing.TB
	open func() core.CredentialIssuer
	req  core.IssueRequest
	sign func(message []byte) []byte
}

func issuerInfo(t testing.TB, issuer core.CredentialIssuer) core.IssuerInfo {
	t.Helper()
	info, err := issuer.Describe(t.Context())
	if err != nil {
		t.Fatalf("Describe: %v", err)
	}
	return info
}

// enrolments begins one for each listed algorithm that the suite has keys for.
func enrolments(t testing.TB, open func() core.CredentialIssuer, id core.ClientID) (all []*enrolment) {
	t.Helper()
	for _, alg := range issuerInfo(t, open()).Algorithms {
		if a := algorithms[alg]; alg == core.Ed25519 || a.ecdsa != nil {
			public, sign := signerFor(t, nil, alg)
			all = append(all, &enrolment{t, open, core.IssueRequest{
				Action: core.ActionIssue, ClientID: id, Handle: "handle", Display: "A Name", Algorithm: alg, PublicKey: public,
			}, sign})
		}
	}
	if len(all) == 0 {
		t.Fatal("no algorithm that the standard library has")
	}
	return all
}

// begin starts it; step goes one step further; finish goes to the end.

func (e *enrolment) begin(issuer core.CredentialIssuer) core.Step {
	e.Helper()
	step, err := issuer.Begin(e.Context(), e.req)
	if err != nil {
		e.Fatalf("Begin(%s): %v", e.req.Algorithm, err)
	}
	e.wellFormed(step)
	return step
}

func (e *enrolment) step(issuer core.CredentialIssuer, step core.Step) core.Step {
	e.Helper()
	next, err := issuer.Advance(e.Context(), step.State, e.answer(issuer, step.Need))
	if err != nil {
		e.Fatalf("Advance: %v", err)
	}
	e.wellFormed(next)
	return next
}

func (e *enrolment) finish(next func() core.CredentialIssuer, step core.Step) *core.Issued {
	e.Helper()
	for range maxSteps {
		if r := step.Need.Refused; r != nil {
			e.Fatalf("refused: %s", r.Reason)
		}
		if done := step.Need.Done; done != nil {
			return done
		}
		step = e.step(next(), step)
	}
	e.Fatalf("no end after %d steps", maxSteps)
	return nil
}

// answer meets a need as a client would.
func (e *enrolment) answer(issuer core.CredentialIssuer, need core.Need) core.Input {
	e.Helper()
	switch {
	case need.Sign != nil:
		return core.Input{Signature: e.sign(need.Sign.Message)}
	case need.Wait != nil:
		select {
		case <-time.After(min(need.Wait.After, 10*time.Second)):
		case <-e.Context().Done():
		}
		return core.Input{}
	}
	a, ok := issuer.(Answerer)
	if !ok {
		e.Fatalf("the suite cannot meet %+v: wrap the issuer with an Answerer", need)
	}
	in, err := a.Answer(e.Context(), need)
	if errors.Is(err, errNobody) {
		e.Skip(err)
	}
	if err != nil {
		e.Fatalf("Answer: %v", err)
	}
	return in
}

// wellFormed: exactly one need, and a state that fits a record.
func (e *enrolment) wellFormed(step core.Step) {
	e.Helper()
	set := 0
	v := reflect.ValueOf(step.Need)
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			set++
		}
	}
	if set != 1 {
		e.Fatalf("a need with %d fields set, want one", set)
	}
	if len(step.State) > core.MaxValue/2 {
		e.Errorf("a state of %d bytes", len(step.State))
	}
}

// vouches checks a credential against the request.
func (e *enrolment) vouches(issued *core.Issued) {
	e.Helper()
	if want := issuerInfo(e, e.open()).Type; issued.Credential.Type != want {
		e.Fatalf("a credential of type %d, want %d", issued.Credential.Type, want)
	}
	switch c := issued.Credential; c.Type {
	case core.CredentialBasic:
		if string(c.Identity) != string(e.req.ClientID) {
			e.Errorf("the credential of %q was issued to %q", c.Identity, e.req.ClientID)
		}
	case core.CredentialX509:
		if len(c.Certificates) == 0 {
			e.Fatal("no certificate")
		}
		for i, der := range c.Certificates {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				e.Fatalf("certificate %d: %v", i, err)
			}
			if i > 0 {
				continue
			}
			// The key is the one that enrols, if the certificate verifies what it signs.
			message := []byte("a message")
			if err := cert.CheckSignature(x509Algorithm(e.req.Algorithm), message, e.sign(message)); err != nil {
				e.Errorf("the certificate has another key: %v", err)
			}
		}
	}
}

func x509Algorithm(alg core.KeyAlgorithm) x509.SignatureAlgorithm {
	return map[core.KeyAlgorithm]x509.SignatureAlgorithm{
		core.Ed25519: x509.PureEd25519, core.ECDSAP256: x509.ECDSAWithSHA256,
		core.ECDSAP384: x509.ECDSAWithSHA384, core.ECDSAP521: x509.ECDSAWithSHA512,
	}[alg]
}

// always returns the same issuer: no restart.
func always(issuer core.CredentialIssuer) func() core.CredentialIssuer {
	return func() core.CredentialIssuer { return issuer }
}

func checkDescribe(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	info := issuerInfo(t, issuer)
	if info.Name == "" || info.Type == 0 || !slices.Contains(info.Actions, core.ActionIssue) || len(info.Algorithms) == 0 {
		t.Errorf("something is missing: %+v", info)
	}
	for i, a := range info.Actions {
		if a < core.ActionIssue || a > core.ActionRevoke || slices.Contains(info.Actions[:i], a) {
			t.Errorf("action %d is unknown or listed twice", a)
		}
	}
	for i, alg := range info.Algorithms {
		if slices.Contains(info.Algorithms[:i], alg) {
			t.Errorf("algorithm %s is listed twice", alg)
		}
	}
	for i, anchor := range info.Anchors {
		if _, err := x509.ParseCertificate(anchor); err != nil {
			t.Errorf("anchor %d: %v", i, err)
		}
	}
	clear(info.Actions) // a caller's slice, not the issuer's
	clear(info.Algorithms)
	if again := issuerInfo(t, issuer); !slices.Contains(again.Actions, core.ActionIssue) || again.Algorithms[0] == "" {
		t.Error("changing the description changed the issuer")
	}
}

func checkIssue(t testing.TB, open func() core.CredentialIssuer) {
	for _, e := range enrolments(t, open, "alice/laptop") {
		issuer := open()
		e.vouches(e.finish(always(issuer), e.begin(issuer)))
	}
}

func checkRestart(t testing.TB, open func() core.CredentialIssuer) {
	for _, e := range enrolments(t, open, "alice/laptop") {
		step := e.begin(open())
		for range maxSteps {
			// What is stored of a step is data, and comes back in another process.
			stored, err := json.Marshal(step)
			if err != nil {
				t.Fatal(err)
			}
			step = core.Step{}
			if err := json.Unmarshal(stored, &step); err != nil {
				t.Fatal(err)
			}
			if step.Need.Done != nil || step.Need.Refused != nil {
				break
			}
			step = e.step(open(), step)
		}
		e.vouches(e.finish(open, step))
	}
}

func checkInterleaved(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	alice, bob := enrolments(t, open, "alice/laptop")[0], enrolments(t, open, "bob/phone")[0]
	stepA, stepB := alice.begin(issuer), bob.begin(issuer)
	for range maxSteps {
		if stepA.Need.Done == nil && stepA.Need.Refused == nil {
			stepA = alice.step(issuer, stepA)
		}
		if stepB.Need.Done == nil && stepB.Need.Refused == nil {
			stepB = bob.step(issuer, stepB)
		}
	}
	alice.vouches(alice.finish(always(issuer), stepA))
	bob.vouches(bob.finish(always(issuer), stepB))
}

func checkRepeatedAdvance(t testing.TB, open func() core.CredentialIssuer) {
	for _, e := range enrolments(t, open, "alice/laptop") {
		issuer := open()
		step := e.begin(issuer)
		for range maxSteps {
			if step.Need.Done != nil || step.Need.Refused != nil {
				break
			}
			in := e.answer(issuer, step.Need)
			var next core.Step
			for range 2 {
				var err error
				if next, err = issuer.Advance(t.Context(), step.State, in); err != nil {
					t.Fatalf("Advance with the same state and answer: %v", err)
				}
				e.wellFormed(next)
			}
			step = next
		}
		e.vouches(e.finish(always(issuer), step))
	}
}

func checkRenew(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	actions := issuerInfo(t, issuer).Actions
	for _, e := range enrolments(t, open, "alice/laptop") {
		first := e.finish(always(issuer), e.begin(issuer))
		for _, action := range []core.IssueAction{core.ActionRenew, core.ActionRevoke} {
			if !slices.Contains(actions, action) {
				continue
			}
			e.req.Action, e.req.Previous, e.req.Carry = action, first.Credential, first.Carry
			done := e.finish(always(issuer), e.begin(issuer))
			if action == core.ActionRenew {
				e.vouches(done)
				first = done
			}
		}
	}
}

func checkIssueUnsupported(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	info := issuerInfo(t, issuer)
	req := enrolments(t, open, "alice/laptop")[0].req
	for _, action := range []core.IssueAction{0, core.ActionRenew, core.ActionRevoke, core.ActionRevoke + 1} {
		bad := req
		bad.Action = action
		if _, err := issuer.Begin(t.Context(), bad); !slices.Contains(info.Actions, action) && !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("action %d: %v, want ErrUnsupported", action, err)
		}
	}
	for _, alg := range []core.KeyAlgorithm{"", "no such algorithm", core.X25519} {
		bad := req
		bad.Algorithm = alg
		if _, err := issuer.Begin(t.Context(), bad); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("algorithm %q: %v, want ErrUnsupported", alg, err)
		}
	}
	req.ClientID = ""
	if _, err := issuer.Begin(t.Context(), req); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("no client id: %v, want ErrInvalid", err)
	}
}

// answers are one Input of each kind.
var answers = map[string]core.Input{
	"signature": {Signature: []byte("signature")},
	"redirect":  {RedirectQuery: "code=1"},
	"file":      {File: []byte("file")},
	"result":    {Result: []byte("result")},
}

func checkForeignState(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	invalid := func(what string, state []byte, in core.Input) {
		if step, err := issuer.Advance(t.Context(), state, in); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want ErrInvalid", what, step.Need, err)
		}
	}
	for _, state := range []string{"", "nonsense", "{}", "null", "\x00\x00\x00\x00", string(bytes.Repeat([]byte{0xff}, 4096))} {
		for kind, in := range answers {
			invalid(fmt.Sprintf("state %.12q, %s", state, kind), []byte(state), in)
		}
	}
	e := enrolments(t, open, "alice/laptop")[0]
	step := e.begin(issuer)
	for range maxSteps {
		if step.Need.Done != nil || step.Need.Refused != nil {
			break
		}
		for kind, in := range answers {
			fits := map[string]bool{
				"signature": step.Need.Sign != nil, "redirect": step.Need.Visit != nil, "file": step.Need.Show != nil,
				"result": step.Need.Call != nil || step.Need.Wait != nil,
			}
			if !fits[kind] {
				invalid(fmt.Sprintf("%s for %+v", kind, step.Need), step.State, in)
			}
		}
		invalid("two answers", step.State, core.Input{Signature: []byte("signature"), RedirectQuery: "code=1"})
		step = e.step(issuer, step) // a wrong answer did not spoil the right one
	}
	e.vouches(e.finish(always(issuer), step))
	invalid("an answer after the end", step.State, core.Input{Result: []byte("result")})
}

// checkWrongSignature has what is to be signed signed by another key, and another message by the
// right one: neither may lead to a credential.
func checkWrongSignature(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	e := enrolments(t, open, "alice/laptop")[0]
	_, stranger := signerFor(t, nil, e.req.Algorithm)
	for what, sign := range map[string]func([]byte) []byte{
		"a signature by another key":      stranger,
		"a signature of another message":  func(message []byte) []byte { return e.sign(append(bytes.Clone(message), '!')) },
		"a signature that is not one":     func([]byte) []byte { return []byte("signature") },
		"a signature of a part of it all": func(message []byte) []byte { return e.sign(message[:len(message)/2]) },
	} {
		step := e.begin(issuer)
		wrong := false
		for range maxSteps {
			if step.Need.Done != nil || step.Need.Refused != nil {
				break
			}
			var in core.Input
			if step.Need.Sign != nil {
				in, wrong = core.Input{Signature: sign(step.Need.Sign.Message)}, true
			} else {
				in = e.answer(issuer, step.Need)
			}
			next, err := issuer.Advance(t.Context(), step.State, in)
			if err != nil {
				step = core.Step{} // as it should be
				break
			}
			step = next
		}
		if wrong && step.Need.Done != nil {
			t.Errorf("%s has led to a credential", what)
		}
	}
}

func checkUnmetNeed(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	e := enrolments(t, open, "alice/laptop")[0]
	step := e.begin(issuer)
	for range maxSteps {
		if r := step.Need.Refused; r != nil {
			if e.req.Carry = r.Carry; !r.Final { // then another try may go well
				e.vouches(e.finish(always(issuer), e.begin(issuer)))
			}
			return
		}
		if step.Need.Done != nil {
			return
		}
		in := core.Input{Error: "nobody at home"}
		if step.Need.Wait != nil {
			in = e.answer(issuer, step.Need)
		}
		next, err := issuer.Advance(t.Context(), step.State, in)
		if err != nil {
			t.Fatalf("Advance after a need that cannot be met: %v", err)
		}
		e.wellFormed(next)
		step = next
	}
	t.Errorf("no end after %d needs that were not met", maxSteps)
}

func checkIssuerSlices(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	for _, e := range enrolments(t, open, "alice/laptop") {
		public := bytes.Clone(e.req.PublicKey)
		e.req.Extra = map[string]string{}
		step := e.begin(issuer)
		if !bytes.Equal(e.req.PublicKey, public) || len(e.req.Extra) != 0 {
			t.Error("Begin changed the request")
		}
		clear(e.req.PublicKey) // its owner may
		for range maxSteps {
			if step.Need.Done != nil || step.Need.Refused != nil {
				break
			}
			in := e.answer(issuer, step.Need)
			state, before := bytes.Clone(step.State), fmt.Sprint(in)
			next, err := issuer.Advance(t.Context(), step.State, in)
			if err != nil {
				t.Fatalf("Advance: %v", err)
			}
			if !bytes.Equal(state, step.State) || fmt.Sprint(in) != before {
				t.Error("Advance changed the state or the answer")
			}
			clear(step.State)
			clear(in.Signature)
			clear(in.File)
			clear(in.Result)
			step = next
		}
		e.vouches(e.finish(always(issuer), step))
	}
}

func checkIssuerConcurrency(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	var wg sync.WaitGroup
	for i := range 8 {
		e := enrolments(t, open, core.ClientID(fmt.Sprint("client ", i)))[0]
		wg.Go(func() { // recorded, because only the check's own goroutine may call Fatal
			r := recorded(t.Context(), t, func(tb testing.TB) {
				e.TB = tb
				e.vouches(e.finish(always(issuer), e.begin(issuer)))
			})
			for _, report := range r.report {
				t.Error(report)
			}
			for _, text := range r.logged {
				t.Log(text)
			}
		})
	}
	wg.Wait()
}

func checkIssuerCancellation(t testing.TB, open func() core.CredentialIssuer) {
	issuer := open()
	e := enrolments(t, open, "alice/laptop")[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cancelled := func(op string, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after cancellation: %v, want context.Canceled", op, err)
		}
	}
	_, err := issuer.Describe(ctx)
	cancelled("Describe", err)
	_, err = issuer.Begin(ctx, e.req)
	cancelled("Begin", err)
	step := e.begin(issuer)
	for range maxSteps {
		if step.Need.Done != nil || step.Need.Refused != nil {
			break
		}
		_, err = issuer.Advance(ctx, step.State, e.answer(issuer, step.Need))
		cancelled("Advance", err)
		step = e.step(issuer, step)
	}
	e.vouches(e.finish(always(issuer), step))
}
