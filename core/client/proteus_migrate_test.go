// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
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

// A moved is a cryptobox with a session and two prekeys, and who is at the other end.
type moved struct {
	testing.TB
	bob     *proteusDevice
	box     *cryptobox.Box
	bundles map[uint16][]byte
}

func newMoved(t testing.TB) *moved {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m := &moved{t, newProteus(t, memory.New()), nil, map[uint16][]byte{}}
	identity, err := proteus.GenerateIdentity(nil)
	must(err)
	bundle, err := proteus.UnmarshalPreKeyBundle(m.bob.bundle())
	must(err)
	session, err := proteus.SessionFromPreKey(&proteus.Env{Identity: identity}, bundle)
	must(err)
	content, err := session.Marshal(t.Context(), nil)
	must(err)
	files := fstest.MapFS{"identities/local_identity": {Data: identity.Marshal()}, "sessions/bob": {Data: content}}
	for _, id := range []uint16{5, proteus.LastResortPreKeyID} {
		k, err := proteus.GeneratePreKey(nil, id)
		must(err)
		files[fmt.Sprint("prekeys/", id)] = &fstest.MapFile{Data: k.Marshal()}
		m.bundles[id] = k.Bundle(identity).Marshal()
	}
	m.box, err = cryptobox.Folder(files)
	must(err)
	return m
}

// into says what became of each record.
func (m *moved) into(d *proteusDevice) map[string]client.Migrated {
	m.Helper()
	out := map[string]client.Migrated{}
	if err := d.MigrateCryptobox(m.Context(), m.box, func(r client.Migrated, _, _ int) { out[r.Name] = r }); err != nil {
		m.Fatal(err)
	}
	return out
}

// What was moved from a cryptobox once, and was deleted or used up since, does not come
// again: a key would encrypt twice, or a message be read twice.
func TestMigrateOnce(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	d := (&proteusDevice{TB: t, ks: memory.New()}).again()
	for name, r := range m.into(d) {
		if r.Kept || r.Err != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	m.bob.open("us", m.bundles[5])
	first := m.bob.encrypt("us", "hello")
	d.reads("new", first, "hello")
	d.do(func(ctx context.Context, p client.Proteus) error {
		return errors.Join(p.Delete(ctx, "bob"), p.Delete(ctx, "new"))
	})
	for name, r := range m.into(d.again()) {
		if !r.Kept || r.Err != nil {
			t.Errorf("moved again: %s: %v", name, r)
		}
	}
	d.do(func(ctx context.Context, p client.Proteus) error {
		ids, err := p.PreKeys(ctx)
		names, err2 := p.Sessions(ctx)
		if len(names) != 0 || !slices.Equal(ids, []uint16{proteus.LastResortPreKeyID}) {
			t.Errorf("sessions %q, prekeys %d", names, ids)
		}
		return errors.Join(err, err2)
	})
	d.refuses("new", first, proteus.ErrPreKeyNotFound)
}

// What is moved after the store was put back may have been moved before that, and used.
func TestMigrateAfterAccident(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	store := memory.New()
	d := (&proteusDevice{TB: t, ks: store}).again()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := d.MigrateCryptobox(ctx, m.box, func(client.Migrated, int, int) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	past := photo(t, store) // the identity alone
	m.into(d)
	m.bob.reads("us", d.encrypt("bob", "in the lost hour"), "in the lost hour")

	w := newWorld(t, clienttest.Options{})
	back := putBack(t, past)
	d = &proteusDevice{t, clienttest.NewDevice(w, w.service, "proteus", back, recovered()), back}
	got := m.into(d)
	for _, name := range []string{"sessions/bob", "prekeys/65535"} {
		if r := got[name]; r.Name == "" || r.Kept || r.Err != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
	if r := got["prekeys/5"]; !errors.Is(r.Err, client.ErrRecovering) {
		t.Error(r)
	}
	encrypt := func(ctx context.Context, p client.Proteus) error {
		_, err := p.Encrypt(ctx, "bob", nil)
		return err
	}
	if err := d.try(encrypt); !errors.Is(err, client.ErrRecovering) {
		t.Errorf("a key is used twice: %v", err)
	}
	d.reads("bob", m.bob.encrypt("us", "hello"), "hello")
	d.open("bob", m.bob.bundle())
	d.do(encrypt)
}

// A tight store takes little in one write, and gives little in one answer.
type tight struct {
	core.Keystore
	bytes int
}

func (s *tight) Read(ctx context.Context, queries []core.Query) ([][]core.Record, error) {
	answers, err := s.Keystore.Read(ctx, queries)
	size := 0
	for _, records := range answers {
		for _, r := range records {
			size += len(r.Value)
		}
	}
	if size > s.bytes {
		return nil, core.ErrTooLarge
	}
	return answers, err
}

func (s *tight) Apply(ctx context.Context, b core.Batch) error {
	size := 0
	for _, p := range b.Puts {
		size += len(p.Value)
	}
	if size > s.bytes {
		return core.ErrTooLarge
	}
	return s.Keystore.Apply(ctx, b)
}

// A session that cannot be stored, for its size or its name, is left out, and the others
// are moved, however many of them fit in one write.
func TestMigrateWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	m := newMoved(t)
	bob, long := m.box.Sessions[0], strings.Repeat("long", 1000)
	m.box.Sessions = nil
	for _, name := range []string{"", "a", "b", "c", long, "d"} {
		m.box.Sessions = append(m.box.Sessions, cryptobox.Session{Name: name, Read: bob.Read})
	}
	d := (&proteusDevice{TB: t, ks: &tight{memory.New(), 1500}}).again()
	left := map[string]error{}
	for name, r := range m.into(d) {
		if r.Err != nil {
			left[name] = r.Err
		}
	}
	if len(left) != 2 || !errors.Is(left["sessions/"], core.ErrInvalid) || !errors.Is(left["sessions/"+long], core.ErrTooLarge) {
		t.Errorf("left out: %v", left)
	}
	d.do(func(ctx context.Context, p client.Proteus) error {
		names, err := p.Sessions(ctx)
		if !slices.Equal(names, []string{"a", "b", "c", "d"}) {
			t.Errorf("moved are %q", names)
		}
		// Nor do they fit in one answer.
		messages, err2 := p.EncryptBatched(ctx, names, []byte("hello"))
		if len(messages) != len(names) {
			t.Errorf("%d messages", len(messages))
		}
		return errors.Join(err, err2)
	})
}
