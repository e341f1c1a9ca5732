// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
)

func (p *program) hsmTest() *cobra.Command {
	s := &selftest{program: p}
	cmd := &cobra.Command{
		Use:   "test URI",
		Short: "Test a token with keys that are made for it, under load too",
		Long: `Make a key of each algorithm that the token has, have it sign or agree, check that in
software, say how fast that was, and delete the key. Then many at once sign for a few
seconds. If the URI names a KEK, by object or id, that wraps and unwraps as well.

The exit code is 1 if something is wrong.`,
		Example: `  conclave hsm test 'pkcs11:token=acme?module-name=softhsm2&pin-source=env:PIN'
  conclave hsm test 'pkcs11:token=acme;object=alice-kek?module-name=softhsm2&pin-source=env:PIN' --time 30s`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.many < 1 {
				return fmt.Errorf("--many %d: at least 1 has to sign: %w", s.many, core.ErrInvalid)
			}
			return p.token(cmd.Context(), args[0], func(ctx context.Context, t *hsm.Token) error {
				s.token, s.keys = t, t.Provider()
				return s.run(ctx, args[0])
			})
		},
	}
	cmd.Flags().DurationVar(&s.time, "time", 3*time.Second, "how long many sign at once; 0: not at all")
	cmd.Flags().IntVar(&s.many, "many", 32, "how many that are")
	return cmd
}

// A selftest is one run of conclave hsm test.
type selftest struct {
	program *program
	token   *hsm.Token
	keys    *hsm.Provider
	time    time.Duration
	many    int
	failed  bool
}

// A testResult is a line.
type testResult struct {
	Test   string  `json:"test"`
	OK     bool    `json:"ok"`
	Rate   float64 `json:"per_second,omitempty"`
	Detail string  `json:"detail,omitempty"`
	Do     string  `json:"do,omitempty"`
}

// wrong tells of an error, and what to do.
func (s *selftest) wrong(test string, err error) error {
	return s.tell(testResult{Test: test, Detail: err.Error(), Do: s.program.here(hintOf(err))})
}

func (s *selftest) tell(r testResult) error {
	word := "ok  "
	if !r.OK {
		word, s.failed = "fail", true
	}
	text := fmt.Sprintf("%s  %-10s", word, r.Test)
	if r.Rate > 0 {
		text += fmt.Sprintf("  %8.0f/s", r.Rate)
	} else {
		text += strings.Repeat(" ", 12)
	}
	if r.Detail != "" {
		text += "  " + plain(r.Detail)
	}
	if r.Do != "" {
		text += fmt.Sprintf("\n%30s%s", "", plain(r.Do))
	}
	return s.program.result(r, "%s\n", text)
}

func (s *selftest) run(ctx context.Context, uri string) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return err
	}
	algorithms, err := s.keys.Algorithms(ctx)
	if err != nil {
		return err
	}
	if len(algorithms) == 0 {
		if err := s.tell(testResult{Test: "algorithms", Detail: "the token has none that can be used"}); err != nil {
			return err
		}
	}
	var first core.KeyAlgorithm // that signs
	for i, a := range algorithms {
		s.program.progress.at("algorithms", i, len(algorithms))
		rate, err := s.try(ctx, a)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			err = s.wrong(string(a), err)
		} else {
			err = s.tell(testResult{Test: string(a), OK: true, Rate: rate})
		}
		if err != nil {
			return err
		}
		if first == "" && verifier(a) != nil {
			first = a
		}
	}
	if len(u.ID) > 0 || u.Object != "" {
		if err := s.kek(ctx, uri); err != nil {
			return err
		}
	}
	if first != "" && s.time > 0 {
		if err := s.load(ctx, first); err != nil {
			return err
		}
	}
	if s.failed {
		return errTold
	}
	return nil
}

// each is how long one thing is done again and again to say how fast it is.
const each = 200 * time.Millisecond

// rate calls f for a while.
func rate(f func() error) (float64, error) {
	begin, n := time.Now(), 0
	for time.Since(begin) < each {
		if err := f(); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// try makes a key and uses it.
func (s *selftest) try(ctx context.Context, a core.KeyAlgorithm) (perSecond float64, err error) {
	err = s.withKey(ctx, a, func(key core.PrivateKey) error {
		switch key := key.(type) {
		case core.Signer:
			perSecond, err = rate(func() error { return sign(ctx, key, rand.Text(), true) })
		case core.Agreer:
			peer, err := pure.New().GenerateKey(ctx, core.KeySpec{Algorithm: a, Use: core.UseDecrypt})
			if err != nil {
				return err
			}
			perSecond, err = rate(func() error { return agree(ctx, key, peer) })
			return err
		default:
			return fmt.Errorf("a key that neither signs nor agrees: %w", core.ErrUnsupported)
		}
		return err
	})
	return perSecond, err
}

// withKey runs f with a new key, which is deleted after.
func (s *selftest) withKey(ctx context.Context, a core.KeyAlgorithm, f func(core.PrivateKey) error) (err error) {
	spec := core.KeySpec{Algorithm: a, Use: core.UseSign, Label: "conclave test"}
	if verifier(a) == nil {
		spec.Use = core.UseDecrypt
	}
	_, _ = rand.Read(spec.ID[:]) // never fails, see crypto/rand
	key, err := s.keys.GenerateKey(ctx, spec)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, s.keys.DeleteKey(last, key.Ref()))
	}()
	return f(key)
}

// verifier is a suite that has the algorithm for its signatures, or nil.
func verifier(a core.KeyAlgorithm) core.Suite {
	software := pure.New()
	for _, id := range software.Suites() {
		if s, err := software.Suite(id); err == nil && s.Parameters().Signature == a {
			return s
		}
	}
	return nil
}

func sign(ctx context.Context, key core.Signer, text string, check bool) error {
	signature, err := key.Sign(ctx, []byte(text))
	if err != nil || !check {
		return err
	}
	return verifier(key.Algorithm()).Verify(key.Public(), []byte(text), signature)
}

func agree(ctx context.Context, key core.Agreer, peer core.PrivateKey) error {
	software, ok := peer.(core.Agreer)
	if !ok {
		return fmt.Errorf("the software has no %s: %w", peer.Algorithm(), core.ErrUnsupported)
	}
	ours, err := key.Agree(ctx, peer.Public())
	if err != nil {
		return err
	}
	defer ours.Wipe()
	theirs, err := software.Agree(ctx, key.Public())
	if err != nil {
		return err
	}
	defer theirs.Wipe()
	if !bytes.Equal(ours.Bytes(), theirs.Bytes()) {
		return fmt.Errorf("the token and the software agree on different secrets: %w", core.ErrInvalid)
	}
	return nil
}

// kek has the KEK of the URI wrap.
func (s *selftest) kek(ctx context.Context, uri string) error {
	var id string
	perSecond, err := func() (float64, error) {
		w, err := s.token.Wrapper(ctx, uri)
		if errors.Is(err, hsm.ErrKeyNotFound) {
			return 0, hint(err, noKEKYet)
		}
		if err != nil {
			return 0, err
		}
		id = w.ID()
		if err := stays(ctx, s.token, uri); err != nil {
			return 0, err
		}
		return rate(func() error { return wraps(ctx, w) })
	}()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errLeaves):
		return s.wrong("KEK", hint(err, "make one that stays: conclave hsm generate TOKEN --kek LABEL; if it seals a database: conclave keystore change-key, and rotate-key"))
	case err != nil:
		return s.wrong("KEK", err)
	}
	return s.tell(testResult{Test: "KEK", OK: true, Rate: perSecond, Detail: "check value " + id})
}

// wraps also changes what was wrapped, which must be noticed.
func wraps(ctx context.Context, w core.KeyWrapper) error {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	dek := core.NewSecret(secret)
	defer dek.Wipe()
	about := []byte("conclave hsm test")
	blob, err := w.Wrap(ctx, dek, about)
	if err != nil {
		return err
	}
	back, err := w.Unwrap(ctx, blob, about)
	if err != nil {
		return err
	}
	defer back.Wipe()
	if !bytes.Equal(back.Bytes(), dek.Bytes()) {
		return fmt.Errorf("another key comes out than went in: %w", core.ErrInvalid)
	}
	blob[len(blob)-1] ^= 1
	if _, err := w.Unwrap(ctx, blob, about); err == nil || errors.Is(err, core.ErrUnavailable) {
		return errors.Join(fmt.Errorf("what was wrapped and changed is not refused: %w", core.ErrInvalid), err)
	}
	return nil
}

// load has many sign at once, and checks one signature of sixteen.
func (s *selftest) load(ctx context.Context, a core.KeyAlgorithm) error {
	var done atomic.Int64
	var wrong error
	var once sync.Once
	var took time.Duration
	err := s.withKey(ctx, a, func(key core.PrivateKey) error {
		signer, ok := key.(core.Signer)
		if !ok {
			return fmt.Errorf("the key does not sign: %w", core.ErrUnsupported)
		}
		begin := time.Now()
		during, cancel := context.WithTimeout(ctx, s.time)
		defer cancel()
		var all sync.WaitGroup
		for range s.many {
			all.Go(func() {
				for n := 0; during.Err() == nil; n++ {
					if err := sign(ctx, signer, rand.Text(), n%16 == 0); err != nil {
						once.Do(func() { wrong = err })
						cancel()
						return
					}
					done.Add(1)
				}
			})
		}
		for tick := time.NewTicker(progressEvery); during.Err() == nil; {
			select {
			case <-during.Done():
			case <-tick.C:
				s.program.progress.at("signatures", int(done.Load()), 0)
			}
		}
		all.Wait()
		took = time.Since(begin)
		return nil
	})
	if err == nil {
		err = wrong
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return s.wrong("load", err)
	}
	return s.tell(testResult{Test: "load", OK: true, Rate: float64(done.Load()) / took.Seconds(),
		Detail: fmt.Sprintf("%d signatures of %s, %d at once, in %s", done.Load(), a, s.many, took.Round(100*time.Millisecond))})
}
