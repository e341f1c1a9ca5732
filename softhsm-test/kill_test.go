// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/hsm"
	softhsmtest "github.com/conclave-mls/conclave/softhsm-test"
)

var kills = flag.Int("kills", 8, "how often a process is killed at a random time")

// live is a client's life with keys, from the first to the end of a rotation. The process
// dies at a point. If the client exists already, it is only opened. It prints what a
// lived reads.
func (p part) live(ctx context.Context) error {
	token, err := hsm.Open(ctx, hsm.Config{URI: p.Token, Latch: p.Latch})
	if err != nil {
		return err
	}
	l := lived{Keys: [][]byte{}}
	pts := &points{killAt: p.KillAt}
	o, err := p.open(ctx, token, pts, accepting{})
	if err != nil {
		return err
	}
	if _, err := o.ClientID(ctx); p.Reopen == 0 && errors.Is(err, client.ErrNotInitialized) {
		if err := p.useKeys(ctx, o.Client); err != nil {
			return err
		}
	}
	own, err := o.Credentials(ctx, client.CredentialFilter{})
	if err != nil {
		return err
	}
	for _, c := range own {
		l.Keys = append(l.Keys, c.SignatureKey)
	}
	if p.Reopen == wiped {
		if err := o.Wipe(ctx); err != nil {
			return err
		}
	}
	l.Points = pts.passed
	return errors.Join(o.close(), token.Close(), json.NewEncoder(os.Stdout).Encode(l))
}

// What is done to a client that exists.
const (
	opens = 1 + iota
	wiped
)

var errAborted = errors.New("aborted")

func (p part) useKeys(ctx context.Context, c *client.Client) error {
	const chat = core.ConversationID("chat")
	if err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.InitMLS(ctx, p.ID, p.Suite); err != nil {
			return err
		}
		_, err := tx.NewConversation(ctx, chat, client.ConversationConfig{Suite: p.Suite})
		return err
	}); err != nil {
		return err
	}
	if err := c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		if _, err := tx.NewCredential(ctx, p.Suite); err != nil {
			return err
		}
		return errAborted
	}); !errors.Is(err, errAborted) {
		return err
	}
	return c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
		conversation, err := tx.Conversation(ctx, chat)
		if err != nil {
			return err
		}
		return rotate(p.Suite)(ctx, tx, conversation)
	})
}

// accepting is a delivery service that takes everything.
type accepting struct{}

func (accepting) SubmitCommit(context.Context, core.ConversationID, string, client.CommitBundle) (client.Outcome, error) {
	return client.Outcome{Kind: client.Accepted}, nil
}

func (accepting) SendMessage(context.Context, core.ConversationID, string, []byte) (client.Outcome, error) {
	return client.Outcome{Kind: client.Accepted}, nil
}

func (accepting) Drain(context.Context, core.ConversationID) error { return nil }

// lived is what is known of a process that came to its end: the points that it has passed
// and the public keys that the store names.
type lived struct {
	Points []string
	Keys   [][]byte
}

// runs runs a process of a part. It is killed after a while, if that is not 0. dead: it
// died as it was told to.
func (p part) runs(t *testing.T, after time.Duration) (l lived, dead bool) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asMember+"="+string(text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		defer time.AfterFunc(after, func() { _ = cmd.Process.Kill() }).Stop()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return lived{}, true
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &l)
	}
	if err != nil {
		t.Fatalf("%+v: %v\n%s", p, err, stderr.String())
	}
	return l, false
}

// A mortality is a token with clients whose processes die.
type mortality struct {
	*testing.T
	token *softhsmtest.Token
	bare  bare
}

func newMortality(t *testing.T) *mortality {
	t.Parallel()
	k := softhsmtest.New(t)
	return &mortality{t, k, login(t, k)}
}

// part has no latch: a login that is cut short counts as one with a wrong PIN.
func (m *mortality) part() part {
	folder := m.TempDir()
	return part{
		Dies: true, Token: m.token.URI(), Store: filepath.Join(folder, "store"), ID: "alice", Suite: core.SuiteP256AES128P256,
	}
}

// reopens opens a client that died and checks that the token holds exactly the keys that
// its store names, and none when it was wiped.
func (m *mortality) reopens(p part, what string) {
	m.Helper()
	p.KillAt, p.Reopen = 0, opens
	l, _ := p.runs(m.T, 0)
	var want []string
	for _, key := range l.Keys {
		want = append(want, fmt.Sprintf("%x", key))
	}
	slices.Sort(want)
	if got := m.publicKeys(); !slices.Equal(got, want) {
		m.Errorf("%s: the store names %q, the token holds %q", what, want, got)
	}
	if private := m.bare.ids(m, pkcs11.CKO_PRIVATE_KEY); len(private) != len(want) {
		m.Errorf("%s: the store names %d keys, the token holds the private keys %q", what, len(want), private)
	}
	p.Reopen = wiped
	p.runs(m.T, 0)
	if left := append(m.bare.ids(m, pkcs11.CKO_PRIVATE_KEY), m.bare.ids(m, pkcs11.CKO_PUBLIC_KEY)...); len(left) > 0 {
		m.Fatalf("%s: when the client was wiped the token has %q", what, left)
	}
}

// publicKeys lists those of the token, points of P-256. SoftHSM makes an object without
// id, value and point first, which stays if it is killed at that moment: it is no key.
func (m *mortality) publicKeys() (list []string) {
	m.Helper()
	for _, point := range m.bare.values(m, pkcs11.CKO_PUBLIC_KEY, pkcs11.CKA_EC_POINT) {
		if len(point) > 0 {
			list = append(list, fmt.Sprintf("%x", point[2:])) // without the header of an OCTET STRING
		}
	}
	slices.Sort(list)
	return list
}

// TestKilled: a process ends at each point around what changes the store or the keys on
// the token, and the next one at one of its own, while it cleans up. After that the token
// holds exactly the keys that the store names.
func TestKilled(t *testing.T) {
	m := newMortality(t)
	p := m.part()
	whole, _ := p.runs(t, 0)
	for _, point := range []string{"before a key is made", "after a key was made", "before a key is deleted", "after a key was deleted"} {
		if !slices.Contains(whole.Points, point) {
			t.Errorf("there is no point %s in %q", point, whole.Points)
		}
	}
	m.reopens(p, "a whole life")
	again := 0
	for i, name := range whole.Points {
		p := m.part()
		p.KillAt = i + 1
		if _, dead := p.runs(t, 0); !dead {
			t.Errorf("it lives on after point %d", i+1)
		}
		what := fmt.Sprintf("killed at point %d, %s (after %s)", i+1, name, strings.Join(whole.Points[max(0, i-2):i], ", "))
		p.Reopen, p.KillAt = opens, 1+i%8
		if _, dead := p.runs(t, 0); dead {
			again++
			what += fmt.Sprintf(", and again at point %d", p.KillAt)
		}
		m.reopens(p, what)
	}
	if again < len(whole.Points)/4 {
		t.Errorf("of %d processes that were to clean up %d died again", len(whole.Points), again)
	}
	t.Logf("%d points, %d of them with a second death", len(whole.Points), again)
}

// TestKilledAnywhere: the same at random times, so that the module is at something.
func TestKilledAnywhere(t *testing.T) {
	m := newMortality(t)
	p := m.part()
	begin := time.Now()
	p.runs(t, 0)
	span := time.Since(begin)
	m.reopens(p, "a whole life")
	label := m.labelObject()
	for range *kills {
		p, after := m.part(), rand.N(span)
		p.runs(t, after)
		label.mend(t)
		m.reopens(p, fmt.Sprintf("killed after %v", after))
	}
}

// A labelObject is the file in which SoftHSM has what makes a token: its label, and whether
// a PIN was wrong. It empties and writes that with each login, and a process that is killed
// in between takes the whole token away. So tests mend it: our part is what is on the token.
type labelObject struct {
	path string
	text []byte
}

func (m *mortality) labelObject() labelObject {
	m.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(m.token.PINFile), "tokens", "*", "token.object"))
	if err != nil || len(found) != 1 {
		m.Fatalf("the token's own object: %q, %v", found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		m.Fatal(err)
	}
	return labelObject{found[0], text}
}

// mend puts back what there was if what is there is not as long.
func (l labelObject) mend(t *testing.T) {
	t.Helper()
	info, err := os.Stat(l.path)
	if err == nil && info.Size() == int64(len(l.text)) {
		return
	}
	if err = os.WriteFile(l.path, l.text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestHalfKey: a process that ends within the module may leave a part of a key, or two
// processes may make one at once. That is in nobody's way and goes with the key.
func TestHalfKey(t *testing.T) {
	t.Parallel()
	k := softhsmtest.New(t)
	token := open(t, k.URI())
	provider := token.Provider()
	spec := core.KeySpec{ID: [16]byte{1, 2, 3}, Algorithm: core.ECDSAP256, Use: core.UseSign, Label: "a key"}
	id := fmt.Sprintf("%x", spec.ID)
	count := func(kind string) int { return strings.Count(tool(t, k, "--list-objects", "--type", kind), "ID:") }
	for name, part := range map[string][]string{
		"public half":  {"--delete-object", "--type", "privkey", "--id", id},
		"private half": {"--delete-object", "--type", "pubkey", "--id", id},
		"two":          {"--keypairgen", "--key-type", "EC:prime256v1", "--label", "a key", "--id", id, "--usage-sign"},
	} {
		for _, again := range []bool{false, true} {
			key, err := provider.GenerateKey(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			tool(t, k, part...)
			if again {
				if key, err = provider.GenerateKey(t.Context(), spec); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if err := signsOnce(t, key.(core.Signer)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if private, public := count("privkey"), count("pubkey"); private != 1 || public != 1 {
					t.Errorf("%s: a key that was made again has %d private and %d public halves", name, private, public)
				}
			}
			if err := provider.DeleteKey(t.Context(), key.Ref()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if n := count("privkey") + count("pubkey"); n != 0 {
				t.Fatalf("%s: %d objects are left", name, n)
			}
		}
	}
}
