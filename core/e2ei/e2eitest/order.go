// SPDX-License-Identifier: Apache-2.0

package e2eitest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// errRefused: the server says so in an object with status 200.
var errRefused = errors.New("refused")

// A wanted says what is asked for, in the spelling in which it is sent.
type wanted struct {
	who              Person
	clientID, handle string // URIs
	swapped          bool   // the user before the device
}

func want(who Person) wanted {
	return wanted{who, who.ClientID.URI(), handleURI(who.Handle, who.ClientID.Domain), false}
}

// handleURI writes a handle that needs no escapes.
func handleURI(handle, domain string) string { return "wireapp://%40" + handle + "@" + domain }

// An order is one by hand, for the requests that the engine does not make.
type order struct {
	*Account
	wanted
	url, finalize string
	device, user  struct{ URL, Token, Target string } // the challenges
}

// order makes an account for a key and orders a certificate for an hour.
func (p *Peer) order(ctx context.Context, key core.Signer, w wanted) (*order, error) {
	a, err := p.Account(ctx, key)
	if err != nil {
		return nil, err
	}
	_, header, err := a.Post(ctx, a.Directory.NewAccount, map[string]any{"termsOfServiceAgreed": true})
	if err != nil {
		return nil, err
	}
	a.URL = header.Get("Location")
	o := &order{Account: a, wanted: w}
	names := map[string]string{"handle": w.handle, "name": w.who.DisplayName, "domain": w.who.ClientID.Domain}
	user, err := marshal(names)
	if err != nil {
		return nil, err
	}
	names["client-id"] = w.clientID
	device, err := marshal(names)
	if err != nil {
		return nil, err
	}
	ids := []map[string]string{{"type": "wireapp-device", "value": device}, {"type": "wireapp-user", "value": user}}
	if w.swapped {
		ids[0], ids[1] = ids[1], ids[0]
	}
	body, header, err := a.Post(ctx, a.Directory.NewOrder, map[string]any{
		"identifiers": ids, "notAfter": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	})
	if err != nil {
		return nil, err
	}
	var made struct {
		Finalize       string
		Authorizations []string
	}
	if err := json.Unmarshal(body, &made); err != nil {
		return nil, err
	}
	o.url, o.finalize = header.Get("Location"), made.Finalize
	for _, address := range made.Authorizations {
		body, _, err := a.Post(ctx, address, nil)
		if err != nil {
			return nil, err
		}
		var read struct {
			Identifier struct{ Type string }
			Challenges []struct{ URL, Token, Target string }
		}
		if err := json.Unmarshal(body, &read); err != nil || len(read.Challenges) != 1 {
			return nil, fmt.Errorf("authorization %s: %w", body, err)
		}
		if read.Identifier.Type == "wireapp-device" {
			o.device = read.Challenges[0]
		} else {
			o.user = read.Challenges[0]
		}
	}
	return o, nil
}

// marshal leaves "&" as it is.
func marshal(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(b.String()), err
}

// answerDPoP answers the challenge of the device with a proof that is valid for so long.
func (o *order) answerDPoP(ctx context.Context, validity time.Duration) error {
	nonce, err := o.Peer.Nonce(ctx, o.device.Target)
	if err != nil {
		return err
	}
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"jti": rand.Text(), "iat": now.Add(-time.Hour).Unix(), "nbf": now.Add(-time.Hour).Unix(), "exp": now.Add(validity).Unix(),
		"sub": o.clientID, "aud": o.device.URL, "nonce": nonce, "chal": o.device.Token, "htm": "POST", "htu": o.device.Target,
		"handle": o.handle, "name": o.who.DisplayName, "team": o.who.Team,
	})
	if err != nil {
		return err
	}
	key, err := newJWSKey(ctx, o.Key)
	if err != nil {
		return err
	}
	options := &jose.SignerOptions{EmbedJWK: true}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.algorithm, Key: key}, options.WithType("dpop+jwt"))
	if err != nil {
		return err
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		return err
	}
	proof, err := signed.CompactSerialize()
	if err != nil {
		return err
	}
	token, err := o.Peer.AccessToken(ctx, o.device.Target, proof)
	if err != nil {
		return err
	}
	return o.answer(ctx, o.device.URL, "access_token", token)
}

// answerOIDC answers the challenge of the person with a thumbprint of that hash.
func (o *order) answerOIDC(ctx context.Context, hash crypto.Hash) error {
	key, err := newJWSKey(ctx, o.Key)
	if err != nil {
		return err
	}
	print, err := key.public.Thumbprint(hash)
	if err != nil {
		return err
	}
	keyAuth := o.user.Token + "." + base64.RawURLEncoding.EncodeToString(print)
	token, _, err := o.Peer.IDToken(ctx, e2ei.Challenge{URL: o.user.URL, Target: o.user.Target, KeyAuth: keyAuth}, o.who.Handle)
	if err != nil {
		return err
	}
	return o.answer(ctx, o.user.URL, "id_token", token)
}

func (o *order) answer(ctx context.Context, address, name, token string) error {
	body, _, err := o.Post(ctx, address, map[string]string{name: token})
	if err != nil {
		return err
	}
	var c struct{ Status string }
	if err := json.Unmarshal(body, &c); err != nil {
		return err
	}
	if c.Status != "valid" {
		return fmt.Errorf("challenge: %w: %s", errRefused, body)
	}
	return nil
}

// status is that of the order.
func (o *order) status(ctx context.Context) (string, error) {
	body, _, err := o.Post(ctx, o.url, nil)
	if err != nil {
		return "", err
	}
	var s struct{ Status string }
	err = json.Unmarshal(body, &s)
	return s.Status, err
}

var (
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidDisplayName  = asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 3, 1, 241}
)

func attribute(oid asn1.ObjectIdentifier, text string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)}}
}

// issue answers both challenges and asks for the certificate of a key, by a request that
// change may change: O, display name, client id and handle are there in this order.
func (o *order) issue(ctx context.Context, key core.Signer, change func(*x509.CertificateRequest)) (chain [][]byte, err error) {
	if err := o.answerDPoP(ctx, 5*time.Minute); err != nil {
		return nil, err
	}
	if err := o.answerOIDC(ctx, crypto.SHA256); err != nil {
		return nil, err
	}
	id, err := url.Parse(o.clientID)
	if err != nil {
		return nil, err
	}
	handle, err := url.Parse(o.handle)
	if err != nil {
		return nil, err
	}
	request := &x509.CertificateRequest{URIs: []*url.URL{id, handle}}
	request.Subject.ExtraNames = []pkix.AttributeTypeAndValue{
		attribute(oidOrganization, o.who.ClientID.Domain), attribute(oidDisplayName, o.who.DisplayName),
	}
	change(request)
	signer, err := core.X509Signer(ctx, key)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, signer)
	if err != nil {
		return nil, err
	}
	body, _, err := o.Post(ctx, o.finalize, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(der)})
	if err != nil {
		return nil, err
	}
	var done struct{ Status, Certificate string }
	if err := json.Unmarshal(body, &done); err != nil {
		return nil, err
	}
	if done.Status != "valid" {
		return nil, fmt.Errorf("order: %w: %s", errRefused, body)
	}
	text, _, err := o.Post(ctx, done.Certificate, nil)
	if err != nil {
		return nil, err
	}
	return e2ei.ParsePEM(text)
}
