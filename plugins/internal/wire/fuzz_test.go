// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
)

// same compares values by what they print: nil and empty are the same.
func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if w, g := fmt.Sprintf("%+q", want), fmt.Sprintf("%+q", got); w != g {
		t.Errorf("%s: sent %s, received %s", what, w, g)
	}
}

// Whatever our types hold goes over unchanged.
func FuzzRoundTrip(f *testing.F) {
	f.Add(byte(1), []byte("key"), []byte("value"), "text", int64(7), true)
	f.Add(byte(255), []byte{}, []byte(nil), "", int64(-1), false)
	f.Fuzz(func(t *testing.T, n byte, a, b []byte, text string, i int64, yes bool) {
		text = strings.ToValidUTF8(text, "?")
		var v core.Version
		copy(v[:], b)
		check := func(what string, want, got any, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			same(t, what, want, got)
		}
		q := core.Query{Table: core.Table(n), Prefix: a, After: b, Limit: int(i), KeysOnly: yes}
		gotQ, err := FromQuery(sent(t, ToQuery(&q), &Query{}))
		check("query", q, gotQ, err)
		r := core.Record{Key: a, Value: b, Version: v}
		at, gotR, err := FromRecord(sent(t, ToRecord(int(n), &r), &Record{}))
		check("record", r, gotR, err)
		same(t, "query of a record", int(n), at)
		e := core.Expectation{Table: core.Table(n), Key: a, Version: v}
		gotE, err := FromExpectation(sent(t, ToExpectation(&e), &Expectation{}))
		check("expectation", e, gotE, err)
		d := core.Range{Table: core.Table(n), Prefix: a}
		gotD, err := FromRange(sent(t, ToRange(&d), &Range{}))
		check("range", d, gotD, err)
		p := core.Put{Table: core.Table(n), Key: a, Value: b, Version: v}
		gotP, err := FromPut(sent(t, ToPut(&p), &Put{}))
		check("put", p, gotP, err)
		s := core.KeySpec{ID: v, Algorithm: core.KeyAlgorithm(text), Use: core.KeyUse(n), Label: text}
		gotS, err := FromKeySpec(sent(t, ToKeySpec(&s), &KeySpec{}))
		check("key spec", s, gotS, err)
		info := core.IssuerInfo{
			Name: text, Type: core.CredentialType(uint16(i)), Actions: []core.IssueAction{core.IssueAction(n)},
			Algorithms: []core.KeyAlgorithm{core.KeyAlgorithm(text), "x"}, Anchors: [][]byte{a, b},
		}
		gotInfo, err := FromIssuerInfo(sent(t, ToIssuerInfo(&info), &IssuerInfo{}))
		check("issuer info", info, gotInfo, err)
		c := core.Credential{Type: core.CredentialType(uint16(i)), Identity: a, Certificates: [][]byte{b, a}, Opaque: b}
		req := core.IssueRequest{
			Action: core.IssueAction(n), ClientID: core.ClientID(a), Handle: text, Display: text + "d",
			Algorithm: core.KeyAlgorithm(text), PublicKey: b, Previous: c, Carry: a, Extra: map[string]string{text: "x", "y" + text: text},
		}
		gotReq, err := FromIssueRequest(sent(t, ToIssueRequest(&req), &IssueRequest{}))
		check("issue request", req, gotReq, err)
		in := core.Input{Signature: a, RedirectQuery: text, Result: b, File: a, Error: text}
		check("input", in, FromInput(sent(t, ToInput(&in), &Input{})), nil)

		for kind, need := range []core.Need{
			{Sign: &core.SignNeed{Message: a}},
			{Visit: &core.VisitNeed{URL: text, RedirectURI: "r" + text}},
			{Call: &core.CallNeed{Kind: text, Args: map[string]string{text: "x"}}},
			{Show: &core.ShowNeed{Text: text, File: b}},
			{Wait: &core.WaitNeed{After: time.Duration(i)}},
			{Done: &core.Issued{Credential: c, Carry: b}},
			{Refused: &core.Refusal{Reason: text, Final: yes, Carry: b}},
		} {
			m, err := ToStep(&core.Step{State: a, Need: need})
			if err != nil {
				t.Fatal(err)
			}
			got, err := FromStep(sent(t, m, &Step{}))
			check("state", a, got.State, err)
			for j, pair := range [][2]any{
				{deref(need.Sign), deref(got.Need.Sign)}, {deref(need.Visit), deref(got.Need.Visit)},
				{deref(need.Call), deref(got.Need.Call)}, {deref(need.Show), deref(got.Need.Show)},
				{deref(need.Wait), deref(got.Need.Wait)}, {deref(need.Done), deref(got.Need.Done)},
				{deref(need.Refused), deref(got.Need.Refused)},
			} {
				same(t, fmt.Sprintf("need %d, field %d", kind, j), pair[0], pair[1])
			}
		}
	})
}

// deref is what a field of a Need points to, or "none".
func deref[T any](p *T) any {
	if p == nil {
		return "none"
	}
	return *p
}

// Whatever a message holds, it is translated or refused; never more is made of it.
func TestMalformed(t *testing.T) {
	id := make([]byte, 16)
	for what, err := range map[string]error{
		"table of a query":          last(FromQuery(&Query{Table: 256})),
		"version of a record":       third(FromRecord(&Record{Version: id[:15]})),
		"no record":                 third(FromRecord(nil)),
		"table of an expectation":   last(FromExpectation(&Expectation{Table: 1 << 20, Version: id})),
		"version of an expectation": last(FromExpectation(&Expectation{Version: append(id, 0)})),
		"table of a range":          last(FromRange(&Range{Table: 256})),
		"table of a put":            last(FromPut(&Put{Table: 256, Version: id})),
		"version of a put":          last(FromPut(&Put{})),
		"id of a key":               last(FromKeySpec(&KeySpec{Id: id[1:]})),
		"no key spec":               last(FromKeySpec(nil)),
		"type of an issuer":         last(FromIssuerInfo(&IssuerInfo{Type: 1 << 16})),
		"action of an issuer":       last(FromIssuerInfo(&IssuerInfo{Actions: []uint32{256}})),
		"type of a credential":      last(FromCredential(&Credential{Type: 1 << 16})),
		"type of the previous":      last(FromIssueRequest(&IssueRequest{Previous: &Credential{Type: 1 << 16}})),
		"type of the issued":        last(FromStep(&Step{Need: &Step_Done{&Issued{Credential: &Credential{Type: 1 << 16}}}})),
		"no need":                   last(FromStep(&Step{State: id})),
		"no step":                   last(FromStep(nil)),
		"a step without a need":     last(ToStep(&core.Step{})),
		"a step with two needs":     last(ToStep(&core.Step{Need: core.Need{Sign: &core.SignNeed{}, Wait: &core.WaitNeed{}}})),
	} {
		if core.Kind(err) != core.ErrInvalid {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	s, err := FromKeySpec(&KeySpec{Id: id, Use: 256 + 1})
	r, errR := FromIssueRequest(&IssueRequest{Action: 256 + 1})
	if err != nil || errR != nil || s.Use != 0 || r.Action != 0 {
		t.Error("a use or an action that is none became one")
	}
	if s, err := FromStep(&Step{Need: &Step_Call{}}); err != nil || s.Need.Call == nil {
		t.Errorf("an empty need: %v", err)
	}
}

func last[T any](_ T, err error) error          { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// What a message of the other side says is taken whole or refused: what was taken goes
// over again unchanged.
func FuzzMessages(f *testing.F) {
	for _, m := range []proto.Message{
		&Step{State: []byte("state"), Need: &Step_Done{&Issued{Credential: &Credential{Type: 2, Certificates: [][]byte{{1}, nil}}, Carry: []byte("c")}}},
		&Step{Need: &Step_Call{&CallNeed{Kind: "k", Args: map[string]string{"a": "b", "": ""}}}},
		&IssueRequest{Action: 257, ClientId: []byte("c"), Previous: &Credential{Identity: []byte("i")}, Extra: map[string]string{"x": "y"}},
		&IssuerInfo{Name: "n", Type: 1, Actions: []uint32{1, 300}, Algorithms: []string{"a"}},
		&Put{Table: 255, Key: []byte("k"), Version: make([]byte, 16)},
		&Query{Table: 256, Limit: -1},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, "step", b, &Step{}, FromStep, func(s *core.Step) *Step {
			m, err := ToStep(s)
			if err != nil {
				t.Fatalf("a step was taken that is none: %v", err)
			}
			return m
		})
		again(t, "issue request", b, &IssueRequest{}, FromIssueRequest, ToIssueRequest)
		again(t, "issuer info", b, &IssuerInfo{}, FromIssuerInfo, ToIssuerInfo)
		again(t, "credential", b, &Credential{}, FromCredential, ToCredential)
		again(t, "input", b, &Input{}, func(m *Input) (core.Input, error) { return FromInput(m), nil }, ToInput)
		again(t, "key spec", b, &KeySpec{}, FromKeySpec, ToKeySpec)
		again(t, "query", b, &Query{}, FromQuery, ToQuery)
		again(t, "expectation", b, &Expectation{}, FromExpectation, ToExpectation)
		again(t, "range", b, &Range{}, FromRange, ToRange)
		again(t, "put", b, &Put{}, FromPut, ToPut)
		again(t, "record", b, &Record{}, func(m *Record) (core.Record, error) {
			_, r, err := FromRecord(m)
			return r, err
		}, func(r *core.Record) *Record { return ToRecord(0, r) })
	})
}

// again translates a message, and what it became.
func again[M proto.Message, T any](t *testing.T, what string, b []byte, m M, from func(M) (T, error), to func(*T) M) {
	t.Helper()
	if proto.Unmarshal(b, m) != nil {
		return
	}
	first, err := from(m)
	if err != nil {
		if core.Kind(err) != core.ErrInvalid {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
		return
	}
	second, err := from(to(&first))
	if err != nil {
		t.Errorf("%s: was taken, and then refused: %v", what, err)
	}
	if !reflect.DeepEqual(first, second) && plain(first) != plain(second) {
		t.Errorf("%s: became %s, then %s", what, plain(first), plain(second))
	}
}

// plain prints a value with all it points to; nil and empty are the same.
func plain(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return strings.NewReplacer(`""`, "null", "[]", "null", "{}", "null").Replace(string(b))
}

// An error of the other side is of known kinds and has a text that is fit for a log.
func FuzzError(f *testing.F) {
	for _, e := range []*Error{
		{Codes: []ErrorCode{ErrorCode_ERROR_CODE_CONFLICT, 1000, -1}, Text: "a\nb\x1b[31m"},
		{Codes: []ErrorCode{1000}}, {Text: strings.Repeat("é", maxErrorText)},
	} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &Error{}
		if proto.Unmarshal(b, e) != nil {
			return
		}
		err := FromError(e)
		text := err.Error()
		if text == "" || len(text) > maxErrorText || text != Printable(text) || !utf8.ValidString(text) {
			t.Errorf("a text of %d bytes: %.40q", len(text), text)
		}
		second := FromError(ToError(err))
		if second.Error() != text || core.Kind(second) != core.Kind(err) {
			t.Errorf("%q (%v) becomes %q (%v)", text, core.Kind(err), second, core.Kind(second))
		}
	})
}
