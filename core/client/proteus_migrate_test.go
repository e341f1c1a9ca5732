// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
	"github.com/conclave-mls/conclave/storage/memory"
)

// A cryptobox is moved whole, also if it is interrupted again and again, and what cannot be
// moved is told.
func TestMigrateCryptobox(t *testing.T) {
	t.Parallel()
	const sessions = 120
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	bob := newProteus(t, memory.New())
	old, err := proteus.GenerateIdentity(nil)
	must(err)
	other, err := proteus.GenerateIdentity(nil)
	must(err)
	files := fstest.MapFS{"identities/local_identity": {Data: old.Marshal()}, "prekeys/9.tmp": {}, "prekeys/8": {Data: []byte{1}}}
	bundles := map[uint16][]byte{}
	for _, id := range []uint16{1, 2, proteus.LastResortPreKeyID} {
		k, err := proteus.GeneratePreKey(nil, id)
		must(err)
		files[fmt.Sprint("prekeys/", id)] = &fstest.MapFile{Data: k.Marshal()}
		bundles[id] = k.Bundle(old).Marshal()
	}
	var last []byte
	bob.do(func(ctx context.Context, p client.Proteus) (err error) {
		last, err = p.LastResortPreKey(ctx)
		return err
	})
	bundle, err := proteus.UnmarshalPreKeyBundle(last)
	must(err)
	store := func(name string, identity *proteus.IdentityKeyPair) []byte {
		s, err := proteus.SessionFromPreKey(&proteus.Env{Identity: identity}, bundle)
		must(err)
		b, err := s.Marshal(t.Context(), nil)
		must(err)
		files["sessions/"+name] = &fstest.MapFile{Data: b}
		return b
	}
	for i := range sessions {
		store(fmt.Sprint("bob ", i), old)
	}
	store("of another", other)
	files["sessions/cut short"] = &fstest.MapFile{Data: store("cut short", old)[:100]}

	box, err := cryptobox.Folder(files)
	must(err)
	d := (&proteusDevice{TB: t, ks: memory.New()}).again()
	// Each time it comes a little further.
	stored, rounds := 0, 0
	left := map[string]error{}
	for over := false; !over; rounds++ {
		ctx, cancel := context.WithCancel(t.Context())
		fresh := 0
		err := d.MigrateCryptobox(ctx, box, func(m client.Migrated, done, all int) {
			if want := 1 + sessions + 2 + 4; all != want || done > all {
				t.Errorf("%d of %d", done, all)
			}
			switch {
			case m.Err != nil:
				left[m.Name] = m.Err
			case !m.Kept:
				fresh++
			}
			if fresh > 0 && rounds < 5 {
				cancel()
			}
		})
		cancel()
		if over = err == nil; !over && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		stored += fresh
		d = d.again()
	}
	if stored != 1+sessions+3 || rounds < 4 {
		t.Errorf("%d records in %d rounds", stored, rounds)
	}
	if len(left) != 3 || !errors.Is(left["sessions/of another"], proteus.ErrLocalIdentityChanged) ||
		!errors.Is(left["sessions/cut short"], proteus.ErrMalformed) || !errors.Is(left["prekeys/8"], proteus.ErrMalformed) {
		t.Errorf("left out: %v", left)
	}
	d.do(func(ctx context.Context, p client.Proteus) error {
		ids, err := p.PreKeys(ctx)
		names, err2 := p.Sessions(ctx)
		fingerprint, err3 := p.Fingerprint(ctx)
		if !slices.Equal(ids, []uint16{1, 2, proteus.LastResortPreKeyID}) || len(names) != sessions || fingerprint != old.Public().Fingerprint() {
			t.Errorf("prekeys %d, %d sessions, %s", ids, len(names), fingerprint)
		}
		return errors.Join(err, err2, err3)
	})
	bob.reads("one", d.encrypt("bob 77", "moved"), "moved")
	bob.open("by last resort", bundles[proteus.LastResortPreKeyID])
	d.reads("new", bob.encrypt("by last resort", "hello"), "hello")

	// Who has an identity keeps it, and what is of another is left out.
	carol := newProteus(t, memory.New())
	first := carol.bundle()
	kept, refused := 0, 0
	must(carol.MigrateCryptobox(t.Context(), box, func(m client.Migrated, _, _ int) {
		if m.Kept {
			kept++
		}
		if errors.Is(m.Err, proteus.ErrLocalIdentityChanged) {
			refused++
		}
	}))
	if kept != 3 || refused != sessions+1 { // the identity, prekey 1 and that of last resort
		t.Errorf("%d kept, %d refused", kept, refused)
	}
	bob.open("carol", first)
	carol.reads("bob", bob.encrypt("carol", "hello"), "hello")
	// Without one nothing happens.
	delete(files, "identities/local_identity")
	nobody := (&proteusDevice{TB: t, ks: memory.New()}).again()
	if err := nobody.MigrateCryptobox(t.Context(), box, nil); !errors.Is(err, cryptobox.ErrNoIdentity) {
		t.Errorf("without an identity: %v", err)
	}
	if err := nobody.try(func(ctx context.Context, p client.Proteus) error { _, err := p.Fingerprint(ctx); return err }); !errors.Is(err, core.ErrUnavailable) {
		t.Errorf("and then: %v", err)
	}
}
