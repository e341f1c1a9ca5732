// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"encoding/base64"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
)

// An outsider may propose in a conversation: it is a server with a key of its own.
type outsider struct {
	w      *world
	suite  core.Suite
	signer core.Signer
	env    *mls.Env
}

func newOutsider(w *world) *outsider {
	w.t.Helper()
	software := pure.New()
	suite, err := software.Suite(core.SuiteID(w.suite))
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := software.GenerateKey(w.t.Context(), core.KeySpec{Algorithm: suite.Parameters().Signature, Use: core.UseSign})
	if err != nil {
		w.t.Fatal(err)
	}
	return &outsider{w, suite, key.(core.Signer), &mls.Env{Suites: software}}
}

func (o *outsider) key() []byte { return o.signer.Public() }

// jwk is the outsider's public key as a JWK.
func (o *outsider) jwk() []byte {
	o.w.t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	key := o.signer.Public()
	n := (len(key) - 1) / 2
	switch o.suite.Parameters().Scheme {
	case core.SchemeEd25519:
		return fmt.Appendf(nil, `{"kty":"OKP","crv":"Ed25519","x":%q}`, b64(key))
	case core.SchemeEd448:
		return fmt.Appendf(nil, `{"kty":"OKP","crv":"Ed448","x":%q}`, b64(key))
	case core.SchemeECDSAP256:
		return fmt.Appendf(nil, `{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, b64(key[1:1+n]), b64(key[1+n:]))
	case core.SchemeECDSAP384:
		return fmt.Appendf(nil, `{"kty":"EC","crv":"P-384","x":%q,"y":%q}`, b64(key[1:1+n]), b64(key[1+n:]))
	case core.SchemeECDSAP521:
		return fmt.Appendf(nil, `{"kty":"EC","crv":"P-521","x":%q,"y":%q}`, b64(key[1:1+n]), b64(key[1+n:]))
	}
	o.w.t.Fatalf("no JWK for suite %d", o.w.suite)
	return nil
}

// removes proposes to remove a member.
func (o *outsider) removes(name string) []byte {
	o.w.t.Helper()
	message, err := mls.ProposeExternal(o.w.t.Context(), o.env, mls.ExternalProposalParams{
		Suite: o.suite.ID(), GroupID: o.w.group, Epoch: o.w.as(o.w.in[0]).must("epoch").Epoch,
		Sender: mls.Sender{Type: mls.SenderExternal}, Signer: o.signer,
		Proposal: &mls.Remove{Removed: mls.LeafIndex(indexOf(o.w.leaves, name))},
	})
	if err != nil {
		o.w.t.Fatal(err)
	}
	return message
}

// propose has members read a proposal, each of whom is told when to commit it. The one
// whom it removes is not.
func (w *world) propose(proposal []byte, removed string, names ...string) {
	w.t.Helper()
	delays := map[int]string{}
	for _, name := range names {
		a := w.as(name)
		m := read[message](w.t, a.must("decrypt", "message", proposal).Message)
		if m.Type != "Proposal" || (m.Delay == nil) != (name == removed) {
			w.t.Fatalf("%v: a proposal was %+v", a, m)
		}
		if m.Delay != nil {
			if other := delays[*m.Delay]; other != "" {
				w.t.Fatalf("%v and %s are both to commit after %d seconds", a, other, *m.Delay)
			}
			delays[*m.Delay] = name
		}
		a.fails("Mls.Other", "encrypt", "plaintext", []byte("not while a proposal waits"))
	}
	if len(names) == len(w.in) && delays[0] == "" {
		w.t.Fatalf("nobody is to commit at once: %v", delays)
	}
}

// A server proposes to remove members; whoever it is commits, and with the commit
// before the proposal as well.
func externalProposals(w *world) { proposals(w, newOutsider(w), (*outsider).key) }

// Its key is given as a JWK.
func jwkProposals(w *world) { proposals(w, newOutsider(w), (*outsider).jwk) }

func proposals(w *world, o *outsider, key func(*outsider) []byte) {
	w.create("alice", "externalSender", key(o))
	w.add("alice", "bob", "carol", "dave", "erin", "frank")
	for _, name := range w.in {
		a := w.as(name)
		got := a.must("externalSender").Key
		if !a.ours { // it writes a point that came as a JWK compressed
			got = mls.Uncompressed(o.suite.Parameters().Scheme, got)
		}
		if !bytes.Equal(got, o.key()) {
			w.t.Fatalf("%v: external sender %x, not %x", a, got, o.key())
		}
	}
	for i, removed := range []string{"erin", "frank"} {
		committer, late := w.in[i], w.in[i+2]
		message := o.removes(removed)
		first := w.in
		if late != removed {
			first = without(w.in, late)
		}
		w.propose(message, removed, first...)
		b := w.commit(committer, "commitPending")
		w.info = b.GroupInfo
		for _, name := range first {
			switch a := w.as(name); name {
			case committer:
			case removed:
				a.leaves(b.Commit)
			default:
				a.takes(b.Commit)
			}
		}
		// Who has the commit and not the proposal waits for it.
		a := w.as(late)
		if a.ours {
			a.fails("Mls.BufferedCommit", "decrypt", "message", b.Commit)
			a.takes(message) // what it was is the commit
		} else {
			a.must("decrypt", "message", message)
			a.takes(b.Commit)
		}
		w.gone(removed)
		w.agree()
		a.fails("Mls.StaleProposal", "decrypt", "message", message)
	}
	w.talk()
}

func without(list []string, name string) (rest []string) {
	for _, other := range list {
		if other != name {
			rest = append(rest, other)
		}
	}
	return rest
}
