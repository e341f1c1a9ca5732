// SPDX-License-Identifier: Apache-2.0

package coretest_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
)

// A patient issuer has one need of each kind before it issues a basic
// credential. Its state is the request and how far it is, with nothing kept in
// memory. The wrong issuers below are this one with a method replaced.
type patient struct{}

type patientState struct {
	Patient bool // so that foreign JSON is not taken for a state
	Request core.IssueRequest
	Round   int
}

func (patient) Describe(ctx context.Context) (core.IssuerInfo, error) {
	return core.IssuerInfo{
		Name: "patient", Type: core.CredentialBasic,
		Actions:    []core.IssueAction{core.ActionIssue, core.ActionRenew, core.ActionRevoke},
		Algorithms: []core.KeyAlgorithm{core.Ed25519},
	}, ctx.Err()
}

func (patient) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	switch {
	case ctx.Err() != nil:
		return core.Step{}, ctx.Err()
	case req.Action < core.ActionIssue || req.Action > core.ActionRevoke || req.Algorithm != core.Ed25519:
		return core.Step{}, core.ErrUnsupported
	case req.ClientID == "":
		return core.Step{}, core.ErrInvalid
	}
	return patientState{Patient: true, Request: req}.step()
}

func (s patientState) step() (core.Step, error) {
	state, err := json.Marshal(s)
	if err != nil {
		return core.Step{}, err
	}
	needs := []core.Need{
		{Sign: &core.SignNeed{Message: []byte("prove it, " + s.Request.ClientID)}},
		{Wait: &core.WaitNeed{After: time.Millisecond}},
		{Visit: &core.VisitNeed{URL: "https://idp.example/authorize", RedirectURI: "http://127.0.0.1/"}},
		{Call: &core.CallNeed{Kind: "example.token", Args: map[string]string{"client": string(s.Request.ClientID)}}},
		{Show: &core.ShowNeed{Text: "have this signed", File: s.Request.PublicKey}},
		{Done: &core.Issued{Credential: core.BasicCredential(s.Request.ClientID), Carry: []byte("carry")}},
	}
	return core.Step{State: state, Need: needs[s.Round]}, nil
}

func (patient) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	if ctx.Err() != nil {
		return core.Step{}, ctx.Err()
	}
	var s patientState
	if err := json.Unmarshal(state, &s); err != nil || !s.Patient || s.Round < 0 || s.Round > 4 {
		return core.Step{}, core.ErrInvalid
	}
	if in.Error != "" {
		return core.Step{Need: core.Need{Refused: &core.Refusal{Reason: in.Error}}}, nil
	}
	given := []bool{in.Signature != nil, false, in.RedirectQuery != "", in.Result != nil, in.File != nil}
	if s.Round == 1 {
		given[1], given[3] = true, false // an answer to Wait is a result of no bytes
	}
	want := make([]bool, len(given))
	want[s.Round] = true
	if !slices.Equal(given, want) {
		return core.Step{}, core.ErrInvalid
	}
	if s.Round == 0 && !ed25519.Verify(s.Request.PublicKey, []byte("prove it, "+s.Request.ClientID), in.Signature) {
		return core.Step{}, core.ErrInvalid
	}
	s.Round++
	return s.step()
}

// believing takes any signature.
type believing struct{ patient }

func (b believing) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	var s patientState
	if json.Unmarshal(state, &s) == nil && s.Patient && s.Round == 0 && in.Signature != nil {
		s.Round++
		return s.step()
	}
	return b.patient.Advance(ctx, state, in)
}

// Answer makes it a coretest.Answerer.
func (patient) Answer(_ context.Context, need core.Need) (core.Input, error) {
	switch {
	case need.Visit != nil:
		return core.Input{RedirectQuery: "code=1&state=2"}, nil
	case need.Call != nil:
		return core.Input{Result: []byte("token of " + need.Call.Args["client"])}, nil
	case need.Show != nil:
		return core.Input{File: []byte("signed")}, nil
	}
	return core.Input{}, fmt.Errorf("unexpected need %+v", need)
}

func TestIssuerWithManyNeeds(t *testing.T) {
	coretest.TestCredentialIssuer(t, func(*testing.T) core.CredentialIssuer { return patient{} })
}

// A changed issuer is the patient one with something done before or after.
type changed struct {
	patient
	before func(req *core.IssueRequest)
	after  func(step *core.Step)
	failed func(err error) error
	input  func(in *core.Input)
	deaf   bool
}

func (c *changed) context(ctx context.Context) context.Context {
	if c.deaf {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func (c *changed) done(step core.Step, err error) (core.Step, error) {
	if err != nil && c.failed != nil {
		err = c.failed(err)
	}
	if err == nil && c.after != nil {
		c.after(&step)
	}
	return step, err
}

func (c *changed) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	if c.before != nil {
		c.before(&req)
	}
	return c.done(c.patient.Begin(c.context(ctx), req))
}

func (c *changed) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	if c.input != nil {
		c.input(&in)
	}
	return c.done(c.patient.Advance(c.context(ctx), state, in))
}

// A forgetful issuer keeps the order in memory: the last one, or each once.
type forgetful struct {
	patient
	last   bool
	mu     sync.Mutex
	next   int
	orders map[string][]byte
}

func (f *forgetful) keep(step core.Step, err error) (core.Step, error) {
	if err != nil || step.Need.Done != nil {
		return step, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.orders == nil {
		f.orders = map[string][]byte{}
	}
	f.next++
	key := fmt.Sprint("order ", f.next)
	if f.last {
		key = "the order"
	}
	f.orders[key] = step.State
	return core.Step{State: []byte(key), Need: step.Need}, nil
}

func (f *forgetful) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	return f.keep(f.patient.Begin(ctx, req))
}

func (f *forgetful) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	f.mu.Lock()
	order := f.orders[string(state)]
	f.mu.Unlock()
	step, err := f.patient.Advance(ctx, order, in)
	if err == nil && !f.last { // an order goes on once
		f.mu.Lock()
		delete(f.orders, string(state))
		f.mu.Unlock()
	}
	return f.keep(step, err)
}

func TestWrongIssuersAreCaught(t *testing.T) {
	for name, tt := range map[string]struct {
		open func() core.CredentialIssuer
		want []string
	}{
		"repeats itself and never ends": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) {
				var state patientState
				if json.Unmarshal(s.State, &state) == nil && state.Round > 0 {
					state.Round = 1
					*s, _ = state.step()
				}
			}}
		}, []string{"issues"}},
		"asks again when a need cannot be met": {func() core.CredentialIssuer {
			return &changed{input: func(in *core.Input) {
				if in.Error != "" {
					*in = core.Input{Signature: []byte(in.Error)}
				}
			}}
		}, []string{"ends when a need cannot be met"}},
		"does not know what a refusal carries": {func() core.CredentialIssuer {
			return &changed{before: func(req *core.IssueRequest) {
				if string(req.Carry) == "a used token" {
					req.Action = 0
				}
			}, after: func(s *core.Step) {
				if s.Need.Refused != nil {
					s.Need.Refused.Carry = []byte("a used token")
				}
			}}
		}, []string{"ends when a need cannot be met"}},
		"issues to somebody else": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) {
				if s.Need.Done != nil {
					s.Need.Done.Credential.Identity = []byte("mallory")
				}
			}}
		}, []string{"issues"}},
		"issues another type": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) {
				if s.Need.Done != nil {
					s.Need.Done.Credential.Type = core.CredentialX509
				}
			}}
		}, []string{"issues"}},
		"needs two things at once": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) {
				if s.Need.Done != nil {
					s.Need.Refused = &core.Refusal{Reason: "both"}
				}
			}}
		}, []string{"issues"}},
		"needs nothing": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) { s.Need = core.Need{} }}
		}, []string{"issues"}},
		"refuses everybody": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) { s.Need = core.Need{Refused: &core.Refusal{Final: true}} }}
		}, []string{"issues"}},
		"asks for a signature over nothing": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) {
				if s.Need.Sign != nil {
					s.Need.Sign.Message = nil
				}
			}}
		}, []string{"issues"}},
		"returns a state that fits no record": {func() core.CredentialIssuer {
			return &changed{after: func(s *core.Step) { s.State = append(s.State, make([]byte, core.MaxValue)...) }}
		}, []string{"issues"}},
		"forgets its orders in a restart": {func() core.CredentialIssuer { return &forgetful{} },
			[]string{"goes on after a restart", "takes the same answer twice"}},
		"knows one order at a time": {func() core.CredentialIssuer { return &forgetful{last: true} },
			[]string{"keeps enrolments apart", "works concurrently"}},
		"believes any signature": {func() core.CredentialIssuer { return believing{} }, []string{"believes no wrong signature"}},
		"renews what it does not say": {func() core.CredentialIssuer { return unsaid{} },
			[]string{"refuses other actions and algorithms"}},
		"takes any algorithm and client": {func() core.CredentialIssuer {
			return &changed{before: func(req *core.IssueRequest) {
				req.Algorithm = core.Ed25519
				if req.ClientID == "" {
					req.ClientID = "anonymous"
				}
			}}
		}, []string{"refuses other actions and algorithms"}},
		"cannot renew, though it says so": {func() core.CredentialIssuer {
			return &changed{before: func(req *core.IssueRequest) {
				if req.Action == core.ActionRenew {
					req.Action = 0
				}
			}}
		}, []string{"renews and revokes if it says so"}},
		"takes any answer": {func() core.CredentialIssuer { return credulous{} },
			[]string{"refuses states and answers that do not fit"}},
		"loses the identity of errors": {func() core.CredentialIssuer {
			return &changed{failed: func(err error) error { return errors.New(err.Error()) }}
		}, []string{"refuses other actions and algorithms", "refuses states and answers that do not fit", "heeds cancellation"}},
		"changes the request": {func() core.CredentialIssuer {
			return &changed{before: func(req *core.IssueRequest) {
				if req.Extra != nil {
					req.Extra["seen"] = "yes"
				}
			}}
		}, []string{"neither keeps nor changes slices"}},
		"changes the answer": {func() core.CredentialIssuer {
			return &changed{input: func(in *core.Input) {
				if len(in.File) > 0 {
					in.File[0] ^= 1
				}
			}}
		}, []string{"neither keeps nor changes slices"}},
		"is deaf to cancellation": {func() core.CredentialIssuer { return &changed{deaf: true} },
			[]string{"heeds cancellation"}},
		"describes nothing": {func() core.CredentialIssuer { return nameless{} }, []string{"describes itself"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			coretest.CatchIssuer(t, func(testing.TB) core.CredentialIssuer { return tt.open() }, tt.want...)
		})
	}
}

// unsaid issues and renews, but says only the first.
type unsaid struct{ patient }

func (u unsaid) Describe(ctx context.Context) (core.IssuerInfo, error) {
	info, err := u.patient.Describe(ctx)
	info.Actions = info.Actions[:1]
	return info, err
}

// nameless says nothing of itself but its algorithm.
type nameless struct{ patient }

func (nameless) Describe(ctx context.Context) (core.IssuerInfo, error) {
	return core.IssuerInfo{Algorithms: []core.KeyAlgorithm{core.Ed25519}}, ctx.Err()
}

// credulous goes on whatever the answer is.
type credulous struct{ patient }

func (c credulous) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	var s patientState
	if err := json.Unmarshal(state, &s); err != nil || s.Round > 4 || ctx.Err() != nil || !s.Patient {
		return c.patient.Advance(ctx, state, in)
	}
	s.Round++
	return s.step()
}

// lonely is an issuer with needs that nobody meets.
type lonely struct{ core.CredentialIssuer }

// Outside of a test an issuer is asked by a new process after each step; where it wants
// somebody else there is no verdict.
func TestIssuerChecksOutsideATest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		open            func() core.CredentialIssuer
		skips, restarts bool
	}{
		"all is well": {func() core.CredentialIssuer { return patient{} }, false, true},
		"alone":       {func() core.CredentialIssuer { return lonely{patient{}} }, true, false},
	} {
		crashes := 0
		for _, check := range coretest.IssuerChecks(func(context.Context, string) (core.CredentialIssuer, error) { return c.open(), nil }, func() { crashes++ }) {
			before := crashes
			r := check.Run(t.Context())
			if len(r.Failures) > 0 {
				t.Errorf("%s: %+v", name, r)
			}
			finishes := !slices.Contains([]string{"describes itself", "refuses other actions and algorithms", "believes no wrong signature"}, check.Name)
			if (r.Skipped != "") != (c.skips && finishes) {
				t.Errorf("%s: %+v", name, r)
			}
			if crashes > before && check.Name != "goes on after a restart" {
				t.Errorf("%s: %s: crashed", name, check.Name)
			}
		}
		if crashes == 0 || c.restarts && crashes < 6 {
			t.Errorf("%s: %d crashes", name, crashes)
		}
	}
}
