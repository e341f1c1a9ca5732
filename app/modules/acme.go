// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/providers/acme"
)

// ACME are the options of "acme:DIRECTORY?...", the address of an ACME server with Wire's
// challenges:
//
//	roots=FILE       PEM of roots of TLS that are trusted besides the system's
//	http=loopback    plain HTTP is good enough for what runs on this machine
//	team=NAME        of whoever enrols
//	validity=TIME    of a certificate, such as 2160h
//	client_id=NAME   of OAuth, if the server does not name it
//	redirect=URL     where a login ends: http, loopback; a free port if it has none
//	backend=ORIGIN   the only one that is asked for nonces and access tokens
//	token=FILE       the bearer token that the backend wants, which nobody else gets
type ACME struct {
	acme.Config        // RedirectURI without a port: any that is free
	Backend     string // origin; empty: whichever the server names
	Token       string // file
	Roots       string // file
}

// acmeOptions in the order in which they are told.
var acmeOptions = []string{"roots", "http", "team", "validity", "client_id", "redirect", "backend", "token"}

// ParseACME reads the URI of an issuer. core.ErrInvalid: an option that there is not, a
// value that is none, or an address that is not https without http=loopback.
func ParseACME(c config.Config, u config.URI) (a ACME, err error) {
	_, rest, _ := strings.Cut(u.Text(), ":")
	address, err := url.Parse(rest)
	if err != nil {
		return a, fmt.Errorf("address of the ACME server: %w: %w", core.ErrInvalid, err)
	}
	q, err := url.ParseQuery(address.RawQuery)
	if err != nil {
		return a, fmt.Errorf("options: %w: %w", core.ErrInvalid, err)
	}
	for name, values := range q {
		if !slices.Contains(acmeOptions, name) || len(values) != 1 || values[0] == "" {
			return a, fmt.Errorf("option %q: there are %s, once each: %w", name, strings.Join(acmeOptions, ", "), core.ErrInvalid)
		}
	}
	address.RawQuery = ""
	a.Directory, a.Team, a.OAuthClientID = address.String(), q.Get("team"), q.Get("client_id")
	if h := q.Get("http"); h != "" && h != "loopback" {
		return a, fmt.Errorf(`http=%s: only "loopback" there is: %w`, h, core.ErrInvalid)
	}
	a.AllowHTTP = q.Get("http") != ""
	if err := a.reachable(address); err != nil {
		return a, fmt.Errorf("the ACME server: %w", err)
	}
	if v := q.Get("validity"); v != "" {
		if a.Validity, err = time.ParseDuration(v); err != nil || a.Validity <= 0 {
			return a, fmt.Errorf("validity %q is no time such as 2160h: %w", v, core.ErrInvalid)
		}
	}
	if a.RedirectURI, err = redirectURI(q.Get("redirect")); err != nil {
		return a, err
	}
	if a.Backend = q.Get("backend"); a.Backend != "" {
		backend, err := url.Parse(a.Backend)
		if err == nil {
			err = a.reachable(backend)
		}
		if err != nil || backend.Path != "" && backend.Path != "/" || backend.RawQuery != "" {
			return a, fmt.Errorf("backend %q is no origin such as https://backend.example: %w", a.Backend, core.ErrInvalid)
		}
		a.Backend = origin(backend)
	}
	if q.Get("token") != "" {
		if a.Backend == "" {
			return a, fmt.Errorf("a token without a backend, which alone may have it: %w", core.ErrInvalid)
		}
		a.Token = c.File(q.Get("token"))
	}
	if q.Get("roots") != "" {
		a.Roots = c.File(q.Get("roots"))
	}
	return a, nil
}

// reachable says whether an address may be asked.
func (a ACME) reachable(u *url.URL) error {
	switch {
	case u.Host == "" || u.User != nil || u.Fragment != "":
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && a.AllowHTTP && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q is no address that begins with https, or on this machine with http and the option http=loopback: %w", u, core.ErrInvalid)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// redirectURI is where a login ends: RFC 8252 section 7.3.
func redirectURI(text string) (string, error) {
	if text == "" {
		text = "http://127.0.0.1/"
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || !loopback(u.Hostname()) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("redirect %q is no address on this machine such as http://127.0.0.1:8765/: %w", text, core.ErrInvalid)
	}
	return u.String(), nil
}

// withPort gives an address on this machine a port that is free now, if it has none.
func withPort(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Port() != "" {
		return address, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(u.Hostname(), "0"))
	if err != nil {
		return "", fmt.Errorf("a port for the login: %w: %w", core.ErrUnavailable, err)
	}
	u.Host = l.Addr().String()
	return u.String(), l.Close()
}

// httpTime is what an answer may take.
const httpTime = time.Minute

// client follows no redirects.
func (a ACME) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.Roots != "" {
		text, err := os.ReadFile(a.Roots)
		if err != nil {
			return nil, fmt.Errorf("roots: %w: %w", core.ErrNotFound, err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a system without any
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("roots: %s has no certificate in PEM: %w", a.Roots, core.ErrInvalid)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       httpTime,
	}, nil
}

func openACME(c config.Config) Opener[core.CredentialIssuer] {
	return Opener[core.CredentialIssuer]{"acme", func(_ context.Context, u config.URI) (core.CredentialIssuer, error) {
		a, err := ParseACME(c, u)
		if err != nil {
			return nil, err
		}
		return &onDemand{open: func(context.Context) (core.CredentialIssuer, error) {
			cfg, err := a.Config, error(nil)
			if cfg.RedirectURI, err = withPort(a.RedirectURI); err != nil {
				return nil, err
			}
			if cfg.HTTP, err = a.client(); err != nil {
				return nil, err
			}
			return acme.New(cfg)
		}}, nil
	}}
}
