// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// COD-5: what a Welcome encrypts, group secrets and GroupInfo, is read to its end;
// one byte more is refused, though it was signed and encrypted by a member.
func TestTrailingBytesInWelcome(t *testing.T) {
	t.Parallel()
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}}); err != nil {
		t.Fatal(err)
	}
	same := func(b []byte) []byte { return b }
	longer := func(b []byte) []byte { return append(slices.Clip(b), 0) }
	for _, c := range []struct {
		what          string
		info, secrets func([]byte) []byte
		want          error
	}{{"group secrets", same, longer, mls.ErrMalformed}, {"GroupInfo", longer, same, mls.ErrMalformed}, {"nothing", same, same, nil}} {
		welcome, err := mls.ForgeWelcomeBytes(t.Context(), alice.env(), alice.g(), alice.pending, alice.signer(), c.info, c.secrets)
		if err != nil {
			t.Fatal(err)
		}
		if err := zoe.join(welcome); !errors.Is(err, c.want) || (c.want == nil) != (len(zoe.stored) > 0) {
			t.Errorf("one byte after %s: %v", c.what, err)
		}
	}
}

// COD-8: lists stay as they came, in whatever order and with whatever in them, so
// that signatures and hashes over them hold.
func TestOrderOfListsIsKept(t *testing.T) {
	t.Parallel()
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.grease = false
	alice.create("group", nil)
	odd := []mls.ExtensionType{0xF003, 0x0B0A, 0xF001, 0x00EA, 0xF002}
	l := mls.Extensions{{Type: 0xF002}, {Type: 0xF001, Data: []byte("x")}, {Type: 0x0B0A}, {Type: 0xF003}}
	zoe, kp := newPackage(t, func(k *mls.KeyPackage) {
		k.LeafNode.Capabilities.Extensions = odd
		k.LeafNode.Extensions, k.Extensions = l, mls.Extensions{l[3], l[1], l[2], l[0]}
		k.LeafNode.Capabilities.Suites = []core.SuiteID{7, 1, 0x2A2A, 3}
	})
	again, err := mls.UnmarshalKeyPackage(kp.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Validate(zoe.suite, time.Time{}); err != nil {
		t.Errorf("a list out of order: %v", err)
	}
	capabilities := alice.capabilities()
	capabilities.Extensions = odd
	p := party{alice}.commitAll(t, alice, mls.CommitParams{Leaf: mls.LeafParams{Capabilities: &capabilities, Extensions: &l}})
	p = p.commitAll(t, alice, mls.CommitParams{Proposals: []mls.Proposal{
		&mls.Add{KeyPackage: again}, &mls.GroupContextExtensions{Extensions: mls.Extensions{l[1], l[0]}},
	}}, zoe)
	p = p.commitAll(t, zoe, mls.CommitParams{ForcePath: true})
	for _, m := range p {
		if e := m.g().Extensions(); len(e) != 2 || e[0].Type != 0xF001 || e[1].Type != 0xF002 {
			t.Errorf("%s: the group's extensions are %v", m.name, e)
		}
		leaf, err := m.g().OwnLeafNode(t.Context(), m.env())
		if err != nil || !slices.Equal(leaf.Capabilities.Extensions, odd) || len(leaf.Extensions) != 4 || leaf.Extensions[1].Type != 0xF001 {
			t.Errorf("%s: own leaf %+v", m.name, leaf)
		}
	}
}

// COD-10: what was stored and is damaged is an error; nothing panics.
func TestCutRecords(t *testing.T) {
	t.Parallel()
	alice := newMember(t, 1, "alice", mls.DefaultConfig)
	alice.create("group", nil)
	zoe := newMember(t, 1, "zoe", mls.DefaultConfig)
	if _, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: zoe.keyPackage()}}}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		record []byte
		read   func([]byte) error
	}{
		"group":       {alice.stored[mls.RecordHeader][0].Value, func(b []byte) error { _, err := mls.Load(provider, b); return err }},
		"pending":     {alice.stored[mls.RecordPending][0].Value, func(b []byte) error { _, err := mls.LoadPending(b); return err }},
		"key package": {zoe.bundle.Marshal(), func(b []byte) error { _, err := mls.UnmarshalKeyPackageBundle(provider, b); return err }},
	} {
		if err := c.read(c.record); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for n := range c.record {
			if err := c.read(c.record[:n:n]); err == nil {
				t.Fatalf("%s: the first %d of %d bytes are read", what, n, len(c.record))
			}
		}
		if err := c.read(append(slices.Clip(c.record), 0)); err == nil {
			t.Errorf("%s: a byte behind it is read over", what)
		}
	}
}
