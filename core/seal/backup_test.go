// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/core/vlbytes"
	"github.com/conclave-mls/conclave/storage/memory"
)

// still is a keystore that can hold a state, by copying it. Its Snapshot calls
// meanwhile.
type still struct {
	core.Keystore
	copied    func() core.Keystore
	meanwhile func()
}

func (s still) Snapshot(context.Context) (core.Snapshot, error) {
	c := s.copied()
	s.meanwhile()
	return c, nil
}

// copyOf copies the tables that the tests use.
func copyOf(t testing.TB, ks core.Keystore) core.Keystore {
	t.Helper()
	to := memory.New()
	for _, table := range []core.Table{0, 1, 2, 3, 255} {
		answers, err := ks.Read(t.Context(), []core.Query{{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		var b core.Batch
		for _, r := range answers[0] {
			b.Puts = append(b.Puts, core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version})
		}
		if err := to.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func backup(t testing.TB, s *seal.Store) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := s.Backup(t.Context(), &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func restore(t testing.TB, ks core.Keystore, from []byte) (seal.Report, error) {
	t.Helper()
	return seal.Restore(t.Context(), ks, wrapper(t, 1), "tenant", bytes.NewReader(from), nil)
}

// A backup has what there was at one moment, whatever is written meanwhile, and is
// restored into a keystore that others use.
func TestBackup(t *testing.T) {
	t.Parallel()
	ks := memory.New()
	s, _ := filled(t, ks)
	want := contents(t, s, seal.Query{Table: 255, Scope: []byte("last")})
	store := still{ks, func() core.Keystore { return copyOf(t, ks) }, func() {
		apply(t, s, puts(put(1, "scope 1", "later", ""), put(255, "last", "000", "later")))
	}}
	var last, total int
	var out bytes.Buffer
	report, err := open(t, store).Backup(t.Context(), &out, func(done, of int) { last, total = done, of })
	if err != nil || report.Records != 600 || report.Damaged != 0 || last != 600 || total != 600 {
		t.Errorf("%+v, %d of %d, %v", report, last, total, err)
	}
	if limit := int(report.Bytes) + 600*32 + 500; out.Len() > limit {
		t.Errorf("%d bytes, for records of %d", out.Len(), report.Bytes)
	}
	if bytes.Contains(out.Bytes(), []byte("scope 1")) || bytes.Contains(out.Bytes(), []byte("value")) {
		t.Error("the backup shows a name or a value")
	}

	to := memory.New()
	theirs := openTenant(t, to, "other")
	apply(t, theirs, puts(put(1, "scope 1", "key", "theirs")))
	if report, err := restore(t, to, out.Bytes()); err != nil || report.Records != 600 {
		t.Fatalf("%+v, %v", report, err)
	}
	restored := open(t, to)
	is(t, "restored", contents(t, restored, seal.Query{Table: 255, Scope: []byte("last")}), want...)
	is(t, "theirs", contents(t, theirs, seal.Query{Table: 1, Scope: []byte("scope 1")}), "key=theirs")
	if s.Incarnation() == restored.Incarnation() || openTenant(t, to, "other").Incarnation() != theirs.Incarnation() {
		t.Error("the restored tenant, and no other, should have a new incarnation")
	}
	if open(t, to).Incarnation() != restored.Incarnation() {
		t.Error("another incarnation each time that it is opened")
	}
	if _, err := restore(t, to, out.Bytes()); !errors.Is(err, seal.ErrExists) || !errors.Is(err, core.ErrDenied) {
		t.Errorf("over what there is: %v", err)
	}
	rotate(t, restored)
	apply(t, restored, puts(put(1, "scope 1", "key", "new")))
}

// Without a Snapshotter, a backup is refused if somebody wrote.
func TestBackupOfWhatChanges(t *testing.T) {
	t.Parallel()
	ks := &coretest.Faulty{Keystore: memory.New()}
	s := open(t, ks)
	for i := range 600 {
		apply(t, s, puts(put(1, "scope", fmt.Sprintf("%03d", i), "value")))
	}
	other := open(t, ks.Keystore)
	for name, write := range map[string]seal.Batch{
		"a change":   puts(put(1, "scope", "001", "new")),
		"a record":   puts(put(2, "scope", "001", "new")),
		"a deletion": {Dels: []seal.Range{{Table: 1, Scope: []byte("scope"), Prefix: []byte("300")}}},
	} {
		_, err := s.Backup(t.Context(), &bytes.Buffer{}, func(done, _ int) {
			if done == 512 {
				apply(t, other, write)
			}
		})
		if !errors.Is(err, core.ErrConflict) {
			t.Errorf("%s meanwhile: %v", name, err)
		}
	}
	if _, err := restore(t, memory.New(), backup(t, s)); err != nil {
		t.Error(err)
	}
	for n := 1; ; n++ {
		reads := 0
		ks.PlanRead = func(int) bool { reads++; return reads == n }
		_, err := s.Backup(t.Context(), &bytes.Buffer{}, nil)
		if reads < n {
			break
		}
		if !errors.Is(err, core.ErrUnavailable) {
			t.Errorf("read %d fails: %v", n, err)
		}
	}
}

// What is not the whole backup, to the byte, restores nothing.
func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	s := open(t, memory.New())
	apply(t, s, puts(put(1, "scope", "a", "1"), put(2, "scope", "b", strings.Repeat("long", 50)), put(3, "scope", "c", "")))
	good := backup(t, s)
	ks := memory.New()
	refused := func(what string, from []byte, sentinels ...error) {
		t.Helper()
		_, err := restore(t, ks, from)
		if !slices.ContainsFunc(sentinels, func(s error) bool { return errors.Is(err, s) }) {
			t.Errorf("%s: %v", what, err)
		}
		if left := everything(t, ks); len(left) > 0 {
			t.Errorf("%s: %d records are left", what, len(left))
		}
	}
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 1 << (i % 8)
		refused(fmt.Sprint("a bit of byte ", i), changed, core.ErrDamaged, core.ErrUnsupported, core.ErrWrongKey)
		refused(fmt.Sprintf("%d bytes", i), good[:i], core.ErrDamaged)
	}
	refused("more", append(bytes.Clone(good), 0), core.ErrDamaged)
	if _, err := seal.Restore(t.Context(), ks, wrapper(t, 2), "tenant", bytes.NewReader(good), nil); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("another wrapping key: %v", err)
	}
	if _, err := seal.Restore(t.Context(), ks, wrapper(t, 1), "other", bytes.NewReader(good), nil); err == nil {
		t.Error("as another tenant")
	}
	// A backup with records of a longer one has the right MAC for neither.
	apply(t, s, puts(put(1, "scope", "a", "2")))
	refused("records of another backup", append(bytes.Clone(good[:len(good)/2]), backup(t, s)[len(good)/2:]...), core.ErrDamaged)
	// Records that are not the tenant's, before anything shows that they are forged.
	root := len(good) - len("0") - 32
	forged := bytes.Clone(good[:root])
	for i, n := range []int{16, 1 << 20, 1 << 20} {
		key := bytes.Repeat([]byte{byte(i + 1)}, 16) // the version too
		forged = vlbytes.Append(append(vlbytes.Append(append(forged, 1), key), key...), make([]byte, n))
	}
	refused("records of others", append(forged, good[root:]...), core.ErrDamaged)
	if _, err := restore(t, ks, good); err != nil {
		t.Error(err)
	}
}

// Whatever happens to a write, also if the process ends there: there is all or nothing,
// and the next attempt succeeds.
func TestRestoreFaults(t *testing.T) {
	t.Parallel()
	s, _ := filled(t, memory.New())
	large := strings.Repeat("x", 600<<10)
	apply(t, s, puts(put(3, "large", "a", large), put(3, "large", "b", large), put(3, "large", "c", large)))
	from := backup(t, s)
	faults(t, func(ks core.Keystore) error { _, err := restore(t, ks, from); return err }, func(ks core.Keystore, err error) error {
		if errors.Is(err, seal.ErrExists) {
			return nil
		}
		return err
	})
}

// faults runs what fills an empty keystore with each of its writes failing in each way,
// and again if that is an error, until it is done.
func faults(t *testing.T, fill func(core.Keystore) error, again func(core.Keystore, error) error) {
	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate, coretest.FaultTooLate} {
		for _, killed := range []bool{false, true} {
			for n := 1; ; n++ {
				ks := &coretest.Faulty{Keystore: memory.New()}
				ks.Plan = func(i int, _ core.Batch) coretest.Fault {
					if i == n && killed {
						ks.Break()
					}
					return coretest.At(n, fault)(i, core.Batch{})
				}
				what := fmt.Sprintf("%v at write %d, killed: %v", fault, n, killed)
				err := fill(ks)
				reached := ks.Applies() >= n
				ks.Plan = nil
				ks.Mend()
				if err != nil && !errors.Is(err, core.ErrUnavailable) && !errors.Is(err, core.ErrUnknownOutcome) {
					t.Errorf("%s: %v", what, err)
				}
				if err != nil {
					if err := again(ks, fill(ks)); err != nil {
						t.Errorf("%s, again: %v", what, err)
					}
				}
				ks.Land(t.Context())
				report, err := open(t, ks).Verify(t.Context(), nil)
				if err != nil || report.Records < 600 || report.Damaged > 0 {
					t.Errorf("%s: %+v, %v", what, report, err)
				}
				if !reached {
					break
				}
			}
		}
	}
}

// A loading that was interrupted leaves nothing that the next one would mix with.
func TestRestoreAfterAnother(t *testing.T) {
	t.Parallel()
	s := open(t, memory.New())
	apply(t, s, puts(put(1, "scope", "a", "1"), put(1, "scope", "b", "2")))
	first := backup(t, s)
	apply(t, s, seal.Batch{Dels: []seal.Range{{Table: 1, Scope: []byte("scope"), Prefix: []byte("b")}}})
	second := backup(t, s)
	ks := &coretest.Faulty{Keystore: memory.New()}
	ks.Plan = func(i int, _ core.Batch) coretest.Fault {
		if i == 3 { // the root record
			ks.Break()
			return coretest.FaultBefore
		}
		return coretest.FaultNone
	}
	if _, err := restore(t, ks, first); err == nil {
		t.Fatal("no error")
	}
	if len(everything(t, ks.Keystore)) < 3 {
		t.Error("the records of the first are not there")
	}
	ks.Mend()
	ks.Plan = nil
	if _, err := restore(t, ks, second); err != nil {
		t.Fatal(err)
	}
	is(t, "the second", contents(t, open(t, ks), seal.Query{Table: 1, Scope: []byte("scope")}), "a=1")
}

// None of the writes of a loading lands after its end.
func TestRestoreTooLate(t *testing.T) {
	t.Parallel()
	s := open(t, memory.New())
	apply(t, s, puts(put(1, "scope", "a", "1")))
	from := backup(t, s)
	var late []core.Batch
	ks := &coretest.Faulty{Keystore: memory.New(), Plan: func(_ int, b core.Batch) coretest.Fault {
		late = append(late, core.Batch{Expect: slices.Clone(b.Expect), Dels: slices.Clone(b.Dels), Puts: slices.Clone(b.Puts)})
		return coretest.FaultNone
	}}
	if _, err := restore(t, ks, from); err != nil {
		t.Fatal(err)
	}
	ks.Plan = nil
	restored := open(t, ks)
	apply(t, restored, puts(put(1, "scope", "a", "2")))
	for _, b := range late {
		if err := ks.Apply(t.Context(), b); !errors.Is(err, core.ErrConflict) {
			t.Errorf("a write of the loading: %v", err)
		}
	}
	is(t, "afterwards", contents(t, restored, seal.Query{Table: 1, Scope: []byte("scope")}), "a=2")
}

func FuzzRestore(f *testing.F) {
	s := open(f, memory.New())
	apply(f, s, puts(put(1, "scope", "a", "1"), put(255, "scope", "b", "")))
	good := backup(f, s)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("conclave backup\x01\xbf\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, from []byte) {
		ks := memory.New()
		_, err := restore(t, ks, from)
		if bytes.Equal(from, good) {
			return
		}
		for _, s := range []error{core.ErrDamaged, core.ErrUnsupported, core.ErrWrongKey, seal.ErrMoved} {
			if errors.Is(err, s) {
				return
			}
		}
		t.Errorf("%v", err)
	})
}

// The records are at the new place and nobody writes at the old one any more.
func TestMove(t *testing.T) {
	t.Parallel()
	ks, to := memory.New(), memory.New()
	s, theirs := filled(t, ks)
	neighbour := openTenant(t, to, "neighbour")
	if err := ks.Apply(t.Context(), core.Batch{Puts: []core.Put{core.NewIncarnation()}}); err != nil {
		t.Fatal(err)
	}
	incarnation := open(t, ks).Incarnation()
	want := contents(t, s, seal.Query{Table: 255, Scope: []byte("last")})
	last, total := 0, 0
	report, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", func(done, of int) { last, total = done, of })
	if err != nil || report.Records != 600 || last != 600 || total != 600 {
		t.Fatalf("%+v, %d of %d, %v", report, last, total, err)
	}
	moved := open(t, to)
	is(t, "moved", contents(t, moved, seal.Query{Table: 255, Scope: []byte("last")}), want...)
	if moved.Incarnation() != incarnation || neighbour.Incarnation() == incarnation || openTenant(t, to, "neighbour").Incarnation() == incarnation {
		t.Error("the tenant should have brought its incarnation, for itself alone")
	}
	if err := to.Apply(t.Context(), core.Batch{Puts: []core.Put{core.NewIncarnation()}}); err != nil || open(t, to).Incarnation() == incarnation {
		t.Errorf("an accident of the new keystore is not noticed, %v", err)
	}
	for what, err := range map[string]error{
		"open":   second(seal.Open(t.Context(), ks, wrapper(t, 1), "tenant")),
		"apply":  second(s.Apply(t.Context(), puts(put(1, "scope", "a", "new")))),
		"again":  second(s.Apply(t.Context(), puts(put(1, "scope", "a", "new")))),
		"rotate": second(s.Rotate(t.Context(), nil)),
		"rewrap": s.Rewrap(t.Context(), wrapper(t, 1), wrapper(t, 2)),
	} {
		if !errors.Is(err, seal.ErrMoved) || !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s at the old place: %v", what, err)
		}
	}
	apply(t, theirs, puts(put(1, "scope", "a", "theirs")))
	if err := second(seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil)); !errors.Is(err, seal.ErrExists) {
		t.Errorf("again: %v", err)
	}
	if err := second(seal.Move(t.Context(), ks, to, wrapper(t, 2), "tenant", nil)); !errors.Is(err, core.ErrWrongKey) {
		t.Errorf("with another key: %v", err)
	}
	if err := second(seal.Move(t.Context(), ks, to, wrapper(t, 1), "nobody", nil)); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	if err := s.Wipe(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := seal.Move(t.Context(), to, ks, wrapper(t, 1), "tenant", nil); err != nil {
		t.Errorf("and back: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// A move that fails is taken back: the old place works.
func TestMoveTakenBack(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		ks := memory.New()
		s, _ := filled(t, ks)
		to := &coretest.Faulty{Keystore: memory.New(), Plan: coretest.At(n, coretest.FaultBefore)}
		_, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil)
		if err == nil {
			if n < 3 {
				t.Errorf("%d writes", n)
			}
			break
		}
		ended := n == 3
		_, err = s.Apply(t.Context(), puts(put(1, "scope", "a", "new")))
		if ended && !errors.Is(err, seal.ErrMoved) || !ended && err != nil {
			t.Errorf("write %d of the new keystore fails: %v", n, err)
		}
		if left := everything(t, to.Keystore); !ended && len(left) > 0 {
			t.Errorf("write %d fails: %d records are left there", n, len(left))
		}
		if _, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil); err != nil {
			t.Errorf("again: %v", err)
		}
		want := map[bool]int{true: 600, false: 601}[ended]
		if report, err := open(t, to).Verify(t.Context(), nil); err != nil || report.Records != want {
			t.Errorf("write %d fails: %+v, %v", n, report, err)
		}
	}
}

// Faults of the keystore that is moved to, and of that which is left.
func TestMoveFaults(t *testing.T) {
	t.Parallel()
	moving := func(ks core.Keystore, to core.Keystore) error {
		_, err := seal.Move(t.Context(), ks, to, wrapper(t, 1), "tenant", nil)
		if errors.Is(err, seal.ErrExists) {
			return nil
		}
		return err
	}
	var from core.Keystore
	first := true
	faults(t, func(to core.Keystore) error {
		if first {
			from = memory.New()
			filled(t, from)
		}
		err := moving(from, to)
		first = err == nil || !first
		return err
	}, func(_ core.Keystore, err error) error { first = true; return err })

	for _, fault := range []coretest.Fault{coretest.FaultBefore, coretest.FaultLost, coretest.FaultApplied, coretest.FaultLate} {
		ks, to := &coretest.Faulty{Keystore: memory.New()}, memory.New()
		s, _ := filled(t, ks)
		first := ks.Applies()
		ks.Plan = func(i int, _ core.Batch) coretest.Fault { return coretest.At(first+1, fault)(i, core.Batch{}) }
		err := moving(ks, to)
		if err != nil && fault != coretest.FaultBefore {
			t.Errorf("%v: %v", fault, err)
		}
		_, wrote := s.Apply(t.Context(), puts(put(1, "scope", "a", "new")))
		if (wrote == nil) != (err != nil) {
			t.Errorf("%v: move %v, write at the old place %v", fault, err, wrote)
		}
	}
	if maps.Equal(everything(t, from), map[string]string{}) {
		t.Error("the old place was emptied")
	}
}

// Of two who move a tenant to different places at once, one does.
func TestMoveTwice(t *testing.T) {
	t.Parallel()
	ks, one, two := memory.New(), memory.New(), memory.New()
	filled(t, ks)
	var inner error
	_, err := seal.Move(t.Context(), ks, one, wrapper(t, 1), "tenant", func(done, _ int) {
		if done == 300 {
			_, inner = seal.Move(t.Context(), ks, two, wrapper(t, 1), "tenant", nil)
		}
	})
	if !errors.Is(err, core.ErrConflict) || inner != nil {
		t.Errorf("the first %v, the second %v", err, inner)
	}
	if left := everything(t, one); len(left) > 0 {
		t.Errorf("%d records are left where the first wanted to go", len(left))
	}
	open(t, two)
	if _, err := seal.Open(t.Context(), ks, wrapper(t, 1), "tenant"); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("the old place: %v", err)
	}
}
