// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
)

// A clientKey signs the request of an enrolment, as the client does it.
type clientKey struct {
	core.Signer // nil: nothing else is asked of it
	r           *resident
	e           *client.Enrollment
}

func (k clientKey) Sign(ctx context.Context, _ []byte) (signature []byte, err error) {
	err = k.r.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		signature, err = tx.SignEnrollment(ctx, k.e)
		return err
	})
	return signature, err
}

// enroll makes the requests of an enrolment to the CA, and gives the chain. It is stashed before
// the login, as by an application that ends there.
func (w *town) enroll(r *resident, login string, begin func(*client.Transaction, context.Context, client.EnrollmentParams) (*client.Enrollment, error), p client.EnrollmentParams) (*client.Enrollment, []byte) {
	w.Helper()
	p.Suite, p.Team, p.Validity, p.Directory, p.AllowHTTP = suite1, r.who.Team, time.Hour, w.peer.Directory, true
	e := w.enrol(r.Device, begin, p)
	s := &e2eitest.Session{Peer: w.peer, Enrollment: e.Enrollment, Login: login}
	w.must(s.RunTo(w.Context(), e2ei.StepOIDCChallenge))
	var h client.EnrollmentHandle
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) (err error) {
		h, err = tx.StashEnrollment(ctx, e)
		return err
	})
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) (err error) {
		e, err = tx.PopEnrollment(ctx, h)
		return err
	})
	s.Enrollment, s.Key = e.Enrollment, clientKey{r: r, e: e}
	w.must(s.RunTo(w.Context(), e2ei.StepCertificate))
	chain, _, err := s.Post(w.Context(), e.CertificateRequest)
	w.must(err)
	return e, chain
}

// save ends an enrolment of who has an identity, and takes the credential into use.
func (w *town) save(r *resident, e *client.Enrollment, chain []byte) (own client.Credential) {
	w.Helper()
	w.do(r.Device, func(ctx context.Context, tx *client.Transaction) (err error) {
		own, _, err = tx.SaveX509Credential(ctx, e, chain)
		return err
	})
	w.rotate(r)
	return own
}

// The three kinds of enrolment that an application drives itself: of a client without an
// identity, of one with a basic credential, and without a login of one with a certificate.
func TestEnrollmentsAtRealCA(t *testing.T) {
	w := newTown(t)
	alice, bob := w.resident(), w.resident()
	names := func(r *resident) client.EnrollmentParams {
		return client.EnrollmentParams{DisplayName: r.who.DisplayName, Handle: r.who.Handle}
	}
	e, chain := w.enroll(alice, alice.who.Handle, func(tx *client.Transaction, ctx context.Context, p client.EnrollmentParams) (*client.Enrollment, error) {
		return tx.NewEnrollment(ctx, alice.who.ClientID, p)
	}, names(alice))
	w.do(alice.Device, func(ctx context.Context, tx *client.Transaction) error {
		points, err := tx.InitMLSWithEnrollment(ctx, e, chain)
		if len(points) != 1 || points[0] != w.peer.CRL {
			t.Errorf("distribution points %q", points)
		}
		return err
	})
	w.chat(alice)
	everybody := map[*resident]e2ei.DeviceStatus{alice: e2ei.StatusValid}
	w.sees(alice, e2ei.Verified, everybody)

	w.do(bob.Device, func(ctx context.Context, tx *client.Transaction) error {
		// Who has no certificate has not met the CA in between.
		if _, err := tx.RegisterIntermediate(ctx, []byte(w.peer.IntermediatePEM)); err != nil {
			return err
		}
		return tx.InitMLS(ctx, bob.who.ClientID.Core(), suite1)
	})
	w.add(alice.Device, bob.Device)
	w.sees(alice, e2ei.NotVerified, everybody)
	basic, err := bob.Credentials(t.Context(), client.CredentialFilter{})
	w.must(err)
	e, chain = w.enroll(bob, bob.who.Handle, activation, names(bob))
	first := w.save(bob, e, chain)
	everybody[bob] = e2ei.StatusValid
	w.sees(alice, e2ei.Verified, everybody)
	w.sees(bob, e2ei.Verified, everybody)

	e, chain = w.enroll(bob, "nobody", rotation, client.EnrollmentParams{})
	second := w.save(bob, e, chain)
	w.sees(alice, e2ei.Verified, everybody)
	if !bytes.Equal(first.SignatureKey, basic[0].SignatureKey) || !bytes.Equal(second.SignatureKey, first.SignatureKey) {
		t.Error("an activation and a rotation are for the key that is there")
	}
	if bytes.Equal(second.Credential.Certificates[0], first.Credential.Certificates[0]) {
		t.Error("the rotation has brought the same certificate")
	}
	w.send(bob.Device, "with the third leaf")
	w.reads(alice.Device, "with the third leaf")
}
