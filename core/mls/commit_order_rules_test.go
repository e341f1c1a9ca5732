// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core/mls"
)

// COM-13: a commit is checked in the order of RFC 9420 section 12.4.2. What is broken
// in one step and in all that follow is refused for that step, and changes nothing.
func TestOrderOfChecks(t *testing.T) {
	t.Parallel()
	for _, wire := range bothWires {
		config := anyWire
		config.Handshake = mls.HandshakePolicy(wire)
		alice, bob, mallory, all := threesome(t, config, nil)
		dave := newMember(t, 1, "dave", config)
		all = all.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{adding(dave)}}, dave)
		all = all.commitAll(t, mallory, mls.CommitParams{ForcePath: true})
		for _, m := range all {
			m.psks["psk"] = []byte("key")
		}
		signature := mallory.signer()
		before, err := mallory.g().OwnLeafNode(t.Context(), mallory.env())
		if err != nil {
			t.Fatal(err)
		}
		// A good commit, to be made worse: with a removal it needs its path.
		_, pending, _, err := mls.ForgeCommit(t.Context(), mallory.env(), mallory.g(), []mls.Proposal{
			mallory.g().NewExternalPSK([]byte("psk")), &mls.Remove{Removed: dave.g().OwnLeaf()},
		})
		if err != nil {
			t.Fatal(err)
		}
		commit, tag := mls.PendingContent(pending)
		steps := []struct {
			name             string
			rule             string
			want             error
			verified, opened int64 // signatures and ciphertexts that were looked at
			breaks           func(f *mls.Forgery, c *mls.Commit)
		}{
			{"the group", "", mls.ErrWrongGroup, 0, 0, func(f *mls.Forgery, _ *mls.Commit) {
				after(f, func(c *mls.FramedContent) { c.GroupID = []byte("another") })
			}},
			{"the epoch", "", mls.ErrWrongEpoch, 0, 0, func(f *mls.Forgery, _ *mls.Commit) {
				after(f, func(c *mls.FramedContent) { c.Epoch++ })
			}},
			{"the membership tag, or the encryption", "", mls.ErrAuthentication, 0, 0, func(f *mls.Forgery, _ *mls.Commit) {
				f.Tagged = func(m *mls.PublicMessage) { m.MembershipTag[0] ^= 1 }
				f.Encrypted = func(m *mls.PrivateMessage) { m.Ciphertext[len(m.Ciphertext)-1] ^= 1 }
			}},
			{"the signature", "", mls.ErrAuthentication, 1, 0, func(f *mls.Forgery, _ *mls.Commit) { f.Signer = alice.signer() }},
			{"a reference", "", mls.ErrMissingProposal, 1, 0, func(_ *mls.Forgery, c *mls.Commit) {
				c.Proposals = append([]mls.ProposalOrRef{{Reference: []byte("unknown")}}, c.Proposals...)
			}},
			{"a proposal", "PSK-1", nil, 1, 0, func(_ *mls.Forgery, c *mls.Commit) {
				short := mallory.g().NewExternalPSK([]byte("unknown"))
				short.PSK.Nonce = nil
				c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: short})
			}},
			{"the list", "PRP-3", nil, 1, 0, func(_ *mls.Forgery, c *mls.Commit) {
				c.Proposals = append(c.Proposals, mls.ProposalOrRef{Proposal: &mls.Remove{Removed: mallory.g().OwnLeaf()}})
			}},
			{"the PSKs", "", mls.ErrMissingPSK, 1, 0, func(_ *mls.Forgery, c *mls.Commit) {
				c.Proposals = append([]mls.ProposalOrRef{{Proposal: mallory.g().NewExternalPSK([]byte("unknown"))}}, c.Proposals[1:]...)
			}},
			{"the path", "PRP-7", nil, 1, 0, func(_ *mls.Forgery, c *mls.Commit) { c.Path = nil }},
			{"the leaf's key", "LEAF-3", nil, 1, 0, func(_ *mls.Forgery, c *mls.Commit) {
				c.Path.LeafNode.EncryptionKey = before.EncryptionKey
			}},
			{"the leaf's signature", "", mls.ErrAuthentication, 2, 0, func(_ *mls.Forgery, c *mls.Commit) { c.Path.LeafNode.Signature[9] ^= 1 }},
			{"a ciphertext less", "PATH-2", nil, 2, 0, func(_ *mls.Forgery, c *mls.Commit) { c.Path.Nodes[0].Secrets = c.Path.Nodes[0].Secrets[1:] }},
			{"a key that is known", "PATH-6", nil, 2, 0, func(_ *mls.Forgery, c *mls.Commit) { c.Path.Nodes[0].EncryptionKey = before.EncryptionKey }},
			{"the parent hash", "TREE-11", nil, 2, 0, func(_ *mls.Forgery, c *mls.Commit) {
				c.Path.LeafNode.ParentHash = make([]byte, 32)
				if err := mls.ForgeLeaf(t.Context(), signature, mallory.g(), c.Path.LeafNode); err != nil {
					t.Fatal(err)
				}
			}},
			{"what is encrypted", "", mls.ErrAuthentication, 2, 1, func(_ *mls.Forgery, c *mls.Commit) {
				for _, n := range c.Path.Nodes {
					for _, s := range n.Secrets {
						s.Ciphertext[0] ^= 1
					}
				}
			}},
			{"the confirmation tag", "", mls.ErrAuthentication, 2, 1, func(f *mls.Forgery, _ *mls.Commit) {
				f.Signed = func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = make([]byte, 32) }
			}},
		}
		p := newProbe()
		for first := range steps {
			for _, alone := range []bool{true, false} {
				c, err := mls.UnmarshalCommit(commit)
				if err != nil {
					t.Fatal(err)
				}
				f := mls.Forgery{Wire: wire, Signer: signature, Content: committing(c),
					Signed: func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = bytes.Clone(tag) }}
				last := len(steps) - 1
				if alone {
					last = first
				}
				for i := last; i >= first; i-- { // the last first: no step undoes another
					steps[i].breaks(&f, c)
				}
				step := steps[first]
				what := fmt.Sprintf("wire %d, %s, alone %v", wire, step.name, alone)
				message := mallory.forge(f)
				for _, m := range []*member{alice, bob} {
					wantRefusal(t, what, m, message, step.rule, step.want)
				}
				if _, err := p.processWith(bob, message); err == nil || p.verified.Load() != step.verified || p.opened.Load() != step.opened {
					t.Errorf("%s: %d signatures and %d ciphertexts were looked at, %v", what, p.verified.Load(), p.opened.Load(), err)
				}
			}
		}
		// The pieces are good as they are.
		c, err := mls.UnmarshalCommit(commit)
		if err != nil {
			t.Fatal(err)
		}
		message := mallory.forge(mls.Forgery{Wire: wire, Signer: signature, Content: committing(c),
			Signed: func(a *mls.AuthenticatedContent) { a.Auth.ConfirmationTag = tag }})
		for _, m := range []*member{alice, bob} {
			if _, err := m.process(message); err != nil {
				t.Errorf("wire %d: %v", wire, err)
			}
		}
		party{alice, bob}.agree(t)
	}
}

// after changes the content once more.
func after(f *mls.Forgery, change func(*mls.FramedContent)) {
	content := f.Content
	f.Content = func(c *mls.FramedContent) { content(c); change(c) }
}
