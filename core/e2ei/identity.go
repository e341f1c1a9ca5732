// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	_ "crypto/sha256" // the hashes of the cipher suites
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/conclave-mls/conclave/core"
)

var (
	// ErrIdentity: the certificate does not say whose it is, or says it twice.
	ErrIdentity = fmt.Errorf("e2ei: the certificate does not say whose it is: %w", core.ErrInvalid)
	// ErrUnsupportedKey: the certificate has a key of another algorithm than those of MLS.
	ErrUnsupportedKey = fmt.Errorf("e2ei: unsupported public key: %w", core.ErrUnsupported)
	// ErrWrongKey: the certificate is not that of the signature key beside it, or of who enrols.
	ErrWrongKey = fmt.Errorf("e2ei: the certificate is of another key: %w", core.ErrDenied)
)

var (
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
)

// A Leaf is an end-entity certificate whose key can be that of an MLS client.
type Leaf struct {
	cert      *x509.Certificate
	algorithm core.KeyAlgorithm
	public    []byte
}

// ParseLeaf reads a certificate (DER, up to MaxCertificate bytes). It does not ask who issued it,
// nor what it may be used for: [Environment.Verify] does. Errors: ErrCertificate,
// ErrUnsupportedKey, core.ErrInvalid for a key with which anybody signs, core.ErrTooLarge.
func ParseLeaf(der []byte) (*Leaf, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	return newLeaf(c)
}

func newLeaf(c *x509.Certificate) (*Leaf, error) {
	l := &Leaf{cert: c}
	var err error
	switch key := c.PublicKey.(type) {
	case ed25519.PublicKey:
		l.algorithm, l.public = core.Ed25519, key
	case *ecdsa.PublicKey:
		switch key.Curve.Params().Name {
		case "P-256":
			l.algorithm = core.ECDSAP256
		case "P-384":
			l.algorithm = core.ECDSAP384
		case "P-521":
			l.algorithm = core.ECDSAP521
		default:
			return nil, ErrUnsupportedKey
		}
		if l.public, err = key.Bytes(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
		}
	default:
		return nil, ErrUnsupportedKey
	}
	if _, err := core.X509PublicKey(l.algorithm, l.public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return l, nil
}

// Algorithm is that of the key.
func (l *Leaf) Algorithm() core.KeyAlgorithm { return l.algorithm }

// Public is a copy of the key in its MLS encoding.
func (l *Leaf) Public() []byte { return bytes.Clone(l.public) }

// checkUse is what a leaf must be besides being issued.
func (l *Leaf) checkUse() error {
	c := l.cert
	switch {
	case c.BasicConstraintsValid && c.IsCA:
		return fmt.Errorf("%w: the leaf is a CA", ErrConstraint)
	case bytes.Equal(c.RawIssuer, c.RawSubject):
		return fmt.Errorf("%w: the leaf is its own issuer", ErrConstraint)
	}
	for _, x := range c.Extensions {
		if x.Id.Equal(oidKeyUsage) && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			return fmt.Errorf("%w: the leaf may not sign", ErrConstraint)
		}
	}
	return nil
}

// An X509Identity is what a certificate says of its owner. It is to be believed if the
// certificate holds. Of one without Wire's names, which only [Authenticator.Identify] can
// read, ClientID, Handle and Domain are zero, and DisplayName may be empty.
type X509Identity struct {
	ClientID     ClientID
	Handle       Handle // its URI is as it stands in the certificate
	DisplayName  string
	Domain       string
	Certificate  string // PEM
	SerialNumber string // the content of the DER integer in lower-case hexadecimal
	NotBefore    time.Time
	NotAfter     time.Time
}

// Identity reads whose the certificate is: the client id and the handle from its URIs, the
// display name from CN and the domain from O. Each must be there exactly once, and all be of
// one domain; a display name has no control characters. Other names in it are passed over.
// ErrIdentity; if it is one part that is missing, or there more than once, also [FieldError].
func (l *Leaf) Identity() (X509Identity, error) {
	none := X509Identity{}
	names, _, err := namesOf(l.cert)
	if err != nil {
		return none, err
	}
	id := l.described()
	clients, handles := 0, 0
	for _, name := range names {
		if c, err := ParseClientIDURI(name); err == nil {
			id.ClientID = c
			clients++
		} else if h, err := ParseHandleURI(name); err == nil {
			id.Handle = h
			handles++
		}
	}
	display, displays := l.attribute(oidCommonName)
	domain, domains := l.attribute(oidOrganization)
	for _, part := range []struct {
		field string
		found int
	}{{"client id", clients}, {"handle", handles}, {"display name", displays}, {"domain", domains}} {
		switch {
		case part.found == 0:
			return none, fmt.Errorf("%w: %w", ErrIdentity, &FieldError{part.field, ErrMissing})
		case part.found > 1:
			return none, fmt.Errorf("%w: %w", ErrIdentity, &FieldError{part.field, ErrMismatch})
		}
	}
	if !validText(display) {
		return none, fmt.Errorf("%w: its display name is %.80q", ErrIdentity, display)
	}
	id.DisplayName, id.Domain = display, domain
	// EqualFold takes some letters that no domain has for those of ASCII.
	if !validDomain(id.Domain) || !strings.EqualFold(id.Domain, id.ClientID.Domain) || !strings.EqualFold(id.Domain, id.Handle.Domain()) {
		return none, fmt.Errorf("%w: its names are of several domains", ErrIdentity)
	}
	return id, nil
}

// described is what every certificate has.
func (l *Leaf) described() X509Identity {
	return X509Identity{
		Certificate:  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.cert.Raw})),
		SerialNumber: serialNumber(l.cert), NotBefore: l.cert.NotBefore, NotAfter: l.cert.NotAfter,
	}
}

// namesOf reads the URIs as they are written: package url writes some of them otherwise. It
// also counts the names of all kinds.
func namesOf(c *x509.Certificate) (found []string, all int, err error) {
	for _, x := range c.Extensions {
		if !x.Id.Equal(oidSubjectAlternative) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(x.Value, &names); err == nil && len(rest) == 0 {
			if found, all, err := uris(names.Bytes); err == nil {
				return found, all, nil
			}
		}
		return nil, 0, fmt.Errorf("%w: malformed names", ErrIdentity)
	}
	return nil, 0, fmt.Errorf("%w: no alternative names", ErrIdentity)
}

// attribute gives the last one of a type in the subject, and how many there are.
func (l *Leaf) attribute(id asn1.ObjectIdentifier) (text string, n int) {
	for _, a := range l.cert.Subject.Names {
		if a.Type.Equal(id) {
			text, _ = a.Value.(string) // crypto/x509 takes nothing else, and gives UTF-8
			n++
		}
	}
	return text, n
}

func serialNumber(c *x509.Certificate) string {
	b := c.SerialNumber.Bytes()
	if len(b) == 0 || b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return hex.EncodeToString(b)
}

// A WireIdentity is what is shown of a client, whichever its credential.
type WireIdentity struct {
	ClientID string // empty: the credential has none that is text
	// Status is valid for a basic credential, for which nobody vouches, and without a trust
	// anchor: see [Authenticator.State] for who is verified.
	Status         DeviceStatus
	Thumbprint     string // empty: the key has none
	CredentialType core.CredentialType
	X509           *X509Identity // nil: a basic credential
}

// A Member is a client of a group, or of one before joining: what its leaf node says.
type Member struct {
	Credential   core.Credential
	SignatureKey []byte // MLS encoding
}

// Identity reads whose a member's credential is, and how it stands now. Errors, for an X.509
// credential alone: those of [ParseLeaf], ErrWrongKey, ErrIdentity; core.ErrUnsupported for a
// credential of another type.
func (a Authenticator) Identity(m Member, suite core.SuiteParameters, at time.Time) (WireIdentity, error) {
	id := WireIdentity{Status: StatusValid, CredentialType: m.Credential.Type}
	switch m.Credential.Type {
	case core.CredentialBasic:
		if utf8.Valid(m.Credential.Identity) {
			id.ClientID = string(m.Credential.Identity)
		}
	case core.CredentialX509:
		l, err := leafOf(m)
		if err != nil {
			return WireIdentity{}, err
		}
		client, x, err := a.read(l)
		if err != nil {
			return WireIdentity{}, err
		}
		if utf8.ValidString(string(client)) {
			id.ClientID = string(client)
		}
		id.Status, id.X509 = statusOf(a.Environment.verify(m, l, at)), &x
	default:
		return WireIdentity{}, fmt.Errorf("identity of credential type %d: %w", m.Credential.Type, core.ErrUnsupported)
	}
	id.Thumbprint, _ = Thumbprint(suite, m.SignatureKey)
	return id, nil
}

// leafOf is the certificate of a member, of the key that its leaf node has.
func leafOf(m Member) (*Leaf, error) {
	if len(m.Credential.Certificates) == 0 {
		return nil, fmt.Errorf("%w: the credential is empty", ErrCertificate)
	}
	l, err := ParseLeaf(m.Credential.Certificates[0])
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(l.public, m.SignatureKey) {
		return nil, ErrWrongKey
	}
	return l, nil
}

// Thumbprint is the MLS thumbprint of a signature key (MLS encoding) of a suite: RFC 7638 with the
// hash of the suite, in base64url. It is not that of ACME, which is always SHA-256.
// core.ErrUnsupported: JOSE does not know the key; core.ErrInvalid: it is none of the suite.
func Thumbprint(suite core.SuiteParameters, public []byte) (string, error) {
	var hash crypto.Hash
	switch suite.Hash {
	case "SHA-256":
		hash = crypto.SHA256
	case "SHA-384":
		hash = crypto.SHA384
	case "SHA-512":
		hash = crypto.SHA512
	default:
		return "", fmt.Errorf("thumbprint with hash %q: %w", suite.Hash, core.ErrUnsupported)
	}
	text := base64.RawURLEncoding.EncodeToString
	var jwk string // the members that are needed, in the order of their names
	coordinate, crv := 0, ""
	switch suite.Signature {
	case core.Ed25519, core.Ed448:
		if size := map[core.KeyAlgorithm]int{core.Ed25519: 32, core.Ed448: 57}[suite.Signature]; len(public) != size {
			return "", fmt.Errorf("%s key of %d bytes: %w", suite.Signature, len(public), core.ErrInvalid)
		}
		jwk = fmt.Sprintf(`{"crv":%q,"kty":"OKP","x":%q}`, suite.Signature, text(public))
	case core.ECDSAP256:
		coordinate, crv = 32, "P-256"
	case core.ECDSAP384:
		coordinate, crv = 48, "P-384"
	case core.ECDSAP521:
		coordinate, crv = 66, "P-521"
	default:
		return "", fmt.Errorf("thumbprint of a key of %q: %w", suite.Signature, core.ErrUnsupported)
	}
	if coordinate > 0 {
		if len(public) != 1+2*coordinate || public[0] != 4 {
			return "", fmt.Errorf("%s key of %d bytes: %w", suite.Signature, len(public), core.ErrInvalid)
		}
		jwk = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, crv, text(public[1:1+coordinate]), text(public[1+coordinate:]))
	}
	h := hash.New()
	h.Write([]byte(jwk))
	return text(h.Sum(nil)), nil
}
