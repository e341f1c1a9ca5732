// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// IssueParams says what is asked of a [core.CredentialIssuer].
type IssueParams struct {
	// Issuer is the application's name for it, for whoever finds the issue open later. What it
	// gives for a renewal, such as a refresh token, is given to an issuer of this name alone.
	Issuer string
	// Suite is one that signs with the scheme of the key; 0: the client's most preferred, or
	// one of the scheme of Credential.
	Suite core.SuiteID
	// ClientID is who enrols if the client has no identity yet; else it is empty or ours.
	ClientID    core.ClientID
	Handle      string
	DisplayName string
	Extra       map[string]string // the issuer's own options
	Action      core.IssueAction  // 0: core.ActionIssue
	// Credential is one of ours, which is to be renewed or revoked. To issue another one for
	// its key is also possible; 0 makes a key.
	Credential CredentialRef
}

// An OpenIssue is one that was begun with [Transaction.BeginIssue] and is not over.
type OpenIssue struct {
	Handle EnrollmentHandle
	IssueParams
	Need core.Need // what it waits for; zero: the issuer was not asked yet
}

// An IssueResult is how an issue ended.
type IssueResult struct {
	// Credential is the new one; after core.ActionRevoke it is the one that was revoked,
	// which is still ours: see [Transaction.RemoveCredential].
	Credential Credential
	// DistributionPoints are the addresses of revocation lists that its certificates name
	// and of which none is registered: see [Transaction.RegisterCRL].
	DistributionPoints []string
}

// An IssueRefusedError is the issuer's refusal, without Carry. A final one ends the issue; after
// another one it is open, and begins again, with the same key, when it is driven again.
type IssueRefusedError struct{ core.Refusal }

func (e *IssueRefusedError) Error() string {
	return fmt.Sprintf("client: refused by the issuer: %.200q", e.Reason)
}

// Is makes the error match [core.ErrDenied].
func (e *IssueRefusedError) Is(target error) bool { return target == core.ErrDenied }

// ErrIssueOpen: what is to begin has begun; see [Transaction.OpenIssues].
var ErrIssueOpen = fmt.Errorf("client: it is open already: %w", core.ErrDenied)

// ErrForeignSignature: an issuer wants a signature over what an MLS client signs.
var ErrForeignSignature = fmt.Errorf("client: signature for somebody else: %w", core.ErrDenied)

// maxSteps bounds how far one call of Issue goes: an issuer that wants more is at fault.
const maxSteps = 1000

// errOvertaken: somebody else drives the same issue. It is a conflict, but nothing is to be
// tried again.
var errOvertaken = errors.New("client: somebody else has driven the issue meanwhile")

// BeginIssue writes down what is to be issued; [Client.Issue] does it. Nothing is made yet, and
// no issuer is asked. ErrNotInitialized: a client without an identity says who it is to be,
// and has nothing to renew. ErrWrongCredential: the client id is not ours, or the suite does not sign with
// the scheme of the credential. ErrCredentialNotFound. ErrIssueOpen: a credential is renewed, and
// revoked, by one issuer once at a time.
func (t *Transaction) BeginIssue(ctx context.Context, p IssueParams) (EnrollmentHandle, error) {
	return in(ctx, t, func() (EnrollmentHandle, error) {
		who, err := t.identity(ctx)
		if err != nil {
			return EnrollmentHandle{}, err
		}
		if p.Action == 0 {
			p.Action = core.ActionIssue
		}
		switch {
		case p.Action > core.ActionRevoke:
			return EnrollmentHandle{}, fmt.Errorf("action %d: %w", p.Action, core.ErrUnsupported)
		case who.id == "" && (p.ClientID == "" || p.Credential != 0):
			return EnrollmentHandle{}, ErrNotInitialized
		case who.id != "" && p.ClientID != "" && p.ClientID != who.id:
			return EnrollmentHandle{}, ErrWrongCredential
		case p.Action != core.ActionIssue && p.Credential == 0:
			return EnrollmentHandle{}, ErrCredentialNotFound
		case IsHistoryClient(p.ClientID):
			return EnrollmentHandle{}, errHistoryID
		}
		if p.Action != core.ActionIssue {
			open, err := openIssues(ctx, t.segment)
			if err != nil {
				return EnrollmentHandle{}, err
			}
			if slices.ContainsFunc(open, func(o OpenIssue) bool {
				return o.Issuer == p.Issuer && o.Action == p.Action && o.Credential == p.Credential
			}) {
				return EnrollmentHandle{}, ErrIssueOpen
			}
		}
		r := enrollment{issue: &issue{params: p}}
		if r.suite, r.key, err = t.keyOf(ctx, p); err != nil {
			return EnrollmentHandle{}, err
		}
		h := newEnrollmentHandle()
		t.putEnrollment(h, r)
		t.putIdentity(who)
		return h, nil
	})
}

// keyOf finds the suite of an issue and, if it is for a credential, that one's key.
func (t *Transaction) keyOf(ctx context.Context, p IssueParams) (core.SuiteID, []byte, error) {
	suites := []core.SuiteID{p.Suite}
	if p.Suite == 0 {
		suites = t.client.suites.Suites()
	}
	if p.Credential == 0 {
		_, err := t.client.suites.Suite(suites[0])
		return suites[0], nil, err
	}
	own, err := credential(ctx, t.segment, p.Credential)
	if err != nil {
		return 0, nil, err
	}
	for _, id := range suites {
		suite, err := t.client.suites.Suite(id)
		if err != nil {
			return 0, nil, err
		}
		if suite.Parameters().Scheme == own.Scheme {
			return id, own.SignatureKey, nil
		}
	}
	return 0, nil, fmt.Errorf("signature scheme %d: %w", own.Scheme, ErrWrongCredential)
}

// OpenIssues lists the issues that are not over.
func (t *Transaction) OpenIssues(ctx context.Context) ([]OpenIssue, error) {
	return in(ctx, t, func() ([]OpenIssue, error) { return openIssues(ctx, t.segment) })
}

// OpenIssues is [Transaction.OpenIssues] of what is durable.
func (c *Client) OpenIssues(ctx context.Context) ([]OpenIssue, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return openIssues(ctx, newSegment(c.store))
}

func openIssues(ctx context.Context, s *segment) (open []OpenIssue, err error) {
	handles, list, err := enrollments(ctx, s)
	for i, r := range list {
		if r.issue == nil {
			continue
		}
		o := OpenIssue{Handle: handles[i], IssueParams: r.issue.params}
		if r.issue.step != nil {
			o.Need = r.issue.step.Need
		}
		open = append(open, o)
	}
	return open, err
}

// Issue drives an issue to its end: it makes the key, asks the issuer, signs what that wants
// signed, and stores the credential, which becomes the newest of its type. A client without an
// identity is initialised with the credential: with its client id, the credential alone,
// and key packages as in [Transaction.InitMLS].
//
// What the issuer needs otherwise (Visit, Call, Show, Wait) is given to answer. If that
// returns an error, so does Issue, and the issue stays as it is: call Issue again, in another
// process too. Every step is durable before its need is acted on, so the same need may be
// given to answer again after a crash, and the issuer may be given an answer twice. An answer
// that is an Error ends the issue, if the issuer agrees.
//
// The credential has to be of our client id and of the key, and the Authenticator has to take
// it. If not, nothing has changed, and the issue can go on. What the issuer cannot begin, as
// its name is none (core.ErrInvalid) or it does not do the action or the algorithm
// (core.ErrUnsupported), or is for a credential that is gone (ErrCredentialNotFound), is over,
// and its key gone. Other errors: ErrEnrollmentNotFound;
// [IssueRefusedError]; core.ErrConflict: somebody else drives the same issue, and
// may have ended it; ErrForeignSignature; core.ErrInvalid: the issuer breaks its contract. It
// must not be called within a transaction.
func (c *Client) Issue(ctx context.Context, h EnrollmentHandle, issuer core.CredentialIssuer, answer func(context.Context, core.Need) (core.Input, error)) (IssueResult, error) {
	if inside, _ := ctx.Value(insideKey{c}).(bool); inside {
		return IssueResult{}, ErrNestedTransaction
	}
	d := driver{client: c, handle: h, issuer: issuer, answer: answer}
	result, err := d.run(ctx)
	if errors.Is(err, errOvertaken) {
		err = fmt.Errorf("%w: %w", core.ErrConflict, err)
	}
	return result, err
}

// A driver drives one issue. What it knows of it is the record of a version.
type driver struct {
	client  *Client
	handle  EnrollmentHandle
	issuer  core.CredentialIssuer
	answer  func(context.Context, core.Need) (core.Input, error)
	record  enrollment
	version core.Version
}

func (d *driver) run(ctx context.Context) (IssueResult, error) {
	if err := d.load(ctx); err != nil {
		return IssueResult{}, err
	}
	for range maxSteps {
		step, err := d.next(ctx)
		if err != nil {
			return IssueResult{}, err
		}
		switch n := needsOf(step.Need); {
		case n != 1:
			return IssueResult{}, fmt.Errorf("the issuer has %d needs at once: %w", n, core.ErrInvalid)
		case step.Need.Done != nil:
			return d.end(ctx, *step.Need.Done)
		case step.Need.Refused != nil:
			return IssueResult{}, d.refused(ctx, *step.Need.Refused)
		}
		if err := d.keep(ctx, &step); err != nil {
			return IssueResult{}, err
		}
	}
	return IssueResult{}, fmt.Errorf("the issuer takes more than %d steps: %w", maxSteps, core.ErrTooLarge)
}

func needsOf(n core.Need) (count int) {
	for _, set := range []bool{n.Sign != nil, n.Visit != nil, n.Call != nil, n.Show != nil, n.Wait != nil, n.Done != nil, n.Refused != nil} {
		if set {
			count++
		}
	}
	return count
}

// load reads the record.
func (d *driver) load(ctx context.Context) error {
	if err := d.client.open(); err != nil {
		return err
	}
	defer d.client.done()
	r, found, err := newSegment(d.client.store).get(ctx, enrollmentPlace, d.handle[:])
	if err != nil {
		return err
	}
	if found {
		d.record, err = decodeEnrollment(r.Value)
		d.version = r.Version
	}
	if err == nil && (!found || d.record.issue == nil) {
		err = ErrEnrollmentNotFound
	}
	return err
}

// keep makes a step durable.
func (d *driver) keep(ctx context.Context, step *core.Step) error {
	if err := d.client.open(); err != nil {
		return err
	}
	defer d.client.done()
	next := d.record
	next.issue = &issue{d.record.issue.params, d.record.issue.carry, step}
	s := newSegment(d.client.store)
	s.expect(enrollmentPlace, d.handle[:], d.version)
	s.put(enrollmentPlace, d.handle[:], next.encode())
	versions, err := s.apply(ctx)
	if errors.Is(err, core.ErrConflict) {
		return fmt.Errorf("%w: %w", errOvertaken, err)
	}
	if err != nil {
		return err
	}
	d.record, d.version = next, versions[recordName{enrollmentPlace, string(d.handle[:])}]
	return nil
}

// in runs f in a transaction, on the record as it is known.
func (d *driver) in(ctx context.Context, f func(ctx context.Context, t *Transaction, who *identity) error) error {
	return d.client.transaction(ctx, func(ctx context.Context, t *Transaction) error {
		return t.do(ctx, func() error {
			who, err := t.identity(ctx)
			if err != nil {
				return err
			}
			switch _, version, err := t.enrollment(ctx, d.handle); {
			case errors.Is(err, ErrEnrollmentNotFound) || err == nil && version != d.version:
				return errOvertaken
			case err != nil:
				return err
			}
			if err := f(ctx, t, &who); err != nil {
				return err
			}
			t.putIdentity(who)
			return nil
		})
	})
}

// next asks the issuer.
func (d *driver) next(ctx context.Context) (core.Step, error) {
	step := d.record.issue.step
	if step == nil {
		return d.begin(ctx)
	}
	var in core.Input
	var err error
	switch {
	case step.Need.Sign != nil:
		in.Signature, err = d.sign(ctx, step.Need.Sign.Message)
	case d.answer == nil:
		err = fmt.Errorf("nobody answers what the issuer needs: %w", core.ErrUnavailable)
	default:
		in, err = d.answer(ctx, step.Need)
	}
	if err != nil {
		return core.Step{}, err
	}
	return d.issuer.Advance(ctx, step.State, in)
}

// begin makes the key, if there is none, and asks the issuer for the first step.
func (d *driver) begin(ctx context.Context) (core.Step, error) {
	p := d.record.issue.params
	suite, err := d.client.suites.Suite(d.record.suite)
	if err != nil {
		return core.Step{}, err
	}
	algorithm := suite.Parameters().Signature
	info, err := d.issuer.Describe(ctx)
	switch {
	case err != nil:
		return core.Step{}, err
	case !slices.Contains(info.Actions, p.Action):
		return core.Step{}, d.never(ctx, fmt.Errorf("action %d of the issuer: %w", p.Action, core.ErrUnsupported))
	case !slices.Contains(info.Algorithms, algorithm):
		return core.Step{}, d.never(ctx, fmt.Errorf("%s for the issuer: %w", algorithm, core.ErrUnsupported))
	}
	if len(d.record.key) == 0 {
		if err := d.makeKey(ctx, algorithm); err != nil {
			return core.Step{}, err
		}
	}
	req := core.IssueRequest{
		Action: p.Action, ClientID: p.ClientID, Handle: p.Handle, Display: p.DisplayName,
		Algorithm: algorithm, PublicKey: bytes.Clone(d.record.key), Extra: p.Extra,
	}
	err = d.fill(ctx, &req)
	if errors.Is(err, ErrCredentialNotFound) {
		err = d.never(ctx, err)
	}
	if err != nil {
		return core.Step{}, err
	}
	defer clear(req.Carry)
	step, err := d.issuer.Begin(ctx, req)
	if kind := core.Kind(err); kind == core.ErrInvalid || kind == core.ErrUnsupported {
		err = d.never(ctx, err)
	}
	return step, err
}

// never ends what cannot begin as it was asked for.
func (d *driver) never(ctx context.Context, why error) error {
	if err := d.drop(ctx); err != nil {
		return err
	}
	return why
}

func (d *driver) drop(ctx context.Context) error {
	return d.in(ctx, func(ctx context.Context, t *Transaction, who *identity) error {
		return t.dropEnrollment(ctx, d.handle, d.record)
	})
}

// fill adds to a request what the store knows of it.
func (d *driver) fill(ctx context.Context, req *core.IssueRequest) error {
	if err := d.client.open(); err != nil {
		return err
	}
	defer d.client.done()
	s := newSegment(d.client.store)
	id, err := clientID(ctx, s)
	if err == nil {
		req.ClientID = id
	} else if !errors.Is(err, ErrNotInitialized) {
		return err
	}
	p := d.record.issue.params
	if req.Action == core.ActionIssue {
		req.Carry = append([]byte(nil), d.record.issue.carry...) // nil if there is none
		return nil
	}
	own, err := credential(ctx, s, p.Credential)
	if err != nil {
		return err
	}
	secret, err := carry(ctx, s, p.Credential, p.source())
	req.Previous, req.Carry = own.Credential, secret.Bytes()
	return err
}

// makeKey makes the key, which the record names from then on.
func (d *driver) makeKey(ctx context.Context, algorithm core.KeyAlgorithm) error {
	err := d.in(ctx, func(ctx context.Context, t *Transaction, who *identity) error {
		signer, err := t.newKey(ctx, algorithm)
		if err != nil {
			return err
		}
		next := d.record
		next.key = signer.Public()
		t.putEnrollment(d.handle, next)
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.load(ctx); err != nil {
		return err
	}
	if d.record.issue.step != nil {
		return errOvertaken
	}
	return nil
}

// sign is for what an issuer wants signed. It must not get what a client signs in MLS: that
// begins with a vector that begins with this text (RFC 9420 section 5.1.2).
func (d *driver) sign(ctx context.Context, message []byte) ([]byte, error) {
	const label = "MLS 1.0 "
	if bytes.Contains(message[:min(len(message), 8+len(label))], []byte(label)) {
		return nil, ErrForeignSignature
	}
	if err := d.client.open(); err != nil {
		return nil, err
	}
	defer d.client.done()
	signer, err := d.client.signer(ctx, newSegment(d.client.store), d.record.key)
	if err != nil {
		return nil, err
	}
	return signer.Sign(ctx, message)
}

// end stores what was issued, and takes the record away.
func (d *driver) end(ctx context.Context, issued core.Issued) (result IssueResult, err error) {
	suite, err := d.client.suites.Suite(d.record.suite)
	if err != nil {
		return IssueResult{}, err
	}
	defer clear(issued.Carry)
	p := d.record.issue.params
	switch info, err := d.issuer.Describe(ctx); {
	case err != nil:
		return IssueResult{}, err
	case p.Action != core.ActionRevoke && issued.Credential.Type != info.Type:
		return IssueResult{}, fmt.Errorf("type %d of an issuer of type %d: %w", issued.Credential.Type, info.Type, ErrWrongCredential)
	}
	err = d.in(ctx, func(ctx context.Context, t *Transaction, who *identity) error {
		result = IssueResult{}
		t.segment.del(enrollmentPlace, d.handle[:])
		if p.Action == core.ActionRevoke {
			own, err := credential(ctx, t.segment, p.Credential)
			if err != nil && !errors.Is(err, ErrCredentialNotFound) { // it may be gone by now
				return err
			}
			result.Credential = own
			return t.dropUnnamed(ctx, d.record.key)
		}
		fresh := who.id == ""
		if fresh {
			who.id = p.ClientID
		}
		var err error
		if _, ours := t.client.auth.(e2ei.Authenticator); ours && issued.Credential.Type == core.CredentialX509 {
			if result.DistributionPoints, err = t.trustIssued(ctx, issued.Credential); err != nil {
				return err
			}
		}
		if result.Credential, err = t.keepIssued(ctx, who, suite.Parameters().Scheme, d.record.key, issued, p.source()); err != nil || !fresh {
			return err
		}
		return t.initialize(ctx, who, result.Credential.Credential.Type, d.record.suite)
	})
	if err != nil {
		return IssueResult{}, err
	}
	return result, nil
}

// refused is the end if that is final; else the issuer will be asked again from the start.
// What it wants to have then takes the place of what it had, which may have been used up.
func (d *driver) refused(ctx context.Context, r core.Refusal) error {
	defer clear(r.Carry)
	p := d.record.issue.params
	err := d.in(ctx, func(ctx context.Context, t *Transaction, who *identity) error {
		if p.Action == core.ActionRenew && len(r.Carry) > 0 {
			switch _, err := credential(ctx, t.segment, p.Credential); {
			case err == nil:
				t.putCarry(p.Credential, p.source(), r.Carry)
			case !errors.Is(err, ErrCredentialNotFound): // it may be gone by now
				return err
			}
		}
		if r.Final {
			return t.dropEnrollment(ctx, d.handle, d.record)
		}
		next := d.record
		next.issue = &issue{params: p, carry: d.record.issue.carry}
		if p.Action == core.ActionIssue && len(r.Carry) > 0 {
			next.issue.carry = r.Carry
		}
		t.putEnrollment(d.handle, next)
		return nil
	})
	if err != nil {
		return err
	}
	return &IssueRefusedError{core.Refusal{Reason: r.Reason, Final: r.Final}}
}
