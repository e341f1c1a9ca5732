// SPDX-License-Identifier: Apache-2.0

package e2ei_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// An enrolment goes on from its stash after each step, with the same account key.
func TestStash(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.ECDSAP521)
	config.RefreshToken = core.NewSecret([]byte("refresh"))
	for _, next := range steps {
		e := at(t, config, next)
		stash := stashOf(t, e)
		kept := bytes.Clone(stash)
		again, err := e2ei.Pop(stash)
		if err != nil {
			t.Fatal(err)
		}
		clear(stash) // it is not kept
		if again.Next() != next || !bytes.Equal(stashOf(t, again), kept) || !reflect.DeepEqual(shown(again), shown(e)) {
			t.Errorf("%s: %q comes next", next, again.Next())
		}
		for n := range kept {
			if _, err := e2ei.Pop(kept[:n]); !errors.Is(err, e2ei.ErrMalformed) {
				t.Fatalf("%d of %d bytes: %v", n, len(kept), err)
			}
		}
		if _, err := e2ei.Pop(append(bytes.Clone(kept), 0)); !errors.Is(err, e2ei.ErrMalformed) {
			t.Error("a byte more")
		}
		for i := range kept {
			kept[i] ^= 0x80
			if other, err := e2ei.Pop(kept); err == nil {
				if !bytes.Equal(stashOf(t, other), kept) {
					t.Errorf("byte %d: not what was read", i)
				}
			} else if !errors.Is(err, e2ei.ErrMalformed) {
				t.Errorf("byte %d: %v", i, err)
			}
			kept[i] ^= 0x80
		}
		for old, lie := range map[string]string{
			"https://ca.example.com/nonce":   "https://cb.example.com/nonce",
			"https://ca.example.com/order/1": "https://cb.example.com/order/1",
			"https://ca.example.com/directo": "http://ca.example.com//directo",
			"SvPfLlwBQi-6oddVRrkqpw:4c7@":    "SvPfLlwBQi-6oddVRrkqpw:4C7@", // not as it is written
			"alice_wire":                     "alice_wir\n",
		} {
			changed := bytes.Replace(kept, []byte(old), []byte(lie), 1)
			if bytes.Equal(changed, kept) {
				continue // that is not known yet
			}
			if _, err := e2ei.Pop(changed); len(changed) != len(kept) || !errors.Is(err, e2ei.ErrMalformed) {
				t.Errorf("%s for %s: %v", lie, old, err)
			}
		}
	}
}

// A stash whose account key is none is no stash.
func TestStashKey(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.Ed25519)
	stash := stashOf(t, at(t, config, e2ei.StepNewAccount))
	behind := bytes.Index(stash, []byte(origin+"/nonce")) - 1 // its length
	clear(stash[behind-32 : behind])
	if _, err := e2ei.Pop(stash); !errors.Is(err, e2ei.ErrMalformed) {
		t.Error(err)
	}
}

// shown is what can be seen of an enrolment.
func shown(e *e2ei.Enrollment) any {
	c := e.Config()
	token := string(c.RefreshToken.Bytes())
	c.RefreshToken = core.Secret{}
	oidc, _ := e.OIDCChallenge()
	dpop, _ := e.DPoPChallenge()
	return []any{fmt.Sprintf("%+v", c), token, oidc, dpop}
}

// Nothing that prints an enrolment shows its secrets.
func TestRedacted(t *testing.T) {
	t.Parallel()
	config, _ := configOf(t, core.Ed25519)
	config.RefreshToken = core.NewSecret([]byte("swordfish"))
	e := at(t, config, e2ei.StepCertificate)
	for _, v := range []any{e, *e, e.Config(), e2ei.Issued{RefreshToken: config.RefreshToken}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			s := fmt.Sprintf(verb, v)
			if strings.Contains(s, "swordfish") || strings.Contains(s, fmt.Sprintf("%x", "swordfish")) || strings.Contains(s, "115 119 111") {
				t.Errorf("%s of %T: %s", verb, v, s)
			}
		}
	}
	e.Wipe()
	if !e.Config().RefreshToken.IsZero() || string(config.RefreshToken.Bytes()) != "swordfish" {
		t.Error("the wrong one is wiped")
	}
}

// What can be popped is written again as the same bytes.
func FuzzPop(f *testing.F) {
	config, _ := configOf(f, core.Ed25519)
	for _, s := range steps {
		f.Add(stashOf(f, at(f, config, s)))
	}
	f.Fuzz(func(t *testing.T, stash []byte) {
		e, err := e2ei.Pop(stash)
		if err != nil {
			if !errors.Is(err, e2ei.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(stashOf(t, e), stash) {
			t.Fatal("it is written otherwise")
		}
		for _, s := range steps {
			_ = take(e, s, []byte(replies[s]), noon, nil)
		}
	})
}

// No reply at any step does harm: it is refused and nothing has changed, or the enrolment is
// one step on and can be stashed.
func FuzzReplies(f *testing.F) {
	a := newAuthority(f)
	config, _ := configOf(f, core.ECDSAP256)
	for i, s := range steps {
		f.Add(uint8(i), []byte(replies[s]))
	}
	for i, s := range steps {
		if s == e2ei.StepDeviceAuthorization {
			f.Add(uint8(i), []byte(replies[e2ei.StepUserAuthorization]))
		}
	}
	last := uint8(len(steps) - 1)
	f.Add(last, slices.Concat(a.leaf(f, config, nil), a.pem()))
	stashes := make([][]byte, len(steps))
	for i, s := range steps {
		stashes[i] = stashOf(f, at(f, config, s))
	}
	f.Fuzz(func(t *testing.T, at uint8, body []byte) {
		i := int(at) % len(steps)
		e, err := e2ei.Pop(stashes[i])
		if err != nil {
			t.Fatal(err)
		}
		err = take(e, steps[i], body, noon, a.verify)
		if err != nil {
			if core.Kind(err) == nil && steps[i] != e2ei.StepCertificate {
				t.Fatalf("of no kind: %v", err)
			}
			if !bytes.Equal(stashOf(t, e), stashes[i]) {
				t.Fatalf("refused with %v, and changed", err)
			}
			return
		}
		if e.Next() == "" {
			return
		}
		stash := stashOf(t, e)
		if bytes.Equal(stash, stashes[i]) { // an authorization may be the other one, too
			t.Fatalf("%s is still to be done", e.Next())
		}
		if _, err := e2ei.Pop(stash); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzProblem(f *testing.F) {
	f.Add(400, []byte(`{"type":"urn:ietf:params:acme:error:badNonce","detail":"d","subproblems":[{"type":"a"}]}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		p := e2ei.ParseProblem(status, body)
		if len(p.Error()) > 1<<20 || len(p.Subproblems) > 16 || core.Kind(p) == nil {
			t.Fatalf("%d bytes", len(p.Error()))
		}
	})
}
