// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core/e2ei"
)

func (c *check) fiveSeconds() {
	s := c.enrolling(func(config *e2ei.Config) { config.Validity = 5 * time.Second })
	soon := time.Now().Add(time.Minute) // enough to enrol on a slow machine
	s.Clock = func() time.Time { return soon }
	c.must(s.Run(c.ctx()))
	chain := s.Issued.Credential.Certificates
	leaf, err := e2ei.ParseLeaf(chain[0])
	c.must(err)
	id, err := leaf.Identity()
	c.must(err)
	if id.NotAfter.Sub(id.NotBefore) != 5*time.Second {
		c.Errorf("valid from %v to %v", id.NotBefore, id.NotAfter)
	}
	e := c.environment(chain)
	if got := e.Status(leaf, id.NotAfter); got != e2ei.StatusValid {
		c.Error("at the end:", got)
	}
	if got := e.Status(leaf, id.NotAfter.Add(time.Second)); got != e2ei.StatusExpired {
		c.Error("after it:", got)
	}
}

// The server says so as late as possible, and calls it its own fault.
func (c *check) hundredYears() {
	s := c.enrolling(func(config *e2ei.Config) { config.Validity = 100 * 365 * 24 * time.Hour })
	c.must(s.RunTo(c.ctx(), e2ei.StepFinalize))
	c.refused(s.Advance(c.ctx()), http.StatusInternalServerError, "serverInternal")
	if s.Enrollment.Next() != e2ei.StepFinalize {
		c.Errorf("next is %s", s.Enrollment.Next())
	}
}

// An order for later is refused by the client, unless its clock is ahead; then others refuse
// what it comes to.
func (c *check) notYetValid() {
	s := c.enrolling()
	s.Clock = func() time.Time { return time.Now().Add(time.Hour) }
	c.must(s.RunTo(c.ctx(), e2ei.StepNewOrder))
	body, location, err := s.Post(c.ctx(), func(nonce string) (e2ei.Request, error) { return s.Enrollment.NewOrderRequest(s.Clock(), nonce) })
	c.must(err)
	if err := s.Enrollment.NewOrderResponse(body, location, time.Now()); !errors.Is(err, e2ei.ErrOrderEarly) {
		c.Error(err)
	}
	c.must(s.Enrollment.NewOrderResponse(body, location, s.Clock()))
	c.must(s.Run(c.ctx()))
	leaf, err := e2ei.ParseLeaf(s.Issued.Credential.Certificates[0])
	c.must(err)
	e := c.environment(s.Issued.Credential.Certificates)
	if err := e.Verify(leaf, time.Now()); !errors.Is(err, e2ei.ErrNotYetValid) {
		c.Error(err)
	}
	if err := e.Verify(leaf, s.Clock()); err != nil {
		c.Error(err)
	}
}

// since orders a certificate that is valid for a long time already.
func (c *check) since(ago time.Duration) {
	s := c.enrolling(func(config *e2ei.Config) { config.Validity = 90 * 24 * time.Hour })
	c.must(s.RunTo(c.ctx(), e2ei.StepNewOrder))
	begin := time.Now().Add(-ago)
	body, location, err := s.Post(c.ctx(), func(nonce string) (e2ei.Request, error) { return s.Enrollment.NewOrderRequest(begin, nonce) })
	c.must(err)
	c.must(s.Enrollment.NewOrderResponse(body, location, time.Now()))
	c.must(s.Run(c.ctx()))
	if id, _ := c.issued(s).Identity(); id.NotBefore.Unix() != begin.Unix() {
		c.Errorf("valid from %v, want %v", id.NotBefore, begin)
	}
}

// Without the list, nobody knows whether a certificate was revoked; with it, it was not.
func (c *check) listBefore() {
	s := c.enrolling()
	c.must(s.Run(c.ctx()))
	chain := s.Issued.Credential.Certificates
	e, _, err := c.peer.Environment(c, time.Now()).AddIntermediate(chain[1], time.Now())
	c.must(err)
	leaf, err := e2ei.ParseLeaf(chain[0])
	c.must(err)
	if err := e.Verify(leaf, time.Now()); !errors.Is(err, e2ei.ErrRevocationUnknown) {
		c.Error(err)
	}
	if got := e.NewDistributionPoints(chain...); !slices.Equal(got, []string{c.peer.CRL}) {
		c.Errorf("distribution points %q", got)
	}
	e = c.environment(chain)
	if err := e.Verify(leaf, time.Now()); err != nil {
		c.Error(err)
	}
	if got := e.NewDistributionPoints(chain...); len(got) != 0 {
		c.Errorf("distribution points %q", got)
	}
}

// revoked asks for the list that says so.
func (c *check) revoked(before *e2ei.Environment, leaf []byte) {
	c.Helper()
	l, err := e2ei.ParseLeaf(leaf)
	c.must(err)
	if err := before.Verify(l, time.Now()); err != nil {
		c.Error(err)
	}
	after, _, done, err := before.AddCRL(c.peer.CRL, c.peer.FetchCRL(c), time.Now())
	c.must(err)
	if !done.Dirty {
		c.Error("the list revokes nobody new")
	}
	if err := after.Verify(l, time.Now()); !errors.Is(err, e2ei.ErrRevoked) {
		c.Error(err)
	}
}

func (c *check) revokeByAccount() {
	w := want(c.peer.Person(c))
	o, leaf := c.byHand(w, c.newKey(), c.newKey(), func(*x509.CertificateRequest) {})
	intermediate, err := e2ei.ParsePEM([]byte(c.peer.IntermediatePEM))
	c.must(err)
	before := c.environment([][]byte{leaf, intermediate[0]})
	c.must(o.Revoke(c.ctx(), leaf))
	c.revoked(before, leaf)
}

func (c *check) revokeTwice() {
	s := c.enrolling()
	c.must(s.Run(c.ctx()))
	leaf := s.Issued.Credential.Certificates[0]
	c.must(c.peer.Revoke(c.ctx(), leaf, s.Key))
	c.refused(c.peer.Revoke(c.ctx(), leaf, s.Key), http.StatusBadRequest, "alreadyRevoked")
}

// A stranger's key revokes nothing, that of the certificate does.
func (c *check) revokeByKey() {
	s := c.enrolling()
	c.must(s.Run(c.ctx()))
	chain := s.Issued.Credential.Certificates
	before := c.environment(chain)
	c.refused(c.peer.Revoke(c.ctx(), chain[0], c.newKey()), http.StatusForbidden, "unauthorized")
	c.must(c.peer.Revoke(c.ctx(), chain[0], s.Key))
	c.revoked(before, chain[0])
}

// The roots that the server knows are its own one, which is there already.
func (c *check) federation() {
	body, _, err := c.peer.Do(c.ctx(), http.MethodGet, c.peer.Federation, nil)
	c.must(err)
	var known struct{ Crts []string }
	c.must(json.Unmarshal(body, &known))
	if len(known.Crts) == 0 {
		c.Fatalf("no certificates: %s", body)
	}
	e := c.peer.Environment(c, time.Now())
	for _, text := range known.Crts {
		ders, err := e2ei.ParsePEM([]byte(text))
		c.must(err)
		if _, _, err := e.AddAnchor(ders[0], time.Now()); !errors.Is(err, e2ei.ErrRegistered) {
			c.Error(err)
		}
		if _, item, err := e.AddIntermediate(ders[0], time.Now()); err != nil || item != nil {
			c.Errorf("item %v, %v", item, err)
		}
	}
}
