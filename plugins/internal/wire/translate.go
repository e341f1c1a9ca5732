// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// malformed is what a message of the other side is that says nothing sensible.
func malformed(what string) error {
	return fmt.Errorf("malformed message: %s: %w", what, core.ErrInvalid)
}

func fromTable(n uint32) (core.Table, error) {
	if n > math.MaxUint8 {
		return 0, malformed("table")
	}
	return core.Table(n), nil
}

// toVersion borrows the array: the caller keeps it until the message is sent.
func toVersion(v *core.Version) []byte { return v[:] }

func fromVersion(b []byte) (v core.Version, err error) {
	if len(b) != len(v) {
		return v, malformed("version")
	}
	return core.Version(b), nil
}

// ToQuery and FromQuery translate a question to a keystore.
func ToQuery(q *core.Query) *Query {
	return &Query{Table: uint32(q.Table), Prefix: q.Prefix, After: q.After, Limit: int64(q.Limit), KeysOnly: q.KeysOnly}
}

// FromQuery refuses a table or a limit that is no number of ours.
func FromQuery(m *Query) (core.Query, error) {
	table, err := fromTable(m.GetTable())
	if limit := m.GetLimit(); err == nil && int64(int(limit)) != limit {
		err = malformed("limit")
	}
	return core.Query{Table: table, Prefix: m.GetPrefix(), After: m.GetAfter(), Limit: int(m.GetLimit()), KeysOnly: m.GetKeysOnly()}, err
}

// ToRecord says which query a record answers.
func ToRecord(query int, r *core.Record) *Record {
	return &Record{Query: uint32(query), Key: r.Key, Value: r.Value, Version: toVersion(&r.Version)}
}

// FromRecord refuses a version of another length than 16 bytes.
func FromRecord(m *Record) (query int, r core.Record, err error) {
	v, err := fromVersion(m.GetVersion())
	return int(m.GetQuery()), core.Record{Key: m.GetKey(), Value: m.GetValue(), Version: v}, err
}

// ToExpectation and FromExpectation translate what a batch expects.
func ToExpectation(e *core.Expectation) *Expectation {
	return &Expectation{Table: uint32(e.Table), Key: e.Key, Version: toVersion(&e.Version)}
}

// FromExpectation refuses a table or a version that is none.
func FromExpectation(m *Expectation) (core.Expectation, error) {
	table, err := fromTable(m.GetTable())
	v, errV := fromVersion(m.GetVersion())
	return core.Expectation{Table: table, Key: m.GetKey(), Version: v}, either(err, errV)
}

// ToRange and FromRange translate what a batch deletes.
func ToRange(r *core.Range) *Range { return &Range{Table: uint32(r.Table), Prefix: r.Prefix} }

// FromRange refuses a table that is none.
func FromRange(m *Range) (core.Range, error) {
	table, err := fromTable(m.GetTable())
	return core.Range{Table: table, Prefix: m.GetPrefix()}, err
}

// ToPut and FromPut translate what a batch puts.
func ToPut(p *core.Put) *Put {
	return &Put{Table: uint32(p.Table), Key: p.Key, Value: p.Value, Version: toVersion(&p.Version)}
}

// FromPut refuses a table or a version that is none.
func FromPut(m *Put) (core.Put, error) {
	table, err := fromTable(m.GetTable())
	v, errV := fromVersion(m.GetVersion())
	return core.Put{Table: table, Key: m.GetKey(), Value: m.GetValue(), Version: v}, either(err, errV)
}

func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// ToKeySpec and FromKeySpec translate the wish for a key.
func ToKeySpec(s *core.KeySpec) *KeySpec {
	return &KeySpec{Id: s.ID[:], Algorithm: string(s.Algorithm), Use: uint32(s.Use), Label: s.Label}
}

// FromKeySpec refuses an id of another length than 16 bytes. A use that is none becomes 0,
// which every provider refuses as unsupported.
func FromKeySpec(m *KeySpec) (s core.KeySpec, err error) {
	if len(m.GetId()) != len(s.ID) {
		return s, malformed("id of a key")
	}
	s = core.KeySpec{ID: [16]byte(m.GetId()), Algorithm: core.KeyAlgorithm(m.GetAlgorithm()), Label: m.GetLabel()}
	if use := m.GetUse(); use <= math.MaxUint8 {
		s.Use = core.KeyUse(use)
	}
	return s, nil
}

// ToAlgorithms and FromAlgorithms translate a list of them.
func ToAlgorithms(list []core.KeyAlgorithm) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = string(a)
	}
	return out
}

// FromAlgorithms takes any names.
func FromAlgorithms(list []string) []core.KeyAlgorithm {
	out := make([]core.KeyAlgorithm, len(list))
	for i, a := range list {
		out[i] = core.KeyAlgorithm(a)
	}
	return out
}

// ToIssuerInfo and FromIssuerInfo translate the description of an issuer.
func ToIssuerInfo(info *core.IssuerInfo) *IssuerInfo {
	m := &IssuerInfo{Name: info.Name, Type: uint32(info.Type), Algorithms: ToAlgorithms(info.Algorithms), Anchors: info.Anchors}
	for _, a := range info.Actions {
		m.Actions = append(m.Actions, uint32(a))
	}
	return m
}

// FromIssuerInfo refuses a type or an action that is no number of ours.
func FromIssuerInfo(m *IssuerInfo) (info core.IssuerInfo, err error) {
	if m.GetType() > math.MaxUint16 {
		return info, malformed("credential type")
	}
	info = core.IssuerInfo{
		Name: m.GetName(), Type: core.CredentialType(m.GetType()),
		Algorithms: FromAlgorithms(m.GetAlgorithms()), Anchors: m.GetAnchors(),
	}
	for _, a := range m.GetActions() {
		if a > math.MaxUint8 {
			return core.IssuerInfo{}, malformed("action")
		}
		info.Actions = append(info.Actions, core.IssueAction(a))
	}
	return info, nil
}

// ToCredential and FromCredential translate a credential.
func ToCredential(c *core.Credential) *Credential {
	return &Credential{Type: uint32(c.Type), Identity: c.Identity, Certificates: c.Certificates, Opaque: c.Opaque}
}

// FromCredential refuses a type that is no number of ours. An absent one is the zero value.
func FromCredential(m *Credential) (core.Credential, error) {
	if m.GetType() > math.MaxUint16 {
		return core.Credential{}, malformed("credential type")
	}
	return core.Credential{
		Type: core.CredentialType(m.GetType()), Identity: m.GetIdentity(),
		Certificates: m.GetCertificates(), Opaque: m.GetOpaque(),
	}, nil
}

// ToIssueRequest and FromIssueRequest translate the begin of an enrolment.
func ToIssueRequest(r *core.IssueRequest) *IssueRequest {
	return &IssueRequest{
		Action: uint32(r.Action), ClientId: []byte(r.ClientID), Handle: r.Handle, Display: r.Display,
		Algorithm: string(r.Algorithm), PublicKey: r.PublicKey, Previous: ToCredential(&r.Previous), Carry: r.Carry,
		Extra: maps.Clone(r.Extra),
	}
}

// FromIssueRequest makes an action that is none 0, which every issuer refuses as unsupported.
func FromIssueRequest(m *IssueRequest) (core.IssueRequest, error) {
	previous, err := FromCredential(m.GetPrevious())
	r := core.IssueRequest{
		ClientID: core.ClientID(m.GetClientId()), Handle: m.GetHandle(), Display: m.GetDisplay(),
		Algorithm: core.KeyAlgorithm(m.GetAlgorithm()), PublicKey: m.GetPublicKey(), Previous: previous,
		Carry: m.GetCarry(), Extra: m.GetExtra(),
	}
	if a := m.GetAction(); a <= math.MaxUint8 {
		r.Action = core.IssueAction(a)
	}
	return r, err
}

// ToInput and FromInput translate the answer to a need.
func ToInput(in *core.Input) *Input {
	return &Input{Signature: in.Signature, RedirectQuery: in.RedirectQuery, Result: in.Result, File: in.File, Error: in.Error}
}

// FromInput takes anything; whether it fits is for the issuer to say.
func FromInput(m *Input) core.Input {
	return core.Input{
		Signature: m.GetSignature(), RedirectQuery: m.GetRedirectQuery(),
		Result: m.GetResult(), File: m.GetFile(), Error: m.GetError(),
	}
}

// ToStep refuses a step whose need has not exactly one field set.
func ToStep(s *core.Step) (*Step, error) {
	m := &Step{State: s.State}
	set := 0
	if n := s.Need.Sign; n != nil {
		m.Need, set = &Step_Sign{&SignNeed{Message: n.Message}}, set+1
	}
	if n := s.Need.Visit; n != nil {
		m.Need, set = &Step_Visit{&VisitNeed{Url: n.URL, RedirectUri: n.RedirectURI}}, set+1
	}
	if n := s.Need.Call; n != nil {
		m.Need, set = &Step_Call{&CallNeed{Kind: n.Kind, Args: maps.Clone(n.Args)}}, set+1
	}
	if n := s.Need.Show; n != nil {
		m.Need, set = &Step_Show{&ShowNeed{Text: n.Text, File: n.File}}, set+1
	}
	if n := s.Need.Wait; n != nil {
		m.Need, set = &Step_Wait{&WaitNeed{After: int64(n.After)}}, set+1
	}
	if n := s.Need.Done; n != nil {
		m.Need, set = &Step_Done{&Issued{Credential: ToCredential(&n.Credential), Carry: n.Carry}}, set+1
	}
	if n := s.Need.Refused; n != nil {
		m.Need, set = &Step_Refused{&Refusal{Reason: n.Reason, Final: n.Final, Carry: n.Carry}}, set+1
	}
	if set != 1 {
		return nil, fmt.Errorf("a step with %d needs: %w", set, core.ErrInvalid)
	}
	return m, nil
}

// FromStep refuses a step without a need.
func FromStep(m *Step) (s core.Step, err error) {
	s.State = m.GetState()
	switch n := m.GetNeed().(type) {
	case *Step_Sign:
		s.Need.Sign = &core.SignNeed{Message: n.Sign.GetMessage()}
	case *Step_Visit:
		s.Need.Visit = &core.VisitNeed{URL: n.Visit.GetUrl(), RedirectURI: n.Visit.GetRedirectUri()}
	case *Step_Call:
		s.Need.Call = &core.CallNeed{Kind: n.Call.GetKind(), Args: n.Call.GetArgs()}
	case *Step_Show:
		s.Need.Show = &core.ShowNeed{Text: n.Show.GetText(), File: n.Show.GetFile()}
	case *Step_Wait:
		s.Need.Wait = &core.WaitNeed{After: time.Duration(n.Wait.GetAfter())}
	case *Step_Done:
		var c core.Credential
		c, err = FromCredential(n.Done.GetCredential())
		s.Need.Done = &core.Issued{Credential: c, Carry: n.Done.GetCarry()}
	case *Step_Refused:
		s.Need.Refused = &core.Refusal{Reason: n.Refused.GetReason(), Final: n.Refused.GetFinal(), Carry: n.Refused.GetCarry()}
	default:
		err = malformed("a step without a need")
	}
	if err != nil {
		return core.Step{}, err
	}
	return s, nil
}
