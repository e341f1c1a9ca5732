// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// A history secret travels in the form that Core Crypto members give it, so that
// either side can open what the other made: MessagePack, in which a structure is an
// array of its fields, bytes are an array of numbers, and an enumeration is its name
// or, with a value, a map of one entry.

// maxHistorySecret bounds a history secret. That of suite 5 has 1.7 KB; one with
// post-quantum keys and signatures stays below 30 KB.
const maxHistorySecret = 64 << 10

// A packer writes a value, or reads one, by the same description. After the first
// thing that does not fit it is bad and does nothing.
type packer struct {
	b       []byte // written, or left to be read
	reading bool
	bad     bool
}

// The leading bytes of MessagePack; what is short has its length or value in them.
const (
	packMap    = 0x80 // up to 15 entries
	packArray  = 0x90 // up to 15 elements
	packText   = 0xA0 // up to 31 bytes
	packText8  = 0xD9
	packU8     = 0xCC
	packU16    = 0xCD
	packU32    = 0xCE
	packU64    = 0xCF
	packList16 = 0xDC
)

// take reads n bytes; zeros if they are not there.
func (p *packer) take(n int) []byte {
	if p.bad || n > len(p.b) {
		p.bad, p.b = true, nil
		return make([]byte, min(n, 8))
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *packer) number(v *uint64) {
	if !p.reading {
		switch n := *v; {
		case n < packMap:
			p.b = append(p.b, byte(n))
		case n <= 0xFF:
			p.b = append(p.b, packU8, byte(n))
		case n <= 0xFFFF:
			p.b = binary.BigEndian.AppendUint16(append(p.b, packU16), uint16(n))
		case n <= 0xFFFFFFFF:
			p.b = binary.BigEndian.AppendUint32(append(p.b, packU32), uint32(n))
		default:
			p.b = binary.BigEndian.AppendUint64(append(p.b, packU64), n)
		}
		return
	}
	switch lead := p.take(1)[0]; lead {
	case packU8:
		*v = uint64(p.take(1)[0])
	case packU16:
		*v = uint64(binary.BigEndian.Uint16(p.take(2)))
	case packU32:
		*v = uint64(binary.BigEndian.Uint32(p.take(4)))
	case packU64:
		*v = binary.BigEndian.Uint64(p.take(8))
	default:
		*v = uint64(lead)
		p.bad = p.bad || lead >= packMap
	}
}

// list is the head of an array of n elements, at most 65535.
func (p *packer) list(n *int) {
	if !p.reading {
		if *n < 16 {
			p.b = append(p.b, packArray|byte(*n))
		} else {
			p.b = binary.BigEndian.AppendUint16(append(p.b, packList16), uint16(*n))
		}
		return
	}
	switch lead := p.take(1)[0]; {
	case lead == packList16:
		*n = int(binary.BigEndian.Uint16(p.take(2)))
	case lead&0xF0 == packArray:
		*n = int(lead & 0x0F)
	default:
		p.bad = true
	}
	if p.bad {
		*n = 0
	}
}

// fields are the heads of structures that lie in one another, by their numbers of
// fields.
func (p *packer) fields(numbers ...int) {
	for _, want := range numbers {
		n := want
		p.list(&n)
		p.bad = p.bad || n != want
	}
}

func (p *packer) bytes(v *[]byte) {
	n := len(*v)
	p.list(&n)
	if p.reading {
		*v = make([]byte, n)
	}
	for i := range n {
		b := uint64((*v)[i])
		p.number(&b)
		p.bad = p.bad || b > 0xFF
		if p.reading {
			(*v)[i] = byte(b)
		}
	}
}

func (p *packer) text(v *string) {
	if !p.reading {
		if n := len(*v); n < 32 {
			p.b = append(p.b, packText|byte(n))
		} else {
			p.b = append(p.b, packText8, byte(n))
		}
		p.b = append(p.b, *v...)
		return
	}
	n := 0
	switch lead := p.take(1)[0]; {
	case lead == packText8:
		n = int(p.take(1)[0])
	case lead&0xE0 == packText:
		n = int(lead & 0x1F)
	default:
		p.bad = true
	}
	*v = string(p.take(n))
}

// word is a name that is always the same.
func (p *packer) word(want string) {
	v := want
	p.text(&v)
	p.bad = p.bad || v != want
}

// choice is the name of an enumeration's member, before its value.
func (p *packer) choice(name string) {
	if p.reading {
		p.bad = p.take(1)[0] != packMap|1 || p.bad
	} else {
		p.b = append(p.b, packMap|1)
	}
	p.word(name)
}

// code is a code point, with a name or without.
func (p *packer) code(v *uint16, names []string) {
	named := !p.reading && int(*v) < len(names) && names[*v] != ""
	if p.reading {
		named = len(p.b) > 0 && p.b[0]&0xE0 == packText
	}
	if named {
		name := ""
		if !p.reading {
			name = names[*v]
		}
		p.text(&name)
		*v = uint16(max(slices.Index(names, name), 0))
		p.bad = p.bad || *v == 0
		return
	}
	p.choice("Unknown")
	p.short(v)
}

func (p *packer) short(v *uint16) {
	n := uint64(*v)
	p.number(&n)
	p.bad = p.bad || n > 0xFFFF
	*v = uint16(n)
}

func codes[T ~uint16](p *packer, list *[]T, code func(*uint16)) {
	n := len(*list)
	p.list(&n)
	if p.reading {
		*list = make([]T, n)
	}
	for i := range n {
		v := uint16((*list)[i])
		code(&v)
		(*list)[i] = T(v)
	}
}

var credentialNames = []string{core.CredentialBasic: "Basic", core.CredentialX509: "X509"}

// A historyForm is what a history secret says, in its own terms.
type historyForm struct {
	client  []byte
	suite   string // registry name
	k       mls.KeyPackage
	leafKey []byte // public, once more
	private struct{ leaf, init []byte }
}

func (f *historyForm) pack(p *packer) {
	l := f.k.LeafNode
	p.fields(2)
	p.bytes(&f.client)
	p.fields(3, 2, 5) // the secret key package; the key package; what is signed of it
	p.word("Mls10")
	p.text(&f.suite)
	p.fields(1)
	p.bytes(&f.k.InitKey)
	p.fields(2, 6, 1, 1) // the leaf; what is signed of it
	p.bytes(&l.EncryptionKey)
	p.fields(1, 1)
	p.bytes(&l.SignatureKey)
	p.fields(2)
	p.word("Basic")
	p.choice("Basic")
	p.fields(1, 1)
	p.bytes(&l.Credential.Identity)
	p.fields(5, 1)
	p.word("Mls10")
	codes(p, &l.Capabilities.Suites, p.short)
	codes(p, &l.Capabilities.Extensions, func(v *uint16) { p.code(v, nil) })
	codes(p, &l.Capabilities.Proposals, func(v *uint16) { p.code(v, nil) })
	codes(p, &l.Capabilities.Credentials, func(v *uint16) { p.code(v, credentialNames) })
	p.choice("KeyPackage")
	p.fields(2)
	p.number(&l.Lifetime.NotBefore)
	p.number(&l.Lifetime.NotAfter)
	p.fields(1, 0) // extensions of the leaf
	p.fields(1, 1)
	p.bytes(&l.Signature)
	p.fields(1, 0, 1, 1) // extensions of the key package
	p.bytes(&f.k.Signature)
	p.fields(2, 1, 1)
	p.bytes(&f.leafKey)
	p.fields(1, 1)
	p.bytes(&f.private.leaf)
	p.fields(1)
	p.bytes(&f.private.init)
}

// packHistory encodes the secret of a history client. The key package has no
// extensions, and version and credential are what they always are.
func packHistory(suite core.Suite, b *mls.KeyPackageBundle) core.Secret {
	f := &historyForm{
		client: b.KeyPackage.LeafNode.Credential.Identity, suite: suite.Parameters().Name, k: *b.KeyPackage,
		leafKey: b.LeafKey.Public(),
	}
	f.private.leaf, f.private.init = b.LeafKey.Material().Bytes(), b.InitKey.Material().Bytes()
	p := &packer{b: make([]byte, 0, maxHistorySecret)} // it never has to grow: no copy of the keys stays behind
	f.pack(p)
	defer clear(p.b)
	return core.NewSecret(bytes.Clone(p.b))
}

// unpackHistory decodes what packHistory encoded, here or elsewhere. Nothing is
// checked but the form.
func unpackHistory(data []byte) (*historyForm, error) {
	if len(data) > maxHistorySecret {
		return nil, fmt.Errorf("history secret of %d bytes: %w", len(data), core.ErrTooLarge)
	}
	f := &historyForm{k: mls.KeyPackage{Version: mls.MLS10, LeafNode: &mls.LeafNode{
		Source: mls.LeafKeyPackage, Credential: core.Credential{Type: core.CredentialBasic},
		Capabilities: mls.Capabilities{Versions: []mls.ProtocolVersion{mls.MLS10}},
	}}}
	p := &packer{b: data, reading: true}
	f.pack(p)
	if p.bad || len(p.b) > 0 {
		f.wipe()
		return nil, fmt.Errorf("history secret: malformed: %w", core.ErrInvalid)
	}
	return f, nil
}

func (f *historyForm) wipe() {
	clear(f.private.leaf)
	clear(f.private.init)
}
