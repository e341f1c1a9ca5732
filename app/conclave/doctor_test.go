// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// verdicts are the lines of an examination.
func verdicts(examine func(*doctor)) (out string, failed bool) {
	var text strings.Builder
	d := &doctor{program: &program{out: &text, err: &text}}
	examine(d)
	return text.String(), d.failed
}

// Clocks that differ are told, and beyond what key packages bear it is a failure.
func TestDoctorClock(t *testing.T) {
	t.Parallel()
	for off, want := range map[time.Duration]string{
		0: "ok    clock", time.Minute: "ok    clock", -time.Minute: "ok    clock",
		5 * time.Minute: "warn  clock", -5 * time.Minute: "warn  clock",
		2 * time.Hour: "fail  clock", -2 * time.Hour: "fail  clock",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		}))
		c, err := delivery.Dial(server.URL, delivery.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out, failed := verdicts(func(d *doctor) { d.reach(t.Context(), config.Config{Delivery: server.URL}, c) })
		if !strings.Contains(out, want) || failed != strings.HasPrefix(want, "fail") {
			t.Errorf("%s: %q", off, out)
		}
		_ = c.Close()
		server.Close()
	}
}

// Key packages that lack or go, and what waits.
func TestDoctorWarns(t *testing.T) {
	t.Parallel()
	soon, late := time.Now().Add(3*24*time.Hour), time.Now().Add(80*24*time.Hour)
	for _, c := range []struct {
		health messenger.Health
		want   []string
	}{
		{messenger.Health{ID: "a", KeyPackages: 3, Expires: late, LastResort: late}, []string{"ok    key packages  3 are left", "ok    last resort"}},
		{messenger.Health{ID: "a", KeyPackages: 3, Expires: soon, LastResort: soon}, []string{"warn  key packages  3 are left, one expires on", "warn  last resort   that key package expires"}},
		{messenger.Health{ID: "a", KeyPackages: 3, Expires: late, Expired: 2}, []string{"warn  key packages", "2 have expired", "warn  last resort   there is no"}},
		{messenger.Health{ID: "a"}, []string{"warn  key packages  none is left", "ok    conversations 0, and nothing waits"}},
		{messenger.Health{ID: "a", Chats: []messenger.Waiting{{ID: "x-00000000", Commit: true, Join: true, Unsent: 2, Proposals: 1, Buffered: 3}}}, []string{
			"warn  conversation  x-00000000: a commit of ours waits for the service's answer, our joining waits for the service's answer, " +
				"2 messages wait to be sent, 1 proposal waits to be committed, 3 messages wait for what came before them",
			"conclave chat rejoin x-00000000",
		}},
	} {
		out, failed := verdicts(func(d *doctor) {
			d.packages(c.health)
			d.chats(c.health)
		})
		for _, want := range c.want {
			if !strings.Contains(out, want) || failed {
				t.Errorf("%+v: no %q in %q", c.health, want, out)
			}
		}
	}
}

// Damage of the database is told from another key, wherever it is.
func TestDoctorDamage(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	if _, stderr, _ := output(t, "--home", home, "init", "alice", "--delivery", "unix:"+filepath.Join(home, "none")); !strings.Contains(stderr, "unavailable") {
		t.Fatal(stderr)
	}
	if _, stderr, code := output(t, "--home", home, "chat", "create", "friends"); code != 0 {
		t.Fatal(stderr)
	}
	found := 0
	var missed []core.Table
	for table := range core.Table(64) {
		store, err := sqlite.Open(t.Context(), filepath.Join(home, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		records, err := store.Read(t.Context(), []core.Query{{Table: table}})
		if err != nil {
			t.Fatal(err)
		}
		var broken, whole core.Batch
		for _, r := range records[0] {
			if len(r.Value) == 0 {
				continue
			}
			whole.Puts = append(whole.Puts, core.Put{Table: table, Key: r.Key, Value: r.Value, Version: r.Version})
			value := bytes.Clone(r.Value)
			value[len(value)-1] ^= 1
			broken.Puts = append(broken.Puts, core.Put{Table: table, Key: r.Key, Value: value, Version: r.Version})
		}
		if len(whole.Puts) == 0 {
			_ = store.Close()
			continue
		}
		if err := errors.Join(store.Apply(t.Context(), broken), store.Close()); err != nil {
			t.Fatal(err)
		}
		out, stderr, code := output(t, "--home", home, "doctor")
		if code != 1 || stderr != "" {
			t.Errorf("table %d: exit code %d, %q", table, code, stderr)
		}
		if !strings.Contains(out, "the database is damaged") {
			missed = append(missed, table)
		} else {
			found++
		}
		if store, err = sqlite.Open(t.Context(), filepath.Join(home, "store.db")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(store.Apply(t.Context(), whole), store.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if found < 8 || len(missed) > 1 { // the records of one table have nothing in them
		t.Errorf("damage was noticed in %d tables, and missed in %v", found, missed)
	}
}
