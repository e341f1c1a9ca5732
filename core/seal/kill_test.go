// SPDX-License-Identifier: Apache-2.0

package seal_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

const rotateFile = "CONCLAVE_TEST_ROTATE"

// TestRotateChild is a process that rotates the data key, for TestRotateKilled.
func TestRotateChild(t *testing.T) {
	file := os.Getenv(rotateFile)
	if file == "" {
		return
	}
	ks, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, ks).Rotate(t.Context(), func(done, _ int) {
		fmt.Println("done", done)
		_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent says go on
	})
	t.Fatal("the parent was to kill this process", err)
}

// A process that rotates the data key is killed at each page, while another one works;
// the next rotation is the rest of that one.
func TestRotateKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "store.db")
	ks, err := sqlite.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, ks)
	const n = 1000
	for i := range n {
		apply(t, s, puts(put(1, "scope", fmt.Sprintf("%04d", i), "value")))
	}
	for pages := range 4 {
		child := exec.Command(os.Args[0], "-test.run=^TestRotateChild$")
		child.Env = append(os.Environ(), rotateFile+"="+file)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for seen := 0; seen <= pages && lines.Scan(); seen++ {
			apply(t, s, puts(put(1, "scope", "0001", fmt.Sprint("value of ", pages)), put(1, "new", fmt.Sprint(pages), "")))
			if seen < pages {
				_, _ = in.Write([]byte{0})
			}
		}
		_ = child.Process.Kill()
		for lines.Scan() {
		}
		_ = child.Wait()
		if child.ProcessState.Exited() {
			t.Fatalf("the process ended by itself: %v", child.ProcessState)
		}
		info, err := s.Info(t.Context())
		if err != nil || !info.Rotating || info.DataKey != uint32(pages)+2 {
			t.Errorf("after %d pages: %+v, %v", pages, info, err)
		}
		if report, err := s.Verify(t.Context(), nil); err != nil || report.Damaged > 0 || report.Records != n+pages+1 {
			t.Errorf("after %d pages: %+v, %v", pages, report, err)
		}
		rotate(t, s)
		if info, err := s.Info(t.Context()); err != nil || info.Rotating || info.DataKey != uint32(pages)+2 {
			t.Errorf("finished: %+v, %v", info, err)
		}
		found, err := ks.Read(t.Context(), []core.Query{{Table: 1}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range found[0] {
			if seal.GenerationOf(r.Value) != uint32(pages)+2 {
				t.Fatalf("a value is sealed with data key %d", seal.GenerationOf(r.Value))
			}
		}
		is(t, "written meanwhile", contents(t, s, seal.Query{Table: 1, Scope: []byte("scope"), Prefix: []byte("0001")}), fmt.Sprint("0001=value of ", pages))
	}
	if err := errors.Join(s.Close(), ks.Close()); err != nil {
		t.Error(err)
	}
}
