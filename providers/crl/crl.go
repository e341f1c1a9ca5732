// SPDX-License-Identifier: Apache-2.0

// Package crl fetches the revocation lists of a client's certificates over HTTP, as core/client
// asks nobody itself. Start with [New]; [Fetcher.Update] does all that is due.
//
// It believes nothing of what it fetches: whether a list is signed by a CA that the client
// trusts, and is newer than the one before, is for the client's environment to judge. It
// promises to ask http and https addresses alone, to read no more than [e2ei.MaxCRL] bytes, to
// take no more than a minute for one address, and to follow few redirects, none from https to
// http.
//
// The addresses are in certificates. Those of strangers are not asked: see
// [e2ei.Environment.MissingLists]. Still, a CA that others have may let them choose what its
// certificates say, and its addresses must not be a way into the network of who asks. So only
// public addresses are asked, not this machine, its neighbours or private networks, whatever a
// name resolves to. A CA in one's own network needs a [Transport] for that network.
package crl

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

var (
	// ErrAddress: the address is not one of http or https, or a redirect leads to another.
	ErrAddress = fmt.Errorf("not an address that lists are fetched from: %w", core.ErrUnsupported)
	// ErrNetwork: the address is in a network that is not asked: see [Transport].
	ErrNetwork = fmt.Errorf("a network that is not asked: %w", core.ErrDenied)
	// ErrList: the reply is no revocation list.
	ErrList = fmt.Errorf("not a revocation list: %w", core.ErrInvalid)
)

// What a fetcher does if its Config does not say.
const (
	DefaultMaxAge  = time.Hour
	DefaultTimeout = 30 * time.Second
)

// The limits of one fetch and of what is kept. Sizes are in bytes.
const (
	MaxRedirects = 3
	maxTimeout   = time.Minute
	maxETag      = 256
	maxKept      = e2ei.MaxCRLs
)

// Config is what a fetcher is made of.
type Config struct {
	// HTTP is used for everything, but follows redirects as the package says; its Timeout,
	// of a minute at most, or [DefaultTimeout], is for each address. Where it goes is the
	// matter of its Transport. Nil: one with [Transport] that asks public addresses alone.
	HTTP *http.Client
	// MaxAge is how long a list is good without asking whether there is another; 0:
	// [DefaultMaxAge]. It is how long a revocation may stay unknown.
	MaxAge time.Duration
	// Clock tells the time; nil: time.Now.
	Clock func() time.Time
}

// A Fetcher fetches lists and keeps up to e2ei.MaxCRLs of them. It is safe for concurrent use.
type Fetcher struct {
	http   *http.Client
	maxAge time.Duration
	now    func() time.Time

	mu   sync.Mutex
	kept map[string]*kept // by address
}

// kept is a list that was fetched.
type kept struct {
	der        []byte
	etag       string
	fetched    time.Time
	nextUpdate time.Time
}

// New makes a fetcher. It asks nobody.
func New(cfg Config) *Fetcher {
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: Transport()}
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	client := *cfg.HTTP
	client.CheckRedirect, client.Jar = checkRedirect, nil
	client.Timeout = min(cmp.Or(client.Timeout, DefaultTimeout), maxTimeout)
	return &Fetcher{http: &client, maxAge: cfg.MaxAge, now: cfg.Clock, kept: map[string]*kept{}}
}

// Close gives up connections that are idle.
func (f *Fetcher) Close() error {
	f.http.CloseIdleConnections()
	return nil
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if err := check(r.URL); err != nil {
		return err
	}
	switch before := via[len(via)-1].URL; {
	case len(via) > MaxRedirects:
		return fmt.Errorf("%w: more than %d redirects", ErrAddress, MaxRedirects)
	case before.Scheme == "https" && r.URL.Scheme != "https":
		return fmt.Errorf("%w: a redirect to http", ErrAddress)
	}
	return nil
}

func check(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("%w: %.80q", ErrAddress, u.Redacted())
	}
	return nil
}

// Fetch gives the list (DER) of an address: the one that is kept, while it is not older than
// Config.MaxAge and its next one is not due, or else what the address has. The list is the
// caller's to judge. ErrAddress, ErrNetwork, ErrList; core.ErrTooLarge: it is over e2ei.MaxCRL
// bytes; core.ErrNotFound: nothing is there; core.ErrDenied: not from whom it should be;
// core.ErrUnavailable: there was no whole reply in time.
func (f *Fetcher) Fetch(ctx context.Context, address string) ([]byte, error) {
	der, err := f.fetch(ctx, address)
	if err != nil {
		return nil, fail("fetch", fmt.Errorf("%.80q: %w", address, err))
	}
	return der, nil
}

func (f *Fetcher) fetch(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil || len(address) > e2ei.MaxURL {
		return nil, ErrAddress
	}
	if err := check(u); err != nil {
		return nil, err
	}
	old := f.find(address)
	now := f.now()
	if old != nil && old.fresh(now, f.maxAge) {
		return append([]byte(nil), old.der...), nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAddress, err)
	}
	request.Header.Set("User-Agent", "conclave")
	if old != nil && old.etag != "" {
		request.Header.Set("If-None-Match", old.etag)
	}
	reply, err := f.http.Do(request)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	defer reply.Body.Close()
	switch {
	case reply.StatusCode == http.StatusNotModified && old != nil && old.etag != "":
		next := *old
		next.fetched = now
		f.keep(address, &next)
		return append([]byte(nil), old.der...), nil
	case reply.StatusCode == http.StatusNotFound || reply.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("HTTP status %d: %w", reply.StatusCode, core.ErrNotFound)
	case reply.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("HTTP status %d: %w", reply.StatusCode, core.ErrUnavailable)
	}
	der, err := io.ReadAll(io.LimitReader(reply.Body, e2ei.MaxCRL+1))
	switch {
	case err != nil:
		return nil, unreachable(ctx, err)
	case len(der) > e2ei.MaxCRL:
		return nil, fmt.Errorf("more than %d bytes: %w", e2ei.MaxCRL, core.ErrTooLarge)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	etag := reply.Header.Get("ETag")
	if len(etag) > maxETag || strings.IndexFunc(etag, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		etag = "" // it could not be sent
	}
	f.keep(address, &kept{append([]byte(nil), der...), etag, now, list.NextUpdate})
	return der, nil
}

// unreachable is the kind of what net/http says.
func unreachable(ctx context.Context, err error) error {
	wrong := (*tls.CertificateVerificationError)(nil)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case errors.Is(err, ErrAddress), errors.Is(err, ErrNetwork):
		return err
	case errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", core.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
}

// fresh says whether a list need not be asked for. What it says of itself is not believed
// for longer than maxAge.
func (k *kept) fresh(now time.Time, maxAge time.Duration) bool {
	age := now.Sub(k.fetched)
	return age >= 0 && age < maxAge && (k.nextUpdate.IsZero() || now.Before(k.nextUpdate))
}

func (f *Fetcher) find(address string) *kept {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kept[address]
}

// keep takes the place of the list that was asked for the longest time ago, if there are too
// many.
func (f *Fetcher) keep(address string, k *kept) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept[address] = k
	if len(f.kept) <= maxKept {
		return
	}
	oldest := address
	for a, other := range f.kept {
		if other.fetched.Before(f.kept[oldest].fetched) {
			oldest = a
		}
	}
	delete(f.kept, oldest)
}

// drop forgets a list, so that it is fetched anew.
func (f *Fetcher) drop(address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.kept, address)
}

func fail(op string, err error) error {
	return &core.ProviderError{Provider: "crl", Op: op, Err: err}
}
