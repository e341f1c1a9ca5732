// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// What an [Environment] takes at most. Sizes are in bytes.
const (
	MaxAnchors       = 16
	MaxIntermediates = 64
	MaxCRLs          = 32
	MaxCertificate   = 16 << 10
	MaxPEM           = 256 << 10
	MaxCRL           = 1<<20 - 1<<12 // a record of a store, with what is put around it
	MaxURL           = 2048          // of a distribution point

	maxRSA = 8192 // bits: of more, one signature takes too long to check
)

var (
	// ErrNotReady: the environment has no trust anchor yet.
	ErrNotReady = fmt.Errorf("e2ei: no trust anchor is registered: %w", core.ErrUnavailable)
	// ErrRegistered: the trust anchor is there already. Nothing has to be done.
	ErrRegistered = fmt.Errorf("e2ei: the trust anchor is already registered: %w", core.ErrDenied)
	// ErrFull: there is no room for more. See [Environment.Prune].
	ErrFull = fmt.Errorf("e2ei: the environment is full: %w", core.ErrTooLarge)
	// ErrCertificate: the bytes are no certificate, or not one of the kind that is needed.
	ErrCertificate = fmt.Errorf("e2ei: invalid certificate: %w", core.ErrInvalid)
)

// An ItemKind says what an [Item] is.
type ItemKind uint8

// The kinds. The numbers are stored.
const (
	ItemAnchor       ItemKind = 1
	ItemIntermediate ItemKind = 2
	ItemCRL          ItemKind = 3
)

// An Item is what is stored of an environment: one certificate or list. It replaces the
// stored item of its Kind and Key.
type Item struct {
	Kind ItemKind
	// Key is the SHA-256 of an anchor; the SKI and AKI of an intermediate, joined by a
	// colon, a space and the SHA-256 of the key that signed it; or of a list the SHA-256 of
	// its issuer's key, a space and the address of the distribution point. Digests and
	// identifiers are in lower-case hexadecimal.
	Key string
	DER []byte
}

// An Environment is whom a client trusts: trust anchors, intermediates and revocation
// lists. It is immutable: what is added gives a new value and the [Item] to store with it
// (nil: nothing changes), so that both can be staged with a transaction. The zero value and
// nil have no anchor: no certificate is checked then. It is safe for concurrent use.
type Environment struct {
	anchors       map[string]*x509.Certificate
	intermediates map[string]*x509.Certificate
	crls          map[string]*crl

	roots, pool *x509.CertPool // the same certificates for crypto/x509
}

// NewEnvironment is the environment of stored items, in any order. What they are was checked
// when they were added; core.ErrDamaged: they are not such items.
func NewEnvironment(items []Item) (*Environment, error) {
	e := new(Environment).clone()
	for _, kind := range []ItemKind{ItemAnchor, ItemIntermediate, ItemCRL} {
		for _, item := range items {
			if item.Kind != kind {
				continue
			}
			if err := e.load(item); err != nil {
				return nil, fmt.Errorf("stored item %d %.80q: %w: %w", item.Kind, item.Key, core.ErrDamaged, err)
			}
		}
		e = e.clone() // with the pools, in which the signers of lists are found
	}
	if n := len(e.anchors) + len(e.intermediates) + len(e.crls); n != len(items) {
		return nil, fmt.Errorf("%d stored items are %d: %w", len(items), n, core.ErrDamaged)
	}
	return e, nil
}

func (e *Environment) load(item Item) error {
	if item.Kind == ItemCRL {
		_, address, _ := strings.Cut(item.Key, " ")
		l, err := parseCRL(address, item.DER)
		if err != nil {
			return err
		}
		for c := range e.cas() {
			// The signature was good when it was added. The certificate may be a renewed one,
			// with which no lists are signed any more.
			if l.signer = keyDigest(c); l.key() == item.Key {
				e.crls[item.Key] = l
				return nil
			}
		}
		return ErrCRLSignature
	}
	c, err := parseCA(item.DER)
	if err != nil {
		return err
	}
	key, certificates := anchorKey(c), e.anchors
	if item.Kind == ItemIntermediate {
		var issuer [sha256.Size]byte
		_, text, _ := strings.Cut(item.Key, " ")
		digest, _ := hex.DecodeString(text) // what is none makes another key
		copy(issuer[:], digest)
		key, certificates = intermediateKey(c, issuer), e.intermediates
	}
	if key != item.Key {
		return fmt.Errorf("it is of %.80q", key)
	}
	certificates[key] = c
	return nil
}

// clone is a value of its own. It may be changed until the next clone.
func (e *Environment) clone() *Environment {
	if e == nil {
		e = &Environment{}
	}
	n := &Environment{map[string]*x509.Certificate{}, map[string]*x509.Certificate{}, map[string]*crl{}, x509.NewCertPool(), x509.NewCertPool()}
	maps.Copy(n.anchors, e.anchors)
	maps.Copy(n.intermediates, e.intermediates)
	maps.Copy(n.crls, e.crls)
	// In one order, so that one environment always finds the same paths.
	for _, k := range slices.Sorted(maps.Keys(n.anchors)) {
		n.roots.AddCert(n.anchors[k])
	}
	for _, k := range slices.Sorted(maps.Keys(n.intermediates)) {
		n.pool.AddCert(n.intermediates[k])
	}
	return n
}

// Ready says whether there is a trust anchor.
func (e *Environment) Ready() bool { return e != nil && len(e.anchors) > 0 }

// cas gives the anchors and then the intermediates, always in the same order.
func (e *Environment) cas() iter.Seq[*x509.Certificate] {
	return func(yield func(*x509.Certificate) bool) {
		for _, certificates := range []map[string]*x509.Certificate{e.anchors, e.intermediates} {
			for _, key := range slices.Sorted(maps.Keys(certificates)) {
				if !yield(certificates[key]) {
					return
				}
			}
		}
	}
}

// issuer is a CA of the environment that has signed a certificate; nil: none has.
func (e *Environment) issuer(c *x509.Certificate) *x509.Certificate {
	for ca := range e.cas() {
		if bytes.Equal(ca.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(ca) == nil {
			return ca
		}
	}
	return nil
}

// AddAnchor adds a trust anchor: a certificate of a CA that is signed by itself and in date.
// Errors: ErrRegistered, ErrCertificate, ErrBadSignature, ErrExpired, ErrNotYetValid,
// ErrFull, core.ErrTooLarge.
func (e *Environment) AddAnchor(der []byte, at time.Time) (*Environment, *Item, error) {
	c, err := parseCA(der)
	if err != nil {
		return nil, nil, fmt.Errorf("trust anchor: %w", err)
	}
	n, key := e.clone(), anchorKey(c)
	switch {
	case n.anchors[key] != nil:
		return nil, nil, ErrRegistered
	case len(n.anchors) >= MaxAnchors:
		return nil, nil, fmt.Errorf("%w: %d trust anchors", ErrFull, MaxAnchors)
	case !bytes.Equal(c.RawIssuer, c.RawSubject):
		return nil, nil, fmt.Errorf("trust anchor: %w: it is not its own issuer", ErrCertificate)
	case c.CheckSignatureFrom(c) != nil:
		return nil, nil, fmt.Errorf("trust anchor: %w", ErrBadSignature)
	}
	if err := checkDates(c, at); err != nil {
		return nil, nil, fmt.Errorf("trust anchor: %w", err)
	}
	n.anchors[key] = c
	return n.clone(), &Item{ItemAnchor, key, c.Raw}, nil
}

// AddIntermediate adds the certificate of a CA that has a path to an anchor, by way of the
// intermediates that are there: of a chain, add the last one first. A trust anchor, or what is
// there already, changes nothing: some CAs repeat their root. Of two certificates of one key
// and one issuer the one that expires later stays. Errors: ErrNotReady, ErrCertificate,
// core.ErrTooLarge, core.ErrDenied for another CA of the same issuer, SKI and AKI, and those of
// [Environment.Verify] but for ErrRevocationUnknown.
func (e *Environment) AddIntermediate(der []byte, at time.Time) (*Environment, *Item, error) {
	if !e.Ready() {
		return nil, nil, ErrNotReady
	}
	c, err := parseCA(der)
	if err != nil {
		return nil, nil, fmt.Errorf("intermediate: %w", err)
	}
	if e.anchors[anchorKey(c)] != nil {
		return e, nil, nil
	}
	if len(c.SubjectKeyId) == 0 {
		return nil, nil, fmt.Errorf("intermediate: %w: it has no subject key identifier", ErrCertificate)
	}
	if err := e.path(c, at); err != nil && !errors.Is(err, ErrRevocationUnknown) {
		return nil, nil, fmt.Errorf("intermediate: %w", err)
	}
	// A CA chooses identifiers and names itself. What another key has signed has its own place,
	// so that nobody puts out of it what others vouch for.
	var issuer [sha256.Size]byte
	if ca := e.issuer(c); ca != nil {
		issuer = keyDigest(ca)
	}
	key := intermediateKey(c, issuer)
	old := e.intermediates[key]
	if old == nil && len(e.intermediates) >= MaxIntermediates {
		return nil, nil, fmt.Errorf("%w: %d intermediates", ErrFull, MaxIntermediates)
	}
	if old != nil {
		if !bytes.Equal(old.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) || !bytes.Equal(old.RawSubject, c.RawSubject) {
			return nil, nil, fmt.Errorf("intermediate: another one has its identifiers: %w", core.ErrDenied)
		}
		if !c.NotAfter.After(old.NotAfter) {
			return e, nil, nil
		}
	}
	n := e.clone()
	n.intermediates[key] = c
	return n.clone(), &Item{ItemIntermediate, key, c.Raw}, nil
}

// VerifyIssued is the [Verifier] of an enrolment: the leaf has a path by way of the
// intermediates of the reply. One that has no path itself, such as what an old root has signed
// of a new one, is passed over. The environment does not change. Errors: those of
// [Environment.AddIntermediate] but for core.ErrDenied, [Environment.Verify] but for
// ErrRevocationUnknown, and [ParseLeaf].
func (e *Environment) VerifyIssued(leaf *x509.Certificate, intermediates []*x509.Certificate, now time.Time) error {
	for _, c := range slices.Backward(intermediates) {
		n, _, err := e.AddIntermediate(c.Raw, now)
		switch {
		case err == nil:
			e = n
		case !errors.Is(err, core.ErrDenied):
			return err
		}
	}
	l, err := ParseLeaf(leaf.Raw)
	if err != nil {
		return err
	}
	if err := e.Verify(l, now); !errors.Is(err, ErrRevocationUnknown) {
		return err
	}
	return nil
}

// NewDistributionPoints gives the addresses of revocation lists that certificates (DER) name
// and of which no list is registered: each once, in the order in which they are named. What
// is no certificate or no absolute address is passed over. Whoever fetches chooses the
// schemes to follow: the certificates may be a stranger's.
func (e *Environment) NewDistributionPoints(certificates ...[]byte) []string {
	known := map[string]bool{}
	if e != nil {
		for _, l := range e.crls {
			known[l.url] = true
		}
	}
	var urls []string
	for _, der := range certificates {
		c, err := parseCertificate(der)
		if err != nil {
			continue
		}
		for _, address := range c.CRLDistributionPoints {
			if u, err := url.Parse(address); err == nil && u.IsAbs() && len(address) <= MaxURL && !known[address] {
				known[address] = true
				urls = append(urls, address)
			}
		}
	}
	return urls
}

// Lists gives the addresses of the registered lists, sorted.
func (e *Environment) Lists() []string {
	var urls []string
	if e != nil {
		for _, l := range e.crls {
			urls = append(urls, l.url)
		}
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}

// maxPoints is how many lists one certificate has fetched at most.
const maxPoints = 4

// MissingLists gives the addresses of revocation lists that are not registered, and that the
// CAs of the environment name, or members whose certificates hold but for such a list: what a
// stranger names is left out. The CAs' are first, then those that the most certificates name;
// of one certificate there are no more than four, and of all no more than MaxCRLs, so that
// nobody keeps the lists of others away. Whoever fetches chooses the schemes and the networks.
func (e *Environment) MissingLists(members iter.Seq[Member], at time.Time) []string {
	if !e.Ready() {
		return nil
	}
	var urls []string
	names := map[string]int{} // how many certificates name it
	add := func(der []byte) {
		more := e.NewDistributionPoints(der)
		for _, u := range more[:min(len(more), maxPoints)] {
			if names[u]++; names[u] == 1 {
				urls = append(urls, u)
			}
		}
	}
	for c := range e.cas() {
		add(c.Raw)
	}
	first := len(urls)
	seen := map[[sha256.Size]byte]bool{} // somebody is in many conversations
	for m := range members {
		if m.Credential.Type != core.CredentialX509 || len(m.Credential.Certificates) == 0 {
			continue
		}
		der := m.Credential.Certificates[0]
		digest := sha256.Sum256(der)
		if seen[digest] {
			continue
		}
		seen[digest] = true
		if len(e.NewDistributionPoints(der)) == 0 {
			continue
		}
		if l, err := leafOf(m); err != nil {
			continue
		} else if err := e.verify(m, l, at); err != nil && !errors.Is(err, ErrRevocationUnknown) {
			continue
		}
		add(der)
	}
	slices.SortStableFunc(urls[first:], func(a, b string) int { return names[b] - names[a] })
	return urls[:min(len(urls), MaxCRLs)]
}

// Dump gives what the environment holds as PEM, in a stable order; lists as "X509 CRL".
func (e *Environment) Dump() (anchors, intermediates, crls []string) {
	e = e.clone()
	text := func(label string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	for _, k := range slices.Sorted(maps.Keys(e.anchors)) {
		anchors = append(anchors, text("CERTIFICATE", e.anchors[k].Raw))
	}
	for _, k := range slices.Sorted(maps.Keys(e.intermediates)) {
		intermediates = append(intermediates, text("CERTIFICATE", e.intermediates[k].Raw))
	}
	for _, k := range slices.Sorted(maps.Keys(e.crls)) {
		crls = append(crls, text("X509 CRL", e.crls[k].der))
	}
	return anchors, intermediates, crls
}

// ParsePEM reads the certificates of a PEM text, at least one and nothing else, as DER. Text
// around them is passed over, a damaged block is not. ErrCertificate, core.ErrTooLarge.
func ParsePEM(text []byte) ([][]byte, error) {
	certificates, err := readPEM(text, false)
	var ders [][]byte
	for _, c := range certificates {
		ders = append(ders, c.Raw)
	}
	return ders, err
}

// readPEM also refuses, if it is strict, whatever but space is around the certificates.
func readPEM(text []byte, strict bool) ([]*x509.Certificate, error) {
	if len(text) > MaxPEM {
		return nil, fmt.Errorf("PEM of %d bytes: %w", len(text), core.ErrTooLarge)
	}
	begin := []byte("-----BEGIN")
	begun := bytes.Count(text, begin)
	var certificates []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if strict && !bytes.HasPrefix(rest, begin) {
			return nil, fmt.Errorf("%w: something is around it", ErrCertificate)
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, fmt.Errorf("%w: a PEM block of %.40q", ErrCertificate, block.Type)
		}
		c, err := parseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 || len(certificates) != begun {
		return nil, fmt.Errorf("%w: %d of %d PEM blocks can be read", ErrCertificate, len(certificates), begun)
	}
	return certificates, nil
}

func parseCertificate(der []byte) (*x509.Certificate, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("certificate of %d bytes: %w", len(der), core.ErrTooLarge)
	}
	c, err := x509.ParseCertificate(bytes.Clone(der))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return c, nil
}

func parseCA(der []byte) (*x509.Certificate, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("%w: it is not that of a CA", ErrCertificate)
	}
	if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
		return nil, fmt.Errorf("RSA key of %d bits: %w", key.N.BitLen(), core.ErrTooLarge)
	}
	return c, nil
}

func anchorKey(c *x509.Certificate) string {
	digest := sha256.Sum256(c.Raw)
	return hex.EncodeToString(digest[:])
}

func intermediateKey(c *x509.Certificate, issuer [sha256.Size]byte) string {
	return hex.EncodeToString(c.SubjectKeyId) + ":" + hex.EncodeToString(c.AuthorityKeyId) + " " + hex.EncodeToString(issuer[:])
}

// keyDigest names the key of a CA: certificates of one key sign the same lists.
func keyDigest(c *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(c.RawSubjectPublicKeyInfo)
}
