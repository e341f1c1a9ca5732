// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/url"
	"slices"
	"strconv"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// Strangers is an issuer at the peer whose clients are those of coretest.TestCredentialIssuer,
// which have no Wire names: the peer gets to know them as they come. It is a
// [coretest.Answerer] for them.
func (p *Peer) Strangers(issuer core.CredentialIssuer) core.CredentialIssuer {
	return stranger{issuer, p}
}

type stranger struct {
	core.CredentialIssuer
	peer *Peer
}

var _ coretest.Answerer = stranger{}

func (s stranger) person(id core.ClientID) Person {
	sum := sha256.Sum256([]byte(id))
	c := e2ei.ClientID{User: [16]byte(sum[:16]), Device: 1<<40 | uint64(sum[16])<<24 | uint64(sum[17])<<16 | uint64(sum[18])<<8 | uint64(sum[19]), Domain: s.peer.Domain}
	return Person{ClientID: c, Handle: "handle_" + c.DeviceID(), DisplayName: "A Name", Team: "wire"}
}

func (s stranger) Begin(ctx context.Context, req core.IssueRequest) (core.Step, error) {
	if req.ClientID == "" || ctx.Err() != nil {
		return s.CredentialIssuer.Begin(ctx, req)
	}
	who := s.person(req.ClientID)
	if err := s.peer.Register(ctx, who); err != nil {
		return core.Step{}, err
	}
	req.ClientID, req.Handle = who.ClientID.Core(), who.Handle
	step, err := s.CredentialIssuer.Begin(ctx, req)
	return named(who.Handle, step), err
}

func (s stranger) Advance(ctx context.Context, state []byte, in core.Input) (core.Step, error) {
	handle, state, ok := bytes.Cut(state, []byte{0})
	if !ok {
		state, handle = handle, nil
	}
	step, err := s.CredentialIssuer.Advance(ctx, state, in)
	return named(string(handle), step), err
}

// named lets the state and the login page tell who it is.
func named(handle string, step core.Step) core.Step {
	step.State = slices.Concat([]byte(handle), []byte{0}, step.State)
	if step.Need.Visit != nil {
		visit := *step.Need.Visit
		visit.URL += "&login_hint=" + url.QueryEscape(handle)
		step.Need.Visit = &visit
	}
	return step
}

// Answer implements coretest.Answerer.
func (s stranger) Answer(ctx context.Context, need core.Need) (core.Input, error) {
	who := Person{}
	if need.Call != nil {
		var err error
		if who.ClientID.Device, err = strconv.ParseUint(need.Call.Args["device"], 16, 64); err != nil {
			return core.Input{}, err
		}
	}
	if need.Visit != nil {
		page, err := url.Parse(need.Visit.URL)
		if err != nil {
			return core.Input{}, err
		}
		who.Handle = page.Query().Get("login_hint")
	}
	if need.Call == nil || need.Call.Kind != "wire.access-token" {
		return s.peer.Answer(who)(ctx, need)
	}
	// The suite asks twice, and the backend takes a proof once.
	proof := need.Call.Args["proof"]
	if token, ok := s.peer.tokens.Load(proof); ok {
		return core.Input{Result: bytes.Clone(token.([]byte))}, nil
	}
	in, err := s.peer.Answer(who)(ctx, need)
	if err == nil {
		s.peer.tokens.Store(proof, bytes.Clone(in.Result))
	}
	return in, err
}
