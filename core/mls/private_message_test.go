// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// wireGroup is what framing needs of a group: one sender, anybody receives.
type wireGroup struct {
	suite                  core.Suite
	signer                 core.Signer
	groupID                []byte
	epoch                  uint64
	leaf                   LeafIndex
	leaves                 uint32
	senderData, membership core.Secret
	encryption             []byte
	context                []byte
}

func newWireGroup(t testing.TB, suite core.Suite) *wireGroup {
	t.Helper()
	p := suite.Parameters()
	key, err := Pure.GenerateKey(context.Background(), core.KeySpec{Algorithm: p.Signature, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return &wireGroup{
		suite: suite, signer: key.(core.Signer), groupID: []byte("a group"), epoch: 9, leaf: 2, leaves: 4,
		senderData: core.NewSecret(bytes.Repeat([]byte{1}, p.Nh)), membership: core.NewSecret(bytes.Repeat([]byte{2}, p.Nh)),
		encryption: bytes.Repeat([]byte{3}, p.Nh), context: []byte("stands for a GroupContext"),
	}
}

func (g *wireGroup) tree() *secretTree {
	return newSecretTree(g.suite, g.epoch, g.leaves, testLimits, core.NewSecret(bytes.Clone(g.encryption)), &record.WriteSet{})
}

func (g *wireGroup) content(t ContentType) *FramedContent {
	c := &FramedContent{
		GroupID: g.groupID, Epoch: g.epoch, Sender: Sender{Type: SenderMember, Leaf: g.leaf},
		AuthenticatedData: []byte("aad"), ContentType: t,
	}
	switch t {
	case ContentApplication:
		c.Application = []byte("hello")
	case ContentProposal:
		c.Proposal = &Remove{Removed: 1}
	case ContentCommit:
		c.Commit = &Commit{Proposals: []ProposalOrRef{{Reference: []byte("reference")}}}
	}
	return c
}

func (g *wireGroup) sign(t testing.TB, wire WireFormat, c *FramedContent, tag []byte) *AuthenticatedContent {
	t.Helper()
	a, err := signFramedContent(context.Background(), g.signer, wire, c, g.context)
	if err != nil {
		t.Fatal(err)
	}
	a.Auth.ConfirmationTag = tag
	return a
}

func (g *wireGroup) sealPrivate(t testing.TB, c *FramedContent, tag []byte) []byte {
	t.Helper()
	a := g.sign(t, WirePrivateMessage, c, tag)
	_, m, err := protectPrivate(context.Background(), nil, &record.WriteSet{}, g.tree(), g.senderData, a, Padding128)
	if err != nil {
		t.Fatal(err)
	}
	return (&MLSMessage{PrivateMessage: m}).Marshal()
}

func (g *wireGroup) sealPublic(t testing.TB, c *FramedContent, tag []byte) []byte {
	t.Helper()
	m, err := protectPublic(g.suite, g.membership, g.context, g.sign(t, WirePublicMessage, c, tag))
	if err != nil {
		t.Fatal(err)
	}
	return (&MLSMessage{PublicMessage: m}).Marshal()
}

// open receives a message as a member would that has seen nothing else.
func (g *wireGroup) open(t testing.TB, data []byte) (*AuthenticatedContent, error) {
	t.Helper()
	message, err := UnmarshalMLSMessage(data)
	if err != nil {
		return nil, err
	}
	switch {
	case message.PublicMessage != nil:
		a, err := unprotectPublic(g.suite, g.membership, g.context, message.PublicMessage)
		if err != nil {
			return nil, err
		}
		return a, verifyContent(g.suite, g.signer.Public(), g.context, a)
	case message.PrivateMessage != nil:
		a, _, err := g.receive(g.tree(), nil, &record.WriteSet{}, message.PrivateMessage)
		return a, err
	}
	return nil, fmt.Errorf("not a framed message: %w", core.ErrInvalid)
}

func (g *wireGroup) receive(tree *secretTree, fetch record.Fetch, ws *record.WriteSet, m *PrivateMessage) (content *AuthenticatedContent, next *secretTree, err error) {
	d, err := m.openSenderData(g.suite, g.senderData, g.leaves)
	if err != nil {
		return nil, nil, err
	}
	next, err = unprotectPrivate(context.Background(), fetch, ws, tree, m, d, func(a *AuthenticatedContent) error {
		content = a
		return verifyContent(g.suite, g.signer.Public(), g.context, a)
	})
	return content, next, err
}

func TestPrivateMessageRoundTrip(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		g := newWireGroup(t, suite)
		for _, kind := range []ContentType{ContentApplication, ContentProposal, ContentCommit} {
			tag := []byte(nil)
			if kind == ContentCommit {
				tag = []byte("tag")
			}
			for _, padding := range []Padding{PaddingNone, Padding128, PaddingPadme, 4096} {
				a := g.sign(t, WirePrivateMessage, g.content(kind), tag)
				ws := &record.WriteSet{}
				next, m, err := protectPrivate(context.Background(), nil, ws, g.tree(), g.senderData, a, padding)
				if err != nil || next == nil || len(ws.Puts) == 0 {
					t.Fatal(err)
				}
				if padding == Padding128 || padding == 4096 {
					if len(m.Ciphertext)%int(padding) != 0 {
						t.Errorf("a ciphertext of %d bytes", len(m.Ciphertext))
					}
				}
				got, err := g.open(t, (&MLSMessage{PrivateMessage: m}).Marshal())
				if err != nil {
					t.Fatal(err)
				}
				wantBytes(t, "content", got.Marshal(), a.Marshal())
				if got.Content.Sender != (Sender{Type: SenderMember, Leaf: 2}) {
					t.Errorf("sender is %v", got.Content.Sender)
				}
			}
		}
	})
}

// FS-2, FS-3: every bit of a PrivateMessage counts: whatever is changed, the refusal
// is typed, the state stays, and the true message still opens afterwards, once.
func TestPrivateMessageBitFlips(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		g := newWireGroup(t, suite)
		receiver := &treeUser{t: t, tree: g.tree(), reload: true}
		var ws record.WriteSet
		receiver.tree = newSecretTree(g.suite, g.epoch, g.leaves, testLimits, core.NewSecret(bytes.Clone(g.encryption)), &ws)
		receiver.store.apply(&ws)
		receiver.load()
		for _, kind := range []ContentType{ContentApplication, ContentCommit} {
			message := g.sealPrivate(t, g.content(kind), map[ContentType][]byte{ContentCommit: []byte("tag")}[kind])
			before := maps.Clone(receiver.store.values)
			for i := range message {
				changed := bytes.Clone(message)
				changed[i] ^= 1 << (i % 8)
				m, err := UnmarshalMLSMessage(changed)
				if err != nil || m.PrivateMessage == nil {
					if err != nil && !errors.Is(err, ErrMalformed) {
						t.Errorf("byte %d: %v", i, err)
					}
					continue
				}
				var ws record.WriteSet
				_, next, err := g.receive(receiver.tree, receiver.store.fetch, &ws, m.PrivateMessage)
				if !errors.Is(err, ErrAuthentication) || next != nil || len(ws.Puts)+len(ws.Dels)+len(ws.Retired) != 0 {
					t.Errorf("byte %d: %v, %v", i, err, ws)
				}
			}
			if !maps.EqualFunc(before, receiver.store.values, bytes.Equal) {
				t.Fatal("a refused message changed the records")
			}
			m := must(UnmarshalMLSMessage(message)).PrivateMessage
			ws = record.WriteSet{}
			_, next, err := g.receive(receiver.tree, receiver.store.fetch, &ws, m)
			if err != nil {
				t.Fatalf("the true message: %v", err)
			}
			receiver.done(next, &ws)
			if _, _, err := g.receive(receiver.tree, receiver.store.fetch, &record.WriteSet{}, m); !errors.Is(err, ErrDuplicateMessage) { // FS-2
				t.Errorf("the same message again: %v", err)
			}
		}
	})
}

// FS-3, FS-4, FR-2, FR-7, FR-9: flaws that only one who holds the keys can make: each
// has its own refusal, and none uses the key up.
func TestForgedPrivateMessages(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	g := newWireGroup(t, suite)
	p := suite.Parameters()
	tree := g.tree()
	// forge encrypts any plaintext as a given sender and generation.
	forge := func(d senderData, kind ContentType, plaintext []byte, sealed ContentType) *PrivateMessage {
		m := &PrivateMessage{GroupID: g.groupID, Epoch: g.epoch, ContentType: sealed, AuthenticatedData: []byte("aad")}
		naive := naiveTree{suite, core.NewSecret(g.encryption), g.leaves}
		raw := naive.key(d.leaf&3, sealed.ratchetKind(), d.generation%1000)
		aead := must(suite.AEAD(core.NewSecret(raw[:p.Nk])))
		m.Ciphertext = aead.Seal(nil, d.guard(core.NewSecret(raw[p.Nk:])), plaintext, m.contentAAD())
		if err := m.sealSenderData(suite, g.senderData, d); err != nil {
			t.Fatal(err)
		}
		m.ContentType = kind
		return m
	}
	good := func(kind ContentType) []byte {
		a := g.sign(t, WirePrivateMessage, g.content(kind), nil)
		return a.Auth.append(a.Content.appendBody(nil), kind)
	}
	public := g.sign(t, WirePublicMessage, g.content(ContentApplication), nil)
	otherEpoch := g.content(ContentApplication)
	otherEpoch.Epoch++
	wrongSigned := g.sign(t, WirePrivateMessage, otherEpoch, nil)
	rule := func(err error) string {
		var breach *RuleError
		if errors.As(err, &breach) {
			return breach.Rule
		}
		return ""
	}
	at := newSenderData(g.leaf, 0)
	for _, c := range []struct {
		name string
		m    *PrivateMessage
		is   error
		rule string
	}{
		{"good", forge(at, ContentApplication, good(ContentApplication), ContentApplication), nil, ""},
		{"zero padding", forge(at, ContentApplication, append(good(ContentApplication), 0), ContentApplication), nil, ""}, // COD-5
		{"padding not zero", forge(at, ContentApplication, append(good(ContentApplication), 0, 1), ContentApplication), core.ErrInvalid, "FR-7"},
		{"padding not zero, first", forge(at, ContentApplication, append(good(ContentApplication), 1, 0), ContentApplication), core.ErrInvalid, "FR-7"},
		{"empty", forge(at, ContentApplication, nil, ContentApplication), ErrMalformed, ""},
		{"cut", forge(at, ContentApplication, good(ContentApplication)[:20], ContentApplication), ErrMalformed, ""},
		{"a proposal as application", forge(at, ContentApplication, good(ContentProposal), ContentApplication), core.ErrInvalid, "*"},
		{"flipped content type", forge(at, ContentProposal, good(ContentApplication), ContentApplication), ErrAuthentication, ""},
		{"signed as public", forge(at, ContentApplication, public.Auth.append(public.Content.appendBody(nil), ContentApplication), ContentApplication), ErrAuthentication, ""}, // FR-2
		{"signed for another epoch", forge(at, ContentApplication, wrongSigned.Auth.append(wrongSigned.Content.appendBody(nil), ContentApplication), ContentApplication), ErrAuthentication, ""},
		{"another member's", forge(newSenderData(1, 0), ContentApplication, good(ContentApplication), ContentApplication), ErrAuthentication, ""},
		{"no such leaf", forge(newSenderData(4, 0), ContentApplication, good(ContentApplication), ContentApplication), core.ErrInvalid, "FR-9"},
		{"no such leaf at all", forge(newSenderData(1<<32-1, 0), ContentApplication, good(ContentApplication), ContentApplication), core.ErrInvalid, "FR-9"},
		{"generation too far ahead", forge(newSenderData(2, 1001), ContentApplication, good(ContentApplication), ContentApplication), ErrTooFarAhead, ""},
		{"the last generation", forge(newSenderData(2, 1<<32-1), ContentApplication, good(ContentApplication), ContentApplication), ErrTooFarAhead, ""},
		{"good in the end", forge(at, ContentApplication, good(ContentApplication), ContentApplication), nil, ""},
	} {
		var ws record.WriteSet
		_, next, err := g.receive(tree, nil, &ws, c.m)
		if c.is == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !errors.Is(err, c.is) || c.rule != "*" && rule(err) != c.rule {
			t.Errorf("%s: %v", c.name, err)
		}
		if next != nil || len(ws.Puts)+len(ws.Dels)+len(ws.Retired) != 0 {
			t.Errorf("%s: left %v", c.name, ws)
		}
	}
	// Sender data of a wrong length, under the right key.
	m := forge(at, ContentApplication, good(ContentApplication), ContentApplication)
	key, nonce, err := senderDataKeyNonce(suite, g.senderData, m.Ciphertext)
	if err != nil {
		t.Fatal(err)
	}
	aead := must(suite.AEAD(key))
	for _, n := range []int{0, 11, 13} {
		m.EncryptedSenderData = aead.Seal(nil, nonce.Bytes(), make([]byte, n), m.senderDataAAD())
		if _, err := m.openSenderData(suite, g.senderData, 4); !errors.Is(err, ErrMalformed) {
			t.Errorf("sender data of %d bytes: %v", n, err)
		}
	}
	for _, m := range []*PrivateMessage{{ContentType: 1}, {ContentType: 1, Ciphertext: make([]byte, 40), EncryptedSenderData: make([]byte, 15)}} {
		if _, err := m.openSenderData(suite, g.senderData, 4); !errors.Is(err, ErrAuthentication) {
			t.Errorf("next to nothing: %v", err)
		}
	}
}

// FR-8: the same generation sent twice, after a rollback, has two nonces.
func TestReuseGuard(t *testing.T) {
	t.Parallel()
	g := newWireGroup(t, suiteOf(t, core.SuiteX25519AES128Ed25519))
	a, b := g.sealPrivate(t, g.content(ContentApplication), nil), g.sealPrivate(t, g.content(ContentApplication), nil)
	m, n := must(UnmarshalMLSMessage(a)).PrivateMessage, must(UnmarshalMLSMessage(b)).PrivateMessage
	d, e := must(m.openSenderData(g.suite, g.senderData, 4)), must(n.openSenderData(g.suite, g.senderData, 4))
	if d.generation != 0 || e.generation != 0 || d.reuseGuard == e.reuseGuard || bytes.Equal(m.Ciphertext, n.Ciphertext) {
		t.Errorf("%v and %v", d, e)
	}
	nonce := core.NewSecret([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	wantBytes(t, "nonce", senderData{reuseGuard: [4]byte{0xF1, 0xF2, 0xF3, 0xF4}}.guard(nonce), []byte{0xF0, 0xF0, 0xF0, 0xF0, 5, 6, 7, 8, 9, 10, 11, 12})
}

// COD-2, FR-9: what cannot be sent is refused before a generation is spent.
func TestPrivateMessageRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	g := newWireGroup(t, suiteOf(t, core.SuiteX25519AES128Ed25519))
	var ws record.WriteSet
	huge := g.content(ContentApplication)
	huge.Application = make([]byte, vlbytes.MaxLength+1)
	if _, err := signFramedContent(ctx, g.signer, WirePrivateMessage, huge, g.context); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too long: %v", err)
	}
	a := &AuthenticatedContent{WireFormat: WirePrivateMessage, Content: g.content(ContentApplication)}
	if _, _, err := protectPrivate(ctx, nil, &ws, g.tree(), g.senderData, a, 1<<31); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("too much padding: %v", err)
	}
	a = g.sign(t, WirePublicMessage, g.content(ContentProposal), nil)
	if _, _, err := protectPrivate(ctx, nil, &ws, g.tree(), g.senderData, a, PaddingNone); !errors.As(err, new(*RuleError)) {
		t.Errorf("signed as PublicMessage: %v", err)
	}
	external := g.content(ContentProposal)
	external.Sender = Sender{Type: SenderExternal}
	a = g.sign(t, WirePrivateMessage, external, nil)
	if _, _, err := protectPrivate(ctx, nil, &ws, g.tree(), g.senderData, a, PaddingNone); !errors.As(err, new(*RuleError)) {
		t.Errorf("an external sender: %v", err)
	}
	if len(ws.Puts)+len(ws.Dels)+len(ws.Retired) != 0 {
		t.Errorf("refusals left %v", ws)
	}
}

// Beyond its signature a message costs five label expansions on either side,
// whatever the size of the group: two for the sender data, three for the ratchet.
func TestPrivateMessageCost(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	suite := &countingSuite{Suite: suiteOf(t, core.SuiteX25519AES128Ed25519)}
	g := newWireGroup(t, suite)
	g.leaves = 1 << 14
	a := g.sign(t, WirePrivateMessage, g.content(ContentApplication), nil)
	sender, receiver := g.tree(), g.tree()
	for i := range 3 {
		suite.expands = 0
		next, m, err := protectPrivate(ctx, nil, &record.WriteSet{}, sender, g.senderData, a, Padding128)
		if err != nil {
			t.Fatal(err)
		}
		sender = next
		sent := suite.expands
		suite.expands = 0
		if _, receiver, err = g.receive(receiver, nil, &record.WriteSet{}, m); err != nil {
			t.Fatal(err)
		}
		want := 5
		if i == 0 { // down the tree: two for each of 14 levels, and the two ratchets
			want += 2*14 + 2
		}
		if sent != want || suite.expands != want {
			t.Errorf("message %d: %d and %d expansions, want %d", i, sent, suite.expands, want)
		}
	}
}

func BenchmarkPrivateMessage(b *testing.B) {
	ctx := context.Background()
	g := newWireGroup(b, suiteOf(b, core.SuiteX25519AES128Ed25519))
	content := g.content(ContentApplication)
	content.Application = make([]byte, 100)
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := signFramedContent(ctx, g.signer, WirePrivateMessage, content, g.context); err != nil {
				b.Fatal(err)
			}
		}
	})
	a := g.sign(b, WirePrivateMessage, content, nil)
	tree := g.tree()
	b.Run("protect", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			next, _, err := protectPrivate(ctx, nil, &record.WriteSet{}, tree, g.senderData, a, Padding128)
			if err != nil {
				b.Fatal(err)
			}
			tree = next
		}
	})
	_, m, err := protectPrivate(ctx, nil, &record.WriteSet{}, g.tree(), g.senderData, a, Padding128)
	if err != nil {
		b.Fatal(err)
	}
	receiver := g.tree()
	accept := func(*AuthenticatedContent) error { return nil }
	first := senderData{leaf: g.leaf, generation: 0}
	receiver, err = receiver.open(ctx, nil, &record.WriteSet{}, g.leaf, handshakeRatchet, first.generation, func(_, _ core.Secret) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	b.Run("unprotect", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			d, err := m.openSenderData(g.suite, g.senderData, g.leaves)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := unprotectPrivate(ctx, nil, &record.WriteSet{}, receiver, m, d, accept); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if err := verifyContent(g.suite, g.signer.Public(), g.context, a); err != nil {
				b.Fatal(err)
			}
		}
	})
}
