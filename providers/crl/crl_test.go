// SPDX-License-Identifier: Apache-2.0

package crl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/crl"
)

// An authority is a CA that publishes lists.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(above ...authority) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte("CA"),
	}
	by := authority{key, c}
	if len(above) > 0 {
		by, c.Subject.CommonName = above[0], above[0].cert.Subject.CommonName+" below"
		c.SubjectKeyId = []byte(c.Subject.CommonName)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, key.Public(), by.key)
	if err != nil {
		panic(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return authority{key, c}
}

func (a authority) signer(context.Context) (crypto.Signer, error) { return a.key, nil }

// list is good for two hours.
func (a authority) list(number int64, revoked ...*big.Int) []byte {
	template := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(2 * time.Hour)}
	for _, serial := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		panic(err)
	}
	return der
}

// A publisher serves lists at paths, with an ETag of each, and counts.
type publisher struct {
	*httptest.Server
	mu    sync.Mutex
	lists map[string][]byte
	asked []string // path, and the status of the reply
}

func publish(t testing.TB) *publisher {
	p := &publisher{lists: map[string][]byte{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *publisher) set(path string, der []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists[path] = der
}

// ServeHTTP implements http.Handler.
func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	der, etag := p.lists[r.URL.Path], fmt.Sprintf(`"%x"`, sum(p.lists[r.URL.Path]))
	status := http.StatusOK
	switch {
	case der == nil:
		status = http.StatusNotFound
	case r.Header.Get("If-None-Match") == etag:
		status = http.StatusNotModified
	}
	p.asked = append(p.asked, fmt.Sprint(r.URL.Path, " ", status))
	w.Header().Set("ETag", etag)
	w.WriteHeader(status)
	if status == http.StatusOK {
		_, _ = w.Write(der)
	}
}

func sum(b []byte) (n uint32) {
	for _, c := range b {
		n = n*31 + uint32(c)
	}
	return n
}

// requests are those since the last call.
func (p *publisher) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// A watch tells a time that is set.
type watch struct{ time.Time }

func (w *watch) now() time.Time { return w.Time }

func newFetcher(t testing.TB) (*crl.Fetcher, *watch) {
	w := &watch{time.Now()}
	f := crl.New(crl.Config{HTTP: &http.Client{Transport: crl.Transport(loopback)}, Clock: w.now})
	t.Cleanup(func() { _ = f.Close() })
	return f, w
}

// A list is asked for when it is old or due, and has to be sent only if it is another one.
func TestKept(t *testing.T) {
	t.Parallel()
	p, ca := publish(t), newAuthority()
	f, w := newFetcher(t)
	list := ca.list(1)
	p.set("/list", list)
	fetch := func(want []byte, asked ...string) {
		t.Helper()
		der, err := f.Fetch(t.Context(), p.URL+"/list")
		if err != nil || !bytes.Equal(der, want) {
			t.Errorf("%d bytes, %v", len(der), err)
		}
		clear(der) // it is ours
		if got := p.requests(); !slices.Equal(got, asked) {
			t.Errorf("asked %v, want %v", got, asked)
		}
	}
	fetch(list, "/list 200")
	fetch(list)
	w.Time = w.Add(crl.DefaultMaxAge - time.Second)
	fetch(list)
	w.Time = w.Add(time.Second)
	fetch(list, "/list 304")
	fetch(list)
	next := ca.list(2)
	p.set("/list", next)
	w.Time = w.Add(crl.DefaultMaxAge)
	fetch(next, "/list 200") // due in a little less than two hours by this clock
	w.Time = time.Now().Add(2*time.Hour + time.Second)
	fetch(next, "/list 304")
	fetch(next, "/list 304")
	w.Time = w.Add(-3 * time.Hour) // a clock that was set
	fetch(next, "/list 304")
}

// An ETag that cannot be sent, or not well, is none.
func TestOddETag(t *testing.T) {
	t.Parallel()
	list, etag := newAuthority().list(1), ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sent := r.Header.Get("If-None-Match"); sent != "" {
			t.Errorf("%q is sent", sent)
		}
		w.Header().Set("ETag", etag)
		_, _ = w.Write(list)
	}))
	t.Cleanup(server.Close)
	f, w := newFetcher(t)
	for i, odd := range []string{strings.Repeat("x", 257), "\"\xff\"", "a\tb"} {
		etag = odd
		for range 2 {
			if _, err := f.Fetch(t.Context(), fmt.Sprint(server.URL, "/", i)); err != nil {
				t.Error(err)
			}
			w.Time = w.Add(crl.DefaultMaxAge)
		}
	}
}

// What is kept is bounded.
func TestKeptBound(t *testing.T) {
	t.Parallel()
	p, ca := publish(t), newAuthority()
	f, w := newFetcher(t)
	list := ca.list(1)
	fetch := func(i int) {
		t.Helper()
		path := fmt.Sprint("/list/", i)
		p.set(path, list)
		if _, err := f.Fetch(t.Context(), p.URL+path); err != nil {
			t.Fatal(err)
		}
		w.Time = w.Add(time.Millisecond)
	}
	for i := range e2ei.MaxCRLs + 1 {
		fetch(i)
	}
	p.requests()
	fetch(e2ei.MaxCRLs)
	fetch(1)
	if got := p.requests(); len(got) != 0 {
		t.Errorf("asked %v", got)
	}
	fetch(0)
	if got := p.requests(); len(got) != 1 {
		t.Errorf("asked %v", got)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	ca := newAuthority()
	list := ca.list(1)
	gone := make(chan struct{})
	reply := func(w http.ResponseWriter, body []byte) { _, _ = w.Write(body) }
	mux := http.NewServeMux()
	mux.HandleFunc("/nonsense", func(w http.ResponseWriter, _ *http.Request) { reply(w, []byte("nonsense")) })
	mux.HandleFunc("/more", func(w http.ResponseWriter, _ *http.Request) { reply(w, append(bytes.Clone(list), 0)) })
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { reply(w, make([]byte, e2ei.MaxCRL+1)) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(list)))
		reply(w, list[:10])
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		reply(w, list[:10])
		_ = http.NewResponseController(w).Flush()
		<-gone
	})
	mux.HandleFunc("/failed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	mux.HandleFunc("/not-modified", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	mux.HandleFunc("/empty", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<17))
		reply(w, list)
	})
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	to := ""
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) })
	mux.HandleFunc("/hops/", func(w http.ResponseWriter, r *http.Request) {
		if left, _ := strings.CutPrefix(r.URL.Path, "/hops/"); left != "" {
			http.Redirect(w, r, "/hops/"+left[1:], http.StatusFound)
			return
		}
		reply(w, list)
	})
	plain := httptest.NewServer(mux)
	t.Cleanup(plain.Close)
	t.Cleanup(func() { close(gone) })
	secure := httptest.NewTLSServer(mux)
	t.Cleanup(secure.Close)
	trusting := crl.Transport(loopback)
	trusting.TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
	f := crl.New(crl.Config{HTTP: &http.Client{Transport: trusting}})
	hasty := crl.New(crl.Config{HTTP: &http.Client{Transport: trusting, Timeout: 100 * time.Millisecond}})
	strange, _ := newFetcher(t)
	for _, c := range []struct {
		name    string
		f       *crl.Fetcher
		address string
		to      string
		want    error
	}{
		{"empty", f, "", "", crl.ErrAddress},
		{"no address", f, "list", "", crl.ErrAddress},
		{"broken", f, "http://a b/", "", crl.ErrAddress},
		{"ldap", f, "ldap://ca.example/cn=list", "", crl.ErrAddress},
		{"file", f, "file:///etc/passwd", "", crl.ErrAddress},
		{"no host", f, "http:///list", "", crl.ErrAddress},
		{"a port alone", f, "http://:80/list", "", crl.ErrAddress},
		{"with a password", f, "http://a:b@ca.example/list", "", crl.ErrAddress},
		{"long", f, plain.URL + "/" + strings.Repeat("x", e2ei.MaxURL), "", crl.ErrAddress},
		{"not there", f, plain.URL + "/nothing", "", core.ErrNotFound},
		{"not there any more", f, plain.URL + "/gone", "", core.ErrNotFound},
		{"a failure", f, plain.URL + "/failed", "", core.ErrUnavailable},
		{"not modified, but not asked so", f, plain.URL + "/not-modified", "", core.ErrUnavailable},
		{"no content", f, plain.URL + "/empty", "", core.ErrUnavailable},
		{"nonsense", f, plain.URL + "/nonsense", "", crl.ErrList},
		{"large", f, plain.URL + "/large", "", core.ErrTooLarge},
		{"endless", f, plain.URL + "/endless", "", core.ErrTooLarge},
		{"cut", f, plain.URL + "/cut", "", core.ErrUnavailable},
		{"slow", hasty, plain.URL + "/slow", "", core.ErrUnavailable},
		{"a long header", f, plain.URL + "/header", "", core.ErrUnavailable},
		{"a loop", f, plain.URL + "/loop", "", crl.ErrAddress},
		{"many redirects", f, plain.URL + "/hops/xxxx", "", crl.ErrAddress},
		{"a redirect to ldap", f, plain.URL + "/to", "ldap://ca.example/cn=list", crl.ErrAddress},
		{"a redirect with a password", f, plain.URL + "/to", "http://a:b@ca.example/list", crl.ErrAddress},
		{"a redirect from https to http", f, secure.URL + "/to", plain.URL + "/hops/", crl.ErrAddress},
		{"a redirect to a private network", f, plain.URL + "/to", "http://10.1.2.3/list", crl.ErrNetwork},
		{"a redirect to metadata", f, plain.URL + "/to", "http://169.254.169.254/list", crl.ErrNetwork},
		{"somebody else's certificate", strange, secure.URL + "/hops/", "", core.ErrDenied},
		{"this machine", crl.New(crl.Config{}), plain.URL + "/hops/", "", crl.ErrNetwork},
		{"this machine by name", crl.New(crl.Config{}), strings.Replace(plain.URL, "127.0.0.1", "localhost", 1) + "/hops/", "", crl.ErrNetwork},
		{"nobody listens", f, "http://127.0.0.1:1/list", "", core.ErrUnavailable},
	} {
		to = c.to
		der, err := c.f.Fetch(t.Context(), c.address)
		if !errors.Is(err, c.want) || der != nil || core.Kind(err) == nil || errors.Is(err, core.ErrUnavailable) != errors.Is(c.want, core.ErrUnavailable) {
			t.Errorf("%s: %d bytes, %v, want %v", c.name, len(der), err, c.want)
		}
	}
	for _, address := range []string{plain.URL + "/hops/xxx", secure.URL + "/hops/"} {
		if der, err := f.Fetch(t.Context(), address); err != nil || !bytes.Equal(der, list) {
			t.Errorf("%s: %d bytes, %v", address, len(der), err)
		}
	}
	to = secure.URL + "/hops/"
	if _, err := f.Fetch(t.Context(), plain.URL+"/to"); err != nil {
		t.Errorf("from http to https: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Fetch(ctx, plain.URL+"/loop"); !errors.Is(err, context.Canceled) || errors.Is(err, core.ErrUnavailable) {
		t.Error(err)
	}
}

// A fetched list, and who believes it.
func Example() {
	ca := newAuthority()
	list := ca.list(1, big.NewInt(7))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(list) }))
	defer server.Close()

	// The CA of this example is on this machine, which is not asked otherwise.
	f := crl.New(crl.Config{HTTP: &http.Client{Transport: crl.Transport(netip.MustParsePrefix("127.0.0.0/8"))}})
	defer f.Close()
	der, err := f.Fetch(context.Background(), server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	env, _, err := (*e2ei.Environment)(nil).AddAnchor(ca.cert.Raw, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	env, _, _, err = env.AddCRL(server.URL, der, time.Now())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(env.Lists()), "list")
	// With a client: f.Update(ctx, c), each hour or so.

	// Output: 1 list
}
