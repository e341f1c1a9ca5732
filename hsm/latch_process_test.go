// SPDX-License-Identifier: Apache-2.0

//go:build unix

package hsm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// TestLatchChild is a process of its own for the tests below, which start it.
func TestLatchChild(t *testing.T) {
	folder := os.Getenv("CONCLAVE_LATCH_CHILD")
	if folder == "" {
		return
	}
	var result error
	token := newLatchedToken(t)
	token.info.Serial = "children"
	err := newLatch(folder).login(token.info, core.NewSecret([]byte(os.Getenv("CONCLAVE_LATCH_PIN"))), func() error {
		inside := filepath.Join(folder, "inside")
		if err := os.Mkdir(inside, 0o700); err != nil {
			return fmt.Errorf("two at once: %w", err)
		}
		f, err := os.OpenFile(filepath.Join(folder, "logins"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.WriteString(f, ".")
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		switch os.Getenv("CONCLAVE_LATCH_DO") {
		case "hang":
			fmt.Println("inside")
			time.Sleep(time.Minute)
		case "refuse":
			result = cryptoki.ErrPINIncorrect
		}
		time.Sleep(5 * time.Millisecond)
		if err := os.Remove(inside); err != nil {
			return err
		}
		return result
	})
	switch {
	case result == nil && err != nil:
		fmt.Printf("error: %v\n", err)
	case result != nil && err == nil:
		fmt.Println("no error")
	default:
		fmt.Println("done")
	}
}

func latchChild(t *testing.T, folder, do, pin string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestLatchChild$", "-test.timeout=2m")
	c.Env = append(os.Environ(), "CONCLAVE_LATCH_CHILD="+folder, "CONCLAVE_LATCH_DO="+do, "CONCLAVE_LATCH_PIN="+pin)
	return c
}

// logins is how many reached the token.
func logins(t *testing.T, folder string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(folder, "logins"))
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

func TestAProcessThatDiedInALoginLeavesThePINLatched(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	child := latchChild(t, folder, "hang", "1234")
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("inside"))); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()

	token := newLatchedToken(t)
	token.info.Serial = "children"
	if err := token.latched(folder, "1234", ErrPINRejected); !strings.Contains(err.Error(), "cut short") || !strings.Contains(err.Error(), "before it is unlatched") {
		t.Errorf("%v", err)
	}
	token.reaches(folder, "5678")
	token.latched(folder, "1234", ErrPINRejected)
	if list, err := Latched(folder); err != nil || len(list) != 1 || list[0].Result != "" || list[0].Refused {
		t.Errorf("%v, %v", list, err)
	}
	if err := Unlatch(folder, URI{Serial: "children"}); err != nil {
		t.Fatal(err)
	}
	token.reaches(folder, "1234")
}

func TestTenProcessesAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		do           string
		logins, done int
	}{
		{"accept", 10, 10}, // all get in, one after the other
		{"refuse", 1, 1},   // the others do not reach the token
	} {
		t.Run(test.do, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			outputs := make(chan string)
			for range 10 {
				child := latchChild(t, folder, test.do, "1234")
				go func() {
					out, err := child.CombinedOutput()
					outputs <- fmt.Sprintf("%s%v", out, err)
				}()
			}
			done := 0
			for range 10 {
				switch out := <-outputs; {
				case strings.HasPrefix(out, "done"):
					done++
				case test.do != "refuse" || !strings.Contains(out, "CKR_PIN_INCORRECT") || !strings.Contains(out, ErrPINRejected.Error()):
					t.Error(out)
				}
			}
			if n := logins(t, folder); n != test.logins || done != test.done {
				t.Errorf("%d logins, %d done", n, done)
			}
		})
	}
}
