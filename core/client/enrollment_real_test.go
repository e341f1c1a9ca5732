// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/core/e2ei/e2eitest"
	"github.com/conclave-mls/conclave/storage/memory"
)

// enrollmentKey signs what an enrolment has to sign, and nothing else.
type enrollmentKey struct {
	core.Signer
	*clienttest.Device
	enrollment *client.Enrollment
}

func (k enrollmentKey) Sign(ctx context.Context, message []byte) (signature []byte, err error) {
	err = k.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if signature, err = tx.SignEnrollment(ctx, k.enrollment); err != nil {
			return err
		}
		own, err := k.enrollment.CSRMessage()
		if !bytes.Equal(own, message) {
			return core.ErrInvalid
		}
		return err
	})
	return signature, err
}

// Somebody whose key is in a token makes the requests to a real CA, ends the process while
// the login lasts, has an identity at the end, and renews it without another login.
func TestEnrollmentAtARealCA(t *testing.T) {
	t.Parallel()
	peer := e2eitest.Start(t)
	w, tok, ks, who := newWorld(t, clienttest.Options{}), newToken(), memory.New(), peer.Person(t)
	cfg := config()
	cfg.Keys = tok
	open := func() *clienttest.Device { return clienttest.NewDevice(t, w.service, who.ClientID.Core(), ks, cfg) }
	alice := open()
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		return tx.RegisterTrustAnchor(ctx, []byte(peer.RootPEM))
	})
	run := func(e *client.Enrollment, login string, to e2ei.Step) *e2eitest.Session {
		t.Helper()
		s := &e2eitest.Session{Peer: peer, Enrollment: e.Enrollment, Key: enrollmentKey{Device: alice, enrollment: e}, Login: login}
		if e.Next() != e2ei.StepDirectory {
			w.must(s.FirstNonce(t.Context()))
		}
		w.must(s.RunTo(t.Context(), to))
		return s
	}
	chain := func(s *e2eitest.Session) []byte {
		t.Helper()
		body, _, err := s.Post(t.Context(), s.Enrollment.CertificateRequest)
		w.must(err)
		return body
	}
	p := client.EnrollmentParams{
		Suite: suite1, DisplayName: who.DisplayName, Handle: who.Handle, Team: who.Team, Validity: time.Hour, Directory: peer.Directory, AllowHTTP: true,
	}
	e := w.enrol(alice, func(tx *client.Transaction, ctx context.Context, p client.EnrollmentParams) (*client.Enrollment, error) {
		return tx.NewEnrollment(ctx, who.ClientID, p)
	}, p)
	run(e, who.Handle, e2ei.StepOIDCChallenge)
	h := w.stash(alice, e)
	w.must(alice.Close(t.Context()))
	alice = open()
	e = w.pop(alice, h)
	reply := chain(run(e, who.Handle, e2ei.StepCertificate))
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		points, err := tx.InitMLSWithEnrollment(ctx, e, reply)
		if err == nil && !slices.Equal(points, []string{peer.CRL}) {
			t.Errorf("distribution points %q", points)
		}
		return err
	})
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: suite1, Credential: core.CredentialX509})
		return err
	})

	p.DisplayName, p.Handle = "", ""
	e = w.enrol(alice, rotation, p)
	reply = chain(run(e, "nobody", e2ei.StepCertificate))
	w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
		own, _, err := tx.SaveX509Credential(ctx, e, reply)
		if err != nil {
			return err
		}
		c, err := tx.Conversation(ctx, chat)
		if err == nil {
			_, err = c.SetCredential(ctx, own.Ref)
		}
		return err
	})
	w.uses(alice, 2)
	if state, err := alice.View(chat).E2EIState(t.Context()); err != nil || state != e2ei.Verified {
		t.Errorf("%v, %v", state, err)
	}
	if tok.count() != 1 {
		t.Errorf("the token holds %d keys", tok.count())
	}
}
