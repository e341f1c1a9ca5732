// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// EnrollmentParams is what an enrolment for a certificate of Wire asks for.
type EnrollmentParams struct {
	Suite       core.SuiteID // one that signs with the scheme of the key; 0: the client's most preferred
	DisplayName string
	Handle      string        // bare, such as alice_wire
	Team        string        // "" if none
	Validity    time.Duration // of the certificate, cut to whole seconds
	Directory   string        // address of the ACME directory
	AllowHTTP   bool          // for tests: addresses without TLS
}

// An Enrollment is an [e2ei.Enrollment] for a signature key of the client, for an application
// that makes the requests itself; see [Client.Issue] for one that does not want to. Its record
// in the store names the key until it is over, so what was begun and is not finished is to be
// dropped: see [Transaction.Enrollments]. One Enrollment at a time has the record: it is
// given up by [Transaction.StashEnrollment] and got back by [Transaction.PopEnrollment].
type Enrollment struct {
	*e2ei.Enrollment
	handle EnrollmentHandle
	holder [16]byte
}

// Handle names the enrolment in the store.
func (e *Enrollment) Handle() EnrollmentHandle { return e.handle }

// NewEnrollment begins an enrolment for a fresh signature key: of a client without an
// identity, for [Transaction.InitMLSWithEnrollment], or of one that has this client id, for
// another credential. What is refused is refused before the key is made: for the names and the
// suite see [e2ei.New]; ErrWrongCredential: the client id is not ours.
func (t *Transaction) NewEnrollment(ctx context.Context, id e2ei.ClientID, p EnrollmentParams) (*Enrollment, error) {
	return in(ctx, t, func() (*Enrollment, error) {
		who, err := t.identity(ctx)
		if err != nil {
			return nil, err
		}
		if who.id != "" && who.id != id.Core() {
			return nil, ErrWrongCredential
		}
		suite, cfg, err := t.enrollmentConfig(p)
		if err != nil {
			return nil, err
		}
		cfg.ClientID = id
		if err := cfg.Check(); err != nil {
			return nil, err
		}
		signer, err := t.newKey(ctx, cfg.Algorithm)
		if err != nil {
			return nil, err
		}
		return t.enroll(who, suite, cfg, signer)
	})
}

// NewActivationEnrollment begins an enrolment for the key of our newest basic credential of
// the scheme; ErrCredentialNotFound if there is none. e2ei.ErrClientID: our client id is not
// one of Wire.
func (t *Transaction) NewActivationEnrollment(ctx context.Context, p EnrollmentParams) (*Enrollment, error) {
	return t.enrollAgain(ctx, p, core.CredentialBasic, func(who identity, _ Credential, cfg *e2ei.Config) (err error) {
		if cfg.ClientID, err = e2ei.ParseClientID(string(who.id)); err == nil && cfg.ClientID.Core() != who.id {
			err = fmt.Errorf("%w: not as it stands in a certificate", e2ei.ErrClientID)
		}
		return err
	})
}

// NewRotateEnrollment begins an enrolment for the key of our newest X.509 credential of the
// scheme; ErrEnrollmentNotDone if there is none. Names that are left out are those of the
// certificate. With the refresh token that was kept with the credential, in Config, nobody
// has to log in; a credential may have come without one, or of [Client.Issue], whose issuer
// alone gets what it gave.
func (t *Transaction) NewRotateEnrollment(ctx context.Context, p EnrollmentParams) (*Enrollment, error) {
	return t.enrollAgain(ctx, p, core.CredentialX509, func(who identity, own Credential, cfg *e2ei.Config) error {
		leaf, err := e2ei.ParseLeaf(own.Credential.Certificates[0])
		if err != nil {
			return err
		}
		names, err := leaf.Identity()
		if err != nil {
			return err
		}
		if cfg.ClientID = names.ClientID; names.ClientID.Core() != who.id {
			return ErrWrongCredential
		}
		if cfg.DisplayName == "" {
			cfg.DisplayName = names.DisplayName
		}
		if cfg.Handle == "" {
			cfg.Handle = names.Handle.Name() // bare: it is spelt as a URI again
		}
		cfg.RefreshToken, err = carry(ctx, t.segment, own.Ref, source{})
		return err
	})
}

// enrollAgain begins an enrolment for the key of our newest credential of a type.
func (t *Transaction) enrollAgain(ctx context.Context, p EnrollmentParams, kind core.CredentialType, name func(identity, Credential, *e2ei.Config) error) (*Enrollment, error) {
	return in(ctx, t, func() (*Enrollment, error) {
		who, err := t.initialized(ctx)
		if err != nil {
			return nil, err
		}
		suite, cfg, err := t.enrollmentConfig(p)
		if err != nil {
			return nil, err
		}
		own, signer, err := t.choose(ctx, suite.Parameters().Scheme, kind, 0)
		if err != nil {
			return nil, err
		}
		if err := name(who, own, &cfg); err != nil {
			return nil, err
		}
		return t.enroll(who, suite, cfg, signer)
	})
}

func (t *Transaction) enrollmentConfig(p EnrollmentParams) (core.Suite, e2ei.Config, error) {
	if p.Suite == 0 {
		p.Suite = t.client.suites.Suites()[0]
	}
	suite, err := t.client.suites.Suite(p.Suite)
	if err != nil {
		return nil, e2ei.Config{}, err
	}
	return suite, e2ei.Config{
		DisplayName: p.DisplayName, Handle: p.Handle, Team: p.Team, Validity: p.Validity, Directory: p.Directory, AllowHTTP: p.AllowHTTP,
		Algorithm: suite.Parameters().Signature,
	}, nil
}

// enroll begins it, and names the key.
func (t *Transaction) enroll(who identity, suite core.Suite, cfg e2ei.Config, signer core.Signer) (*Enrollment, error) {
	cfg.PublicKey, cfg.KeyRef = signer.Public(), signer.Ref()
	inner, err := e2ei.New(cfg)
	if err != nil {
		return nil, err
	}
	e := &Enrollment{inner, newEnrollmentHandle(), newHolder()}
	t.putEnrollment(e.handle, enrollment{suite: suite.ID(), key: signer.Public(), holder: e.holder})
	t.putIdentity(who)
	return e, nil
}

func newHolder() (h [16]byte) {
	_, _ = rand.Read(h[:]) // never fails, see crypto/rand
	return h
}

// held finds the record that an Enrollment has.
func (t *Transaction) held(ctx context.Context, e *Enrollment) (enrollment, error) {
	r, _, err := t.enrollment(ctx, e.handle)
	if err == nil && (r.issue != nil || r.holder != e.holder) {
		err = ErrEnrollmentNotFound
	}
	return r, err
}

// SignEnrollment signs [e2ei.Enrollment.CSRMessage] with the signature key, for
// [e2ei.Enrollment.FinalizeRequest]. ErrEnrollmentNotFound.
func (t *Transaction) SignEnrollment(ctx context.Context, e *Enrollment) (signature []byte, err error) {
	return in(ctx, t, func() ([]byte, error) {
		r, err := t.held(ctx, e)
		if err != nil {
			return nil, err
		}
		message, err := e.CSRMessage()
		if err != nil {
			return nil, err
		}
		signer, err := t.signer(ctx, r.key)
		if err != nil {
			return nil, err
		}
		return signer.Sign(ctx, message)
	})
}

// StashEnrollment stores how far the enrolment is, for [Transaction.PopEnrollment], after a
// login for example that outlives the process. When that is durable, the Enrollment is wiped.
// ErrEnrollmentNotFound: it is over, dropped or stashed, or another one has its record.
func (t *Transaction) StashEnrollment(ctx context.Context, e *Enrollment) (EnrollmentHandle, error) {
	return in(ctx, t, func() (EnrollmentHandle, error) {
		r, err := t.held(ctx, e)
		if err != nil {
			return EnrollmentHandle{}, err
		}
		stash, err := e.Stash()
		if err != nil {
			return EnrollmentHandle{}, err
		}
		r.holder, r.stash = [16]byte{}, stash.Bytes()
		t.putEnrollment(e.handle, r)
		stash.Wipe()
		t.wipeLater(e)
		return e.handle, nil
	})
}

// wipeLater wipes an Enrollment when the segment is durable: until then it may be needed again.
func (t *Transaction) wipeLater(e *Enrollment) {
	t.segment.notes = append(t.segment.notes, func(context.Context) { e.Wipe() })
}

// PopEnrollment takes up what StashEnrollment has stored, once: when the transaction is
// durable, nobody else does. ErrEnrollmentNotFound: nothing is stashed under the handle.
func (t *Transaction) PopEnrollment(ctx context.Context, h EnrollmentHandle) (*Enrollment, error) {
	return in(ctx, t, func() (*Enrollment, error) {
		r, _, err := t.enrollment(ctx, h)
		if err != nil {
			return nil, err
		}
		if len(r.stash) == 0 {
			return nil, ErrEnrollmentNotFound
		}
		inner, err := e2ei.Pop(r.stash)
		clear(r.stash)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", core.ErrDamaged, err)
		}
		r.holder, r.stash = newHolder(), nil
		t.putEnrollment(h, r)
		return &Enrollment{inner, h, r.holder}, nil
	})
}

// Enrollments lists the enrolments that are not over and are not driven by [Client.Issue]:
// those that are stashed, and those that an Enrollment has, or had in a process that ended.
func (t *Transaction) Enrollments(ctx context.Context) ([]EnrollmentHandle, error) {
	return in(ctx, t, func() ([]EnrollmentHandle, error) { return openEnrollments(ctx, t.segment) })
}

// Enrollments is [Transaction.Enrollments] of what is durable.
func (c *Client) Enrollments(ctx context.Context) ([]EnrollmentHandle, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	defer c.done()
	return openEnrollments(ctx, newSegment(c.store))
}

func openEnrollments(ctx context.Context, s *segment) (open []EnrollmentHandle, err error) {
	handles, list, err := enrollments(ctx, s)
	for i, r := range list {
		if r.issue == nil {
			open = append(open, handles[i])
		}
	}
	return open, err
}

// SaveX509Credential ends an enrolment with the certificate chain that the CA has issued, in
// PEM. The credential becomes our newest X.509 one; conversations and key packages take it up
// when they are told to: see [Conversation.Rotate], [Transaction.NewKeyPackages] and then
// [Transaction.DeleteStaleKeyPackages]. The CAs of the chain are registered, and the result
// are the addresses of revocation lists that it names and of which none is registered. The
// refresh token is kept with the credential.
//
// If the chain is refused nothing changes, and the enrolment goes on: for what is refused see
// [e2ei.Enrollment.CertificateResponse] and [e2ei.Environment.VerifyIssued]. e2ei.ErrNotReady:
// no trust anchor is registered; ErrEnrollmentNotFound; ErrNotInitialized; ErrWrongCredential:
// the client has got another id since.
func (t *Transaction) SaveX509Credential(ctx context.Context, e *Enrollment, chainPEM []byte) (own Credential, distributionPoints []string, err error) {
	err = t.do(ctx, func() error {
		who, err := t.initialized(ctx)
		if err != nil {
			return err
		}
		if own, distributionPoints, _, err = t.accept(ctx, &who, e, chainPEM); err != nil {
			return err
		}
		t.putIdentity(who)
		return nil
	})
	return own, distributionPoints, err
}

// InitMLSWithEnrollment makes the identity of this client of the certificate that an enrolment
// of [Transaction.NewEnrollment] has got, and nothing else: the client has the one X.509
// credential, and as many key packages with it for the enrolment's suite as
// [Config.InitialKeyPackages] says. Otherwise it is as [Transaction.SaveX509Credential].
// ErrInitialized if the client has an identity.
func (t *Transaction) InitMLSWithEnrollment(ctx context.Context, e *Enrollment, chainPEM []byte) (distributionPoints []string, err error) {
	return in(ctx, t, func() ([]string, error) {
		who, err := t.uninitialized(ctx)
		if err != nil {
			return nil, err
		}
		who.id = e.Config().ClientID.Core()
		_, points, suite, err := t.accept(ctx, &who, e, chainPEM)
		if err != nil {
			return nil, err
		}
		return points, t.initialize(ctx, &who, core.CredentialX509, suite)
	})
}

// accept judges a chain, stores it and takes the record away; the caller stores who. The
// Enrollment stays as it is until that is durable.
func (t *Transaction) accept(ctx context.Context, who *identity, e *Enrollment, chainPEM []byte) (own Credential, distributionPoints []string, id core.SuiteID, err error) {
	r, err := t.held(ctx, e)
	if err != nil {
		return own, nil, 0, err
	}
	if e.Config().ClientID.Core() != who.id {
		return own, nil, 0, ErrWrongCredential
	}
	suite, err := t.client.suites.Suite(r.suite)
	if err != nil {
		return own, nil, 0, err
	}
	env, err := t.client.environment(ctx, t.segment)
	if err != nil {
		return own, nil, 0, err
	}
	issued, err := e.certificateResponse(chainPEM, t.client.now(), env)
	if err != nil {
		return own, nil, 0, err
	}
	defer issued.RefreshToken.Wipe()
	if distributionPoints, err = t.trustIssued(ctx, issued.Credential); err != nil {
		return own, nil, 0, err
	}
	own, err = t.keepIssued(ctx, who, suite.Parameters().Scheme, r.key, core.Issued{Credential: issued.Credential, Carry: issued.RefreshToken.Bytes()}, source{})
	if err != nil {
		return own, nil, 0, err
	}
	t.segment.del(enrollmentPlace, e.handle[:])
	t.wipeLater(e)
	return own, distributionPoints, r.suite, nil
}

// certificateResponse is that of a copy, as it ends what takes it.
func (e *Enrollment) certificateResponse(chainPEM []byte, now time.Time, env *e2ei.Environment) (e2ei.Issued, error) {
	stash, err := e.Stash()
	if err != nil {
		return e2ei.Issued{}, err
	}
	defer stash.Wipe()
	once, err := e2ei.Pop(stash.Bytes())
	if err != nil {
		return e2ei.Issued{}, err
	}
	defer once.Wipe()
	return once.CertificateResponse(chainPEM, now, env.VerifyIssued)
}
