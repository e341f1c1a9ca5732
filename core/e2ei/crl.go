// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
)

var (
	// ErrCRL: the bytes are no revocation list, or one of a kind that is not taken:
	// indirect, delta, of attributes or some reasons only, with unknown critical parts, or
	// that of another distribution point.
	ErrCRL = fmt.Errorf("e2ei: invalid revocation list: %w", core.ErrInvalid)
	// ErrCRLSignature: nobody who is known, trusted and named by the list signed it.
	ErrCRLSignature = fmt.Errorf("e2ei: the revocation list is not signed by a known CA: %w", core.ErrDenied)
	// ErrCRLStale: the list is not in date, or older than the one that is there.
	ErrCRLStale = fmt.Errorf("e2ei: the revocation list is out of date: %w", core.ErrDenied)
)

// How far in the future a list, or the certificate of a member who is let in, may begin: one
// that was made just now is used at once, and clocks differ.
const (
	skew       = 5 * time.Minute
	memberSkew = time.Minute
)

// A crl is what is asked of a revocation list.
type crl struct {
	url    string
	der    []byte
	signer [sha256.Size]byte // keyDigest
	list   *x509.RevocationList
	names  []string // of the IssuingDistributionPoint; empty: all that the issuer issued

	usersOnly, casOnly bool

	serials map[string]struct{}
}

// A CRLRegistration says what adding a list did.
type CRLRegistration struct {
	// Dirty: there was a list, and it revoked other certificates. What is known of the
	// state of conversations has to be found out again.
	Dirty bool
	// Expiration is when the next list is due, zero if the list does not say.
	Expiration time.Time
}

// AddCRL adds the revocation list (DER) that was fetched from a distribution point. It must be
// signed by an anchor or an intermediate that is itself valid, which is found by its key
// identifier or its name and has the name of the list's issuer; if it names distribution points,
// this address must be one of them. It takes the place of the issuer's list of that address,
// unless it is older. Two issuers at one address do not touch each other's. Errors: ErrNotReady,
// ErrCRL, ErrCRLSignature, ErrCRLStale, ErrFull, core.ErrTooLarge, core.ErrInvalid for the address.
func (e *Environment) AddCRL(url string, der []byte, at time.Time) (*Environment, *Item, CRLRegistration, error) {
	var none CRLRegistration
	if !e.Ready() {
		return nil, nil, none, ErrNotReady
	}
	l, err := parseCRL(url, der)
	if err != nil {
		return nil, nil, none, err
	}
	if !e.findSigner(l, at) {
		return nil, nil, none, fmt.Errorf("%.80q: %w", url, ErrCRLSignature)
	}
	if !l.inDate(at) {
		return nil, nil, none, fmt.Errorf("%.80q: %w", url, ErrCRLStale)
	}
	done := CRLRegistration{Expiration: l.list.NextUpdate}
	key := l.key()
	old := e.crls[key]
	switch {
	case old == nil && len(e.crls) >= MaxCRLs:
		return nil, nil, none, fmt.Errorf("%w: %d revocation lists", ErrFull, MaxCRLs)
	case old == nil:
		// The issuer may have changed its key.
		for _, other := range e.crls {
			done.Dirty = done.Dirty || l.follows(other) && !maps.Equal(other.serials, l.serials)
		}
	case bytes.Equal(old.der, l.der):
		return e, nil, done, nil
	case l.usersOnly && !old.usersOnly || l.casOnly && !old.casOnly:
		return nil, nil, none, fmt.Errorf("%.80q: %w: of fewer certificates than the one that is there", url, ErrCRL)
	case l.olderThan(old):
		return nil, nil, none, fmt.Errorf("%.80q: %w: a newer one is there", url, ErrCRLStale)
	default:
		done.Dirty = !maps.Equal(old.serials, l.serials)
	}
	n := e.clone()
	n.crls[key] = l
	return n, &Item{ItemCRL, key, l.der}, done, nil
}

// Overdue gives the addresses of the lists of which the next one is due, sorted: until it is
// added, who else was revoked is not known. What a list revoked stays revoked.
func (e *Environment) Overdue(at time.Time) []string {
	var urls []string
	if e != nil {
		for _, l := range e.crls {
			if !l.inDate(at) && !e.followed(l, at) {
				urls = append(urls, l.url)
			}
		}
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}

// followed says whether an issuer that changed its key has a list of now instead of this one.
func (e *Environment) followed(l *crl, at time.Time) bool {
	for _, other := range e.crls {
		if other.follows(l) && other.inDate(at) {
			return true
		}
	}
	return false
}

// follows says whether one list is of the address and the name of another.
func (l *crl) follows(other *crl) bool {
	return l.url == other.url && bytes.Equal(l.list.RawIssuer, other.list.RawIssuer)
}

// revocation says whether the issuer revoked a certificate, and whether a list that is in date
// covers it. What any list of the issuer has is revoked, in date or not, and whatever its
// scope: who keeps the next list from us must not bring a certificate back. The list may be
// signed by another key of the issuer (RFC 5280 section 6.3.3, f), which is one of the same
// name that the same CA certified: parent, nil if the issuer is an anchor.
func (e *Environment) revocation(c, issuer, parent *x509.Certificate, at time.Time) (revoked, known bool) {
	signer, serial := keyDigest(issuer), serialKey(c.SerialNumber)
	for _, l := range e.crls {
		if !bytes.Equal(l.list.RawIssuer, c.RawIssuer) || l.signer != signer && (parent == nil || !e.certified(parent, l)) {
			continue
		}
		if _, ok := l.serials[serial]; ok {
			return true, true
		}
		known = known || l.inDate(at) && l.covers(c)
	}
	return false, known
}

// certified says whether a CA certified the signer of a list.
func (e *Environment) certified(parent *x509.Certificate, l *crl) bool {
	for key, c := range e.intermediates {
		if keyDigest(c) == l.signer && bytes.Equal(c.RawSubject, l.list.RawIssuer) && key == intermediateKey(c, keyDigest(parent)) {
			return true
		}
	}
	return false
}

func (l *crl) covers(c *x509.Certificate) bool {
	ca := c.BasicConstraintsValid && c.IsCA
	if l.usersOnly && ca || l.casOnly && !ca {
		return false
	}
	return len(l.names) == 0 || slices.ContainsFunc(c.CRLDistributionPoints, func(url string) bool { return slices.Contains(l.names, url) })
}

func (l *crl) inDate(at time.Time) bool {
	at = at.Truncate(time.Second)
	return !at.Add(skew).Before(l.list.ThisUpdate) && (l.list.NextUpdate.IsZero() || !at.After(l.list.NextUpdate))
}

func (l *crl) olderThan(old *crl) bool {
	if l.list.ThisUpdate.Before(old.list.ThisUpdate) {
		return true
	}
	return old.list.Number != nil && (l.list.Number == nil || l.list.Number.Cmp(old.list.Number) < 0)
}

func (l *crl) key() string { return hex.EncodeToString(l.signer[:]) + " " + l.url }

// findSigner finds the CA and notes it.
func (e *Environment) findSigner(l *crl, at time.Time) bool {
	for c := range e.cas() {
		if !l.signedBy(c) {
			continue
		}
		if e.anchors[anchorKey(c)] == nil {
			if err := e.path(c, at); err != nil && !errors.Is(err, ErrRevocationUnknown) {
				continue
			}
		} else if checkDates(c, at) != nil {
			continue
		}
		l.signer = keyDigest(c)
		return true
	}
	return false
}

// signedBy asks for the name, too: a list speaks of the certificates of its issuer alone.
func (l *crl) signedBy(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawSubject, l.list.RawIssuer) {
		return false
	}
	if len(l.list.AuthorityKeyId) > 0 && len(c.SubjectKeyId) > 0 && !bytes.Equal(c.SubjectKeyId, l.list.AuthorityKeyId) {
		return false
	}
	return l.list.CheckSignatureFrom(c) == nil
}

// serialKey is the number in binary: that of a list may have a million bytes, and another base
// would take a second.
func serialKey(n *big.Int) string { return string(rune('1'+n.Sign())) + string(n.Bytes()) }

var (
	oidCRLNumber          = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReasonCode         = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidDeltaCRLIndicator  = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint       = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertificateIssuer  = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidAuthorityKeyID     = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSubjectAlternative = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage           = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// parseCRL reads a list and refuses the kinds of which this package would believe too much.
func parseCRL(url string, der []byte) (*crl, error) {
	if url == "" || len(url) > MaxURL {
		return nil, fmt.Errorf("distribution point of %d bytes: %w", len(url), core.ErrInvalid)
	}
	if len(der) > MaxCRL {
		return nil, fmt.Errorf("revocation list of %d bytes: %w", len(der), core.ErrTooLarge)
	}
	der = bytes.Clone(der)
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCRL, err)
	}
	if len(list.Raw) != len(der) {
		return nil, fmt.Errorf("%w: something follows it", ErrCRL)
	}
	switch list.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1: // which crypto/x509 takes in a list
		return nil, fmt.Errorf("%w: signed with %v", ErrCRL, list.SignatureAlgorithm)
	}
	l := &crl{url: url, der: der, serials: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
	seen := map[string]bool{}
	for _, x := range list.Extensions {
		id := x.Id.String()
		switch {
		case seen[id]:
			return nil, fmt.Errorf("%w: extension %s twice", ErrCRL, id)
		case x.Id.Equal(oidDeltaCRLIndicator):
			return nil, fmt.Errorf("%w: a delta list", ErrCRL)
		case x.Id.Equal(oidIssuingPoint):
			if err := l.readIssuingPoint(x.Value); err != nil {
				return nil, err
			}
		case x.Critical && !x.Id.Equal(oidCRLNumber) && !x.Id.Equal(oidAuthorityKeyID):
			return nil, fmt.Errorf("%w: critical extension %s", ErrCRL, id)
		}
		seen[id] = true
	}
	if len(l.names) > 0 && !slices.Contains(l.names, url) {
		return nil, fmt.Errorf("%w: that of another distribution point", ErrCRL)
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, x := range entry.Extensions {
			if x.Id.Equal(oidCertificateIssuer) || x.Critical && !x.Id.Equal(oidReasonCode) {
				return nil, fmt.Errorf("%w: extension %v of an entry", ErrCRL, x.Id)
			}
		}
		l.serials[serialKey(entry.SerialNumber)] = struct{}{}
	}
	// The rest of the entries is not asked for, and takes most of the memory.
	l.list = &x509.RevocationList{
		RawTBSRevocationList: list.RawTBSRevocationList, RawIssuer: list.RawIssuer, AuthorityKeyId: list.AuthorityKeyId,
		Signature: list.Signature, SignatureAlgorithm: list.SignatureAlgorithm,
		Number: list.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
	}
	return l, nil
}

// readIssuingPoint reads an IssuingDistributionPoint (RFC 5280 section 5.2.5).
func (l *crl) readIssuingPoint(der []byte) error {
	var fields []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &fields); err != nil || len(rest) > 0 {
		return fmt.Errorf("%w: its distribution point is malformed", ErrCRL)
	}
	last := -1
	for _, f := range fields {
		if f.Class != asn1.ClassContextSpecific || f.Tag <= last {
			return fmt.Errorf("%w: its distribution point is malformed", ErrCRL)
		}
		last = f.Tag
		set := len(f.Bytes) != 1 || f.Bytes[0] != 0 // of a BOOLEAN
		switch f.Tag {
		case 0:
			var name asn1.RawValue
			rest, err := asn1.Unmarshal(f.Bytes, &name)
			if err != nil || len(rest) > 0 || name.Class != asn1.ClassContextSpecific || name.Tag != 0 {
				return fmt.Errorf("%w: its distribution point has no full name", ErrCRL)
			}
			if l.names, _, _ = uris(name.Bytes); len(l.names) == 0 {
				return fmt.Errorf("%w: its distribution point has no address", ErrCRL)
			}
		case 1:
			l.usersOnly = set
		case 2:
			l.casOnly = set
		case 4, 5:
			if set {
				return fmt.Errorf("%w: indirect, or of attributes", ErrCRL)
			}
		default:
			return fmt.Errorf("%w: of some reasons only, or with unknown field %d", ErrCRL, f.Tag)
		}
	}
	return nil
}

// uris gives the URIs among the GeneralNames that are the content of a sequence, and how many
// names there are; none at all if they are malformed.
func uris(names []byte) (found []string, all int, err error) {
	for ; len(names) > 0; all++ {
		var name asn1.RawValue
		if names, err = asn1.Unmarshal(names, &name); err != nil {
			return nil, 0, err
		}
		if name.Class == asn1.ClassContextSpecific && name.Tag == 6 && !name.IsCompound {
			found = append(found, string(name.Bytes))
		}
	}
	return found, all, nil
}
