// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/core"
)

// A Caller answers what an issuer asks of the application: the kinds of core.CallNeed.
// Replace it for a backend that wants something else than the one of Wire.
type Caller func(context.Context, core.CallNeed) ([]byte, error)

// newCaller is that of the configuration's issuer. "wire.nonce" and "wire.access-token" go
// to the target of the challenge, as Wire's backend has them.
func newCaller(c config.Config) (Caller, error) {
	u, err := c.URI(c.Issuer)
	if err != nil || u.Scheme != "acme" {
		return func(_ context.Context, need core.CallNeed) ([]byte, error) {
			return nil, fmt.Errorf("the issuer asks for %q: %w", need.Kind, core.ErrUnsupported)
		}, nil
	}
	a, err := ParseACME(c, u)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, need core.CallNeed) ([]byte, error) {
		result, err := backend{a}.call(ctx, need)
		if err != nil {
			err = &core.ProviderError{Provider: "backend", Op: need.Kind, Err: err}
		}
		return result, err
	}, nil
}

// A backend gives nonces, and access tokens for proofs.
type backend struct{ ACME }

// maxReply is the size of the longest reply that is read.
const maxReply = 64 << 10

func (b backend) call(ctx context.Context, need core.CallNeed) ([]byte, error) {
	target := need.Args["target"]
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("the backend that the ACME server names: %w: %w", core.ErrInvalid, err)
	}
	if err := b.reachable(u); err != nil {
		return nil, fmt.Errorf("the backend that the ACME server names: %w", err)
	}
	if b.Backend != "" && origin(u) != b.Backend {
		return nil, fmt.Errorf("the ACME server names the backend %s, and the option backend %s: %w", origin(u), b.Backend, core.ErrDenied)
	}
	switch need.Kind {
	case "wire.nonce":
		at, ok := strings.CutSuffix(target, "/access-token")
		if !ok {
			return nil, fmt.Errorf("the target %q has no nonce beside it: %w", target, core.ErrUnsupported)
		}
		header, _, err := b.ask(ctx, http.MethodHead, at+"/nonce", "")
		if err != nil {
			return nil, err
		}
		nonce := header.Get("Replay-Nonce")
		if nonce == "" {
			return nil, fmt.Errorf("the backend gave no nonce: %w", core.ErrUnavailable)
		}
		return []byte(nonce), nil
	case "wire.access-token":
		_, body, err := b.ask(ctx, http.MethodPost, target, need.Args["proof"])
		if err != nil {
			return nil, err
		}
		defer clear(body)
		var access struct{ Token string }
		if err := json.Unmarshal(body, &access); err != nil || access.Token == "" {
			return nil, fmt.Errorf("the backend gave no access token: %w", core.ErrUnavailable)
		}
		return []byte(access.Token), nil
	}
	return nil, fmt.Errorf("the issuer asks for %q: %w", need.Kind, core.ErrUnsupported)
}

// ask gives what a success brings.
func (b backend) ask(ctx context.Context, method, address, proof string) (http.Header, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", core.ErrInvalid, err)
	}
	if proof != "" {
		request.Header.Set("DPoP", proof)
	}
	if b.Token != "" {
		token, err := readPrivate(b.Token, core.ErrNotFound)
		if err != nil {
			return nil, nil, fmt.Errorf("token for the backend: %w", err)
		}
		defer clear(token)
		request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	}
	client, err := b.client()
	if err != nil {
		return nil, nil, err
	}
	defer client.CloseIdleConnections()
	reply, err := client.Do(request)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	if err = errors.Join(err, reply.Body.Close()); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	if len(body) > maxReply {
		return nil, nil, fmt.Errorf("a reply of the backend of more than %d bytes: %w", maxReply, core.ErrTooLarge)
	}
	switch {
	case reply.StatusCode >= 500:
		err = core.ErrUnavailable
	case reply.StatusCode < 200 || reply.StatusCode > 299:
		err = core.ErrDenied
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %.300q: %w", reply.Status, body, err)
	}
	return reply.Header, body, nil
}
