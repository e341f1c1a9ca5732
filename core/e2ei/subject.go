// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

// MaxClientID is the size of the longest client id that a certificate is asked for, in bytes.
const MaxClientID = 1024

// A Subject is whom a certificate is asked for. With a client id of Wire's and a handle it has
// Wire's names: see [Leaf.Identity]. Else the client id is its one name: see [ClientURI].
type Subject struct {
	ClientID            core.ClientID
	Handle, DisplayName string // the handle bare; without Wire's names they are not used
}

// wire gives the names of Wire, if these are they.
func (s Subject) wire() (id ClientID, handle Handle, ok bool, err error) {
	if s.Handle == "" {
		return ClientID{}, Handle{}, false, nil
	}
	if id, err = ParseClientID(string(s.ClientID)); err != nil {
		return ClientID{}, Handle{}, false, nil
	}
	if id.Core() != s.ClientID {
		return ClientID{}, Handle{}, true, fmt.Errorf("%w: not as it is written: %.80q", ErrClientID, s.ClientID)
	}
	if !validText(s.DisplayName) {
		return ClientID{}, Handle{}, true, fmt.Errorf("e2ei: display name of %d bytes: %w", len(s.DisplayName), core.ErrInvalid)
	}
	handle, err = NewHandle(s.Handle, id.Domain)
	return id, handle, true, err
}

// Names gives the subject and the URIs of the certificate. core.ErrInvalid: a name that
// cannot be; core.ErrTooLarge: a client id over MaxClientID bytes, a
// handle or a display name over 256.
func (s Subject) Names() (pkix.Name, []*url.URL, error) {
	if len(s.ClientID) > MaxClientID || len(s.Handle) > maxHandle || len(s.DisplayName) > maxText {
		return pkix.Name{}, nil, fmt.Errorf("client id of %d bytes, handle of %d, display name of %d: %w",
			len(s.ClientID), len(s.Handle), len(s.DisplayName), core.ErrTooLarge)
	}
	if s.ClientID == "" {
		return pkix.Name{}, nil, fmt.Errorf("empty client id: %w", core.ErrInvalid)
	}
	var name pkix.Name
	uris := []string{ClientURI(s.ClientID)}
	id, handle, wire, err := s.wire()
	if err != nil {
		return pkix.Name{}, nil, err
	}
	if wire {
		name = pkix.Name{CommonName: s.DisplayName, Organization: []string{id.Domain}}
		uris = []string{id.URI(), handle.URI()}
	}
	parsed := make([]*url.URL, len(uris))
	for i, u := range uris {
		if parsed[i], err = url.Parse(u); err != nil {
			return pkix.Name{}, nil, fmt.Errorf("%w: %w", core.ErrInvalid, err)
		}
	}
	return name, parsed, nil
}

// Check says whether a certificate that was issued is for this subject and a key (MLS
// encoding), and may be that of a client. It does not ask for the path. ErrWrongKey,
// ErrIdentity, ErrMismatch, ErrMissing, ErrConstraint, ErrUnsupportedKey.
func (s Subject) Check(c *x509.Certificate, algorithm core.KeyAlgorithm, public []byte) error {
	l, err := newLeaf(c)
	if err != nil {
		return err
	}
	if l.algorithm != algorithm || !bytes.Equal(l.public, public) {
		return ErrWrongKey
	}
	if err := l.checkUse(); err != nil {
		return err
	}
	client, handle, wire, err := s.wire()
	if err != nil {
		return err
	}
	if !wire {
		got, err := clientOfURI(c)
		if err == nil && got != s.ClientID {
			err = &FieldError{"client id", ErrMismatch}
		}
		return err
	}
	id, err := l.Identity()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		field string
		ours  bool
	}{
		{"client id", id.ClientID == client},
		{"handle", id.Handle.same(handle)},
		{"display name", id.DisplayName == s.DisplayName},
		{"domain", id.Domain == client.Domain},
	} {
		if !f.ours {
			return &FieldError{f.field, ErrMismatch}
		}
	}
	return nil
}

// clientScheme is not a registered one. A client id is any bytes, of which no registered
// scheme of names, and no other kind of subject alternative name, takes all.
const clientScheme = "mls-client"

// ClientURI is a client id as it stands in a certificate that is not Wire's: "mls-client:" and
// the id, percent-encoded.
func ClientURI(id core.ClientID) string { return clientScheme + ":" + url.PathEscape(string(id)) }

// ClientOf reads whose a certificate is: a [ClientURI], which must be its one name, or else
// what all of Wire's names say. It is an [Authenticator.Identify]. ErrIdentity: neither.
func ClientOf(c *x509.Certificate) (core.ClientID, error) {
	if id, err := clientOfURI(c); err == nil {
		return id, nil
	}
	id, err := (&Leaf{cert: c}).Identity()
	if err != nil {
		return "", err
	}
	return id.ClientID.Core(), nil
}

func clientOfURI(c *x509.Certificate) (core.ClientID, error) {
	found, all, err := namesOf(c)
	if err != nil {
		return "", err
	}
	if len(found) != 1 || all != 1 {
		return "", fmt.Errorf("%w: it has not exactly one name", ErrIdentity)
	}
	escaped, ok := strings.CutPrefix(found[0], clientScheme+":")
	id, err := url.PathUnescape(escaped)
	// One id has one spelling, so that nobody can be two.
	if !ok || err != nil || id == "" || ClientURI(core.ClientID(id)) != found[0] {
		return "", fmt.Errorf("%w: its name is not that of a client", ErrIdentity)
	}
	return core.ClientID(id), nil
}

// CSRMessage is the part of a certificate signing request (RFC 2986) that its key has to sign.
// The key's public half is in MLS encoding. For one request it always is the same bytes.
// core.ErrInvalid, core.ErrUnsupported: the key, or a name, cannot be in a certificate.
func CSRMessage(request *x509.CertificateRequest, algorithm core.KeyAlgorithm, public []byte) ([]byte, error) {
	asked := &handedSignature{}
	_, err := makeCSR(request, algorithm, public, asked)
	if !errors.Is(err, errNoSignature) {
		return nil, err
	}
	return asked.message, nil
}

// CSR is the request, in DER, with the signature (MLS encoding) of the key over CSRMessage.
// core.ErrInvalid: it is not one.
func CSR(request *x509.CertificateRequest, algorithm core.KeyAlgorithm, public, signature []byte) ([]byte, error) {
	return makeCSR(request, algorithm, public, &handedSignature{signature: signature})
}

func makeCSR(request *x509.CertificateRequest, algorithm core.KeyAlgorithm, public []byte, key *handedSignature) ([]byte, error) {
	var err error
	if key.public, err = core.X509PublicKey(algorithm, public); err != nil {
		return nil, err
	}
	// x509 checks the signature with the key.
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w: %w", core.ErrInvalid, err)
	}
	return der, nil
}

var errNoSignature = errors.New("no signature yet")

// A handedSignature is a key for crypto/x509 whose one signature comes from elsewhere: it
// keeps the message for who has none yet.
type handedSignature struct {
	public    crypto.PublicKey
	signature []byte
	message   []byte
}

// Public implements crypto.Signer.
func (h *handedSignature) Public() crypto.PublicKey { return h.public }

// Sign implements crypto.Signer, as one that signs no digest.
func (h *handedSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errNoSignature
}

// SignMessage implements crypto.MessageSigner.
func (h *handedSignature) SignMessage(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	h.message = append([]byte(nil), message...)
	if h.signature == nil {
		return nil, errNoSignature
	}
	return h.signature, nil
}
