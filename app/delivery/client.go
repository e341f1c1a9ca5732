// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// maxAnswer is how much of an answer a client reads.
const maxAnswer = 64 << 20

// ClientOptions of [Dial]. The zero value is good for a client that registers.
type ClientOptions struct {
	// Token is what an earlier Register returned.
	Token core.Secret
	// TLS configures https; nil trusts what the system trusts.
	TLS *tls.Config
	// Wrap, if set, stands between the client and the network.
	Wrap func(http.RoundTripper) http.RoundTripper
}

// A Client speaks to a delivery service for one registered client. It is safe
// for concurrent use.
type Client struct {
	base      string
	http      *http.Client
	transport *http.Transport

	mu    sync.Mutex
	token core.Secret
}

// Dial returns a client of the service at an address: "unix:PATH",
// "http://HOST:PORT" on a loopback host, "https://HOST[:PORT]". It does not
// connect yet. ErrDenied: http to another machine, where the token and the
// traffic would be there to read.
func Dial(address string, options ClientOptions) (*Client, error) {
	transport := &http.Transport{
		TLSClientConfig:     options.TLS,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 4,
	}
	c := &Client{base: strings.TrimSuffix(address, "/"), transport: transport, token: options.Token.Clone()}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		c.base = "http://unix"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	} else if err := checkURL(address); err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if options.Wrap != nil {
		c.http.Transport = options.Wrap(transport)
	}
	return c, nil
}

func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("delivery service address %q: %w", address, core.ErrInvalid)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("delivery service address %q without TLS: %w", address, core.ErrDenied)
	}
	return nil
}

// Close lets go of idle connections and wipes the token.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token.Wipe()
	c.token = core.Secret{}
	return nil
}

// SetToken takes over a token that an earlier Register returned.
func (c *Client) SetToken(token core.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token.Wipe()
	c.token = token
}

func (c *Client) authorization() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.IsZero() {
		return ""
	}
	return "Bearer " + string(c.token.Bytes())
}

// do makes one call. A refusal of the service is an [*Error]; without an answer
// a call that might have changed something is ErrUnknownOutcome, unless there was
// no connection at all: that, and a failed read, is ErrUnavailable.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("delivery service: %w: %w", core.ErrInvalid, err)
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("delivery service: %w: %w", core.ErrInvalid, err)
	}
	if auth := c.authorization(); auth != "" {
		r.Header.Set("Authorization", auth)
	}
	lost := func(err error) error {
		var op *net.OpError
		if method == http.MethodGet || errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("delivery service: %w: %w", core.ErrUnavailable, err)
		}
		return fmt.Errorf("delivery service: %w: %w", core.ErrUnknownOutcome, err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		return lost(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return lost(err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, out); err != nil {
			return lost(err)
		}
		return nil
	}
	var answer errorAnswer
	if json.Unmarshal(text, &answer) == nil && answer.Error != nil {
		return answer.Error
	}
	return lost(fmt.Errorf("not an answer of a delivery service: %s", response.Status))
}
