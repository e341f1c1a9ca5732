// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// An enrolment that is not over has a record, which names its signature key: what is
// made for it, in a token too, is found after a crash, and stays while a credential that
// had the key goes. Whatever gives a key another name, or takes one away, replaces the
// record of who we are, the head of our credentials: so nobody takes the last name away
// while another one is given.

// An EnrollmentHandle names an enrolment in our store. It is no secret.
type EnrollmentHandle [32]byte

// String is hexadecimal.
func (h EnrollmentHandle) String() string { return hex.EncodeToString(h[:]) }

func newEnrollmentHandle() (h EnrollmentHandle) {
	_, _ = rand.Read(h[:]) // never fails, see crypto/rand
	return h
}

// enrollment is the record of an enrolment: of an Enrollment if issue is nil.
type enrollment struct {
	suite  core.SuiteID
	key    []byte   // public signature key; empty: none was made yet
	holder [16]byte // who has the Enrollment; zero: nobody, it is stashed
	stash  []byte
	issue  *issue
}

// issue is a conversation with an issuer.
type issue struct {
	params IssueParams // Suite is that of the enrolment
	carry  []byte      // of the last refusal, for another try; what is for a renewal is kept with the credential
	step   *core.Step  // nil: not begun
}

func (r enrollment) encode() []byte {
	e := newEncoder().u16(uint16(r.suite)).bytes(r.key).raw(r.holder[:]).bytes(r.stash).flag(r.issue != nil)
	if r.issue == nil {
		return e
	}
	p := r.issue.params
	e = e.bytes([]byte(p.Issuer)).bytes([]byte(p.ClientID)).bytes([]byte(p.Handle)).bytes([]byte(p.DisplayName))
	e = e.texts(p.Extra).u8(uint8(p.Action)).u64(uint64(p.Credential)).bytes(r.issue.carry).flag(r.issue.step != nil)
	if r.issue.step == nil {
		return e
	}
	return e.bytes(r.issue.step.State).stepNeed(r.issue.step.Need)
}

func decodeEnrollment(value []byte) (r enrollment, err error) {
	err = decodeRecord("an enrolment", value, func(d *decoder) {
		r.suite, r.key = core.SuiteID(d.u16()), d.bytes()
		d.raw(r.holder[:])
		r.stash = d.bytes()
		if !d.flag() {
			return
		}
		r.issue = &issue{params: IssueParams{
			Suite: r.suite, Issuer: string(d.bytes()), ClientID: core.ClientID(d.bytes()), Handle: string(d.bytes()), DisplayName: string(d.bytes()),
			Extra: d.texts(), Action: core.IssueAction(d.u8()), Credential: CredentialRef(d.u64()),
		}}
		r.issue.carry = d.bytes()
		if d.flag() {
			r.issue.step = &core.Step{State: d.bytes(), Need: d.stepNeed()}
		}
	})
	return r, err
}

// texts appends a list of names and values, in the order of the names.
func (e encoder) texts(m map[string]string) encoder {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		e = e.flag(true).bytes([]byte(name)).bytes([]byte(m[name]))
	}
	return e.flag(false)
}

func (d *decoder) texts() (m map[string]string) {
	for d.flag() {
		if m == nil {
			m = map[string]string{}
		}
		name := string(d.bytes())
		m[name] = string(d.bytes())
	}
	return m
}

// The needs that are stored: the other two end an enrolment.
const (
	needSign = iota + 1
	needVisit
	needCall
	needShow
	needWait
)

func (e encoder) stepNeed(n core.Need) encoder {
	switch {
	case n.Sign != nil:
		return e.u8(needSign).bytes(n.Sign.Message)
	case n.Visit != nil:
		return e.u8(needVisit).bytes([]byte(n.Visit.URL)).bytes([]byte(n.Visit.RedirectURI))
	case n.Call != nil:
		return e.u8(needCall).bytes([]byte(n.Call.Kind)).texts(n.Call.Args)
	case n.Show != nil:
		return e.u8(needShow).bytes([]byte(n.Show.Text)).bytes(n.Show.File)
	}
	return e.u8(needWait).u64(uint64(n.Wait.After))
}

func (d *decoder) stepNeed() (n core.Need) {
	switch d.u8() {
	case needSign:
		n.Sign = &core.SignNeed{Message: d.bytes()}
	case needVisit:
		n.Visit = &core.VisitNeed{URL: string(d.bytes()), RedirectURI: string(d.bytes())}
	case needCall:
		n.Call = &core.CallNeed{Kind: string(d.bytes()), Args: d.texts()}
	case needShow:
		n.Show = &core.ShowNeed{Text: string(d.bytes()), File: d.bytes()}
	case needWait:
		n.Wait = &core.WaitNeed{After: time.Duration(d.u64())}
	default:
		d.need(false)
	}
	return n
}

var enrollmentPlace = at(tableEnrollment, "")

// enrollment finds an enrolment; nobody else may change it meanwhile.
func (t *Transaction) enrollment(ctx context.Context, h EnrollmentHandle) (enrollment, core.Version, error) {
	r, found, err := t.segment.getExpected(ctx, enrollmentPlace, h[:])
	if err != nil {
		return enrollment{}, core.Version{}, err
	}
	if !found {
		return enrollment{}, core.Version{}, ErrEnrollmentNotFound
	}
	e, err := decodeEnrollment(r.Value)
	return e, r.Version, err
}

func (t *Transaction) putEnrollment(h EnrollmentHandle, r enrollment) {
	t.segment.put(enrollmentPlace, h[:], r.encode())
}

// enrollments lists those that are not over, by their handles.
func enrollments(ctx context.Context, s *segment) (handles []EnrollmentHandle, list []enrollment, err error) {
	answers, err := s.read(ctx, query{place: enrollmentPlace})
	if err != nil {
		return nil, nil, err
	}
	for _, r := range answers[0] {
		e, err := decodeEnrollment(r.Value)
		if err != nil || len(r.Key) != len(EnrollmentHandle{}) {
			return nil, nil, fmt.Errorf("an enrolment: %w", core.ErrDamaged)
		}
		handles, list = append(handles, EnrollmentHandle(r.Key)), append(list, e)
	}
	return handles, list, nil
}

// DropEnrollment ends an enrolment, whatever it waits for, and deletes what is stored of
// it; its signature key too, unless a credential or another enrolment has it. Nobody is
// told. ErrEnrollmentNotFound.
func (t *Transaction) DropEnrollment(ctx context.Context, h EnrollmentHandle) error {
	return t.do(ctx, func() error {
		who, err := t.identity(ctx)
		if err != nil {
			return err
		}
		r, _, err := t.enrollment(ctx, h)
		if err != nil {
			return err
		}
		t.putIdentity(who)
		return t.dropEnrollment(ctx, h, r)
	})
}

// dropEnrollment deletes the record, and the key if nothing else names it; the caller
// stores who we are.
func (t *Transaction) dropEnrollment(ctx context.Context, h EnrollmentHandle, r enrollment) error {
	t.segment.del(enrollmentPlace, h[:])
	if len(r.key) == 0 {
		return nil
	}
	return t.dropUnnamed(ctx, r.key)
}

// dropUnnamed deletes a signature key if no credential and no enrolment has it any more;
// the caller replaces the record of who we are.
func (t *Transaction) dropUnnamed(ctx context.Context, key []byte) error {
	own, err := credentials(ctx, t.segment)
	if err != nil {
		return err
	}
	_, open, err := enrollments(ctx, t.segment)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(own, func(c Credential) bool { return bytes.Equal(c.SignatureKey, key) }) ||
		slices.ContainsFunc(open, func(e enrollment) bool { return bytes.Equal(e.key, key) }) {
		return nil
	}
	return t.dropKey(ctx, key)
}

// A source is who gave what is carried to a renewal, and gets it back: an issuer by its name,
// or the identity provider of an enrolment that the application made.
type source struct {
	issuer bool
	name   string
}

func (p IssueParams) source() source { return source{true, p.Issuer} }

// carry is what the issuer of a credential of ours wants for its renewal, such as a
// refresh token. It is nothing if there is none, or if another one gave it.
func carry(ctx context.Context, s *segment, ref CredentialRef, to source) (secret core.Secret, err error) {
	r, found, err := s.get(ctx, at(tableCarry, ""), ref.key())
	if err != nil || !found {
		return core.Secret{}, err
	}
	err = decodeRecord("what is carried to a renewal", r.Value, func(d *decoder) {
		from := source{d.flag(), string(d.bytes())}
		if secret = core.NewSecret(d.bytes()); from != to {
			secret.Wipe()
			secret = core.Secret{}
		}
	})
	return secret, err
}

func (t *Transaction) putCarry(ref CredentialRef, from source, carry []byte) {
	if len(carry) > 0 {
		t.segment.put(at(tableCarry, ""), ref.key(), newEncoder().flag(from.issuer).bytes([]byte(from.name)).bytes(carry))
	}
}

// trustIssued judges a certificate that was issued to us, registers the CAs that came with it,
// and gives the addresses of the revocation lists that all of them name and of which none is
// registered. A CA that nobody vouches for is passed over: the leaf's path decides. Errors: e2ei.ErrNotReady, and those of [e2ei.Environment.VerifyIssued].
func (t *Transaction) trustIssued(ctx context.Context, c core.Credential) (distributionPoints []string, err error) {
	if len(c.Certificates) == 0 {
		return nil, e2ei.ErrCertificate
	}
	r, err := t.addIntermediates(ctx, c.Certificates[1:], core.ErrDenied)
	if err != nil {
		return nil, err
	}
	leaf, err := e2ei.ParseLeaf(c.Certificates[0])
	if err != nil {
		return nil, err
	}
	if err := r.value.Verify(leaf, t.client.now()); err != nil && !errors.Is(err, e2ei.ErrRevocationUnknown) {
		return nil, err
	}
	return r.value.NewDistributionPoints(c.Certificates...), nil
}

// keepIssued stores a credential that was issued for a signature key of ours, with what its
// issuer wants for renewal; the caller stores who. One that we have already stays as it is.
func (t *Transaction) keepIssued(ctx context.Context, who *identity, scheme core.SignatureScheme, key []byte, issued core.Issued, by source) (Credential, error) {
	list, err := credentials(ctx, t.segment)
	if err != nil {
		return Credential{}, err
	}
	own := Credential{Credential: issued.Credential, SignatureKey: key}
	if i := slices.IndexFunc(list, own.same); i >= 0 {
		own = list[i]
	} else if own, err = t.putCredential(ctx, who, scheme, issued.Credential, key); err != nil {
		return Credential{}, err
	}
	t.putCarry(own.Ref, by, issued.Carry)
	return own, nil
}
