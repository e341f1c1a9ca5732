// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// The longest texts that are taken from a server, in bytes.
const (
	maxAddress = 2048
	maxText    = 1024
	maxToken   = 1 << 16
)

// maxPatience is the longest wait that a server may ask for.
const maxPatience = time.Hour

// A session is what one call says to the servers: one chain of nonces.
type session struct {
	*Issuer
	nonce string        // unused; "" if there is none
	wait  time.Duration // what the last reply asked for
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// do sends one request. core.ErrUnavailable: there was no whole reply in time; core.ErrTooLarge:
// it was too long; ErrForeignURL: it was a redirect; core.ErrDenied: not from whom it should be.
func (x *session) do(ctx context.Context, method, address, contentType string, body []byte) (reply, error) {
	x.wait = 0
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	r.Header.Set("User-Agent", "conclave") // RFC 8555 section 6.1
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := x.http.Do(r)
	if err != nil {
		kind := core.ErrUnavailable
		if wrong := (*tls.CertificateVerificationError)(nil); errors.As(err, &wrong) {
			kind = core.ErrDenied
		}
		return reply{}, fmt.Errorf("%w: %w", kind, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, e2ei.MaxReply+1))
	switch {
	case err != nil:
		return reply{}, fmt.Errorf("reply of %.80q: %w: %w", address, core.ErrUnavailable, err)
	case len(text) > e2ei.MaxReply:
		return reply{}, fmt.Errorf("reply of %.80q: %w", address, core.ErrTooLarge)
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return reply{}, fmt.Errorf("%w: %.80q redirects", e2ei.ErrForeignURL, address)
	}
	x.wait = retryAfter(answer.Header.Get("Retry-After"), x.cfg.Clock())
	return reply{answer.StatusCode, answer.Header, text}, nil
}

// retryAfter reads the header (RFC 9110 section 10.2.3), which has seconds or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxPatience)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), maxPatience)
	}
	return 0
}

// directory reads the ACME directory.
func (x *session) directory(ctx context.Context, e *e2ei.Enrollment) error {
	r, err := x.do(ctx, http.MethodGet, e.Config().Directory, "", nil)
	if err == nil && r.status >= 400 {
		err = e2ei.ParseProblem(r.status, r.body)
	}
	if err != nil {
		return &e2ei.StepError{Step: e2ei.StepDirectory, Err: err}
	}
	return e.DirectoryResponse(r.body)
}

// needNonce sees to it that there is a nonce (RFC 8555 section 7.2).
func (x *session) needNonce(ctx context.Context, e *e2ei.Enrollment) error {
	if x.nonce != "" {
		return nil
	}
	address, err := e.NonceURL()
	if err != nil {
		return err
	}
	r, err := x.do(ctx, http.MethodHead, address, "", nil)
	if err == nil && r.status >= 400 {
		err = e2ei.ParseProblem(r.status, nil)
	}
	if err == nil {
		x.nonce = r.header.Get("Replay-Nonce")
		if x.nonce == "" || len(x.nonce) > maxText {
			err = fmt.Errorf("%w: nonce of %d bytes", e2ei.ErrMalformed, len(x.nonce))
		}
	}
	if err != nil {
		return fmt.Errorf("nonce: %w", err)
	}
	return nil
}

// post sends a request that make signs, a second time if the nonce was refused. An error is of
// the step; a failure of the server is an [e2ei.Problem].
func (x *session) post(ctx context.Context, e *e2ei.Enrollment, step e2ei.Step, make func(nonce string) (e2ei.Request, error)) (reply, error) {
	for again := false; ; again = true {
		if err := x.needNonce(ctx, e); err != nil {
			return reply{}, &e2ei.StepError{Step: step, Err: err}
		}
		request, err := make(x.nonce)
		if err != nil {
			return reply{}, err
		}
		r, err := x.do(ctx, http.MethodPost, request.URL, "application/jose+json", request.Body)
		x.nonce = ""
		if err != nil {
			return reply{}, &e2ei.StepError{Step: step, Err: err}
		}
		x.nonce = r.header.Get("Replay-Nonce")
		if r.status < 400 {
			return r, nil
		}
		problem := e2ei.ParseProblem(r.status, r.body)
		if problem.BadNonce() && !again {
			continue
		}
		return reply{}, &e2ei.StepError{Step: step, Err: problem}
	}
}

// checkAddress refuses what is no address for us. ErrForeignURL.
func (i *Issuer) checkAddress(address string) error {
	u, err := url.Parse(address)
	if len(address) <= maxAddress && err == nil && u.Host != "" && u.User == nil && u.Fragment == "" &&
		(u.Scheme == "https" || u.Scheme == "http" && i.cfg.AllowHTTP && loopback(u.Hostname())) {
		return nil
	}
	return fmt.Errorf("%w: %.80q", e2ei.ErrForeignURL, address)
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
