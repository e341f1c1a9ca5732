// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// RemoveAnchor takes a trust anchor (DER) away, and with it the intermediates that no other one
// vouches for and the lists of CAs that are gone. It gives the next value and the items to
// delete. Without any anchor nothing is checked, as before the first. core.ErrNotFound: it is
// none of the anchors.
func (e *Environment) RemoveAnchor(der []byte) (*Environment, []Item, error) {
	digest := sha256.Sum256(der)
	n, gone := e.keep(func(c *x509.Certificate) bool { return sha256.Sum256(c.Raw) != digest })
	if len(gone) == 0 || gone[0].Kind != ItemAnchor {
		return nil, nil, fmt.Errorf("trust anchor: %w", core.ErrNotFound)
	}
	return n, gone, nil
}

// RemoveCRL takes the lists of a distribution point away, such as one that is there no more.
// Whom they alone revoked is no longer known. core.ErrNotFound: there is none.
func (e *Environment) RemoveCRL(url string) (*Environment, []Item, error) {
	n, gone := e.clone(), []Item(nil)
	for _, key := range slices.Sorted(maps.Keys(n.crls)) {
		if l := n.crls[key]; l.url == url {
			gone = append(gone, Item{ItemCRL, key, l.der})
			delete(n.crls, key)
		}
	}
	if len(gone) == 0 {
		return nil, nil, fmt.Errorf("revocation list of %.80q: %w", url, core.ErrNotFound)
	}
	return n, gone, nil
}

// Prune makes room: it takes away the CAs that have expired, those that had a path by way of
// them alone, and the lists of all that are gone. It gives the next value and the items to
// delete. Of a certificate below them it is no longer known that it is expired, and not a
// stranger's: so it is for an environment that is full ([ErrFull]).
func (e *Environment) Prune(at time.Time) (*Environment, []Item) {
	return e.keep(func(c *x509.Certificate) bool { return !at.After(c.NotAfter) })
}

// keep takes away the CAs that are not wanted, and what depends on them: anchors come first.
func (e *Environment) keep(wanted func(*x509.Certificate) bool) (n *Environment, gone []Item) {
	all := e.clone()
	n = new(Environment).clone()
	for key, c := range all.anchors {
		if wanted(c) {
			n.anchors[key] = c
		}
	}
	for grown := true; grown; {
		grown = false
		for key, c := range all.intermediates {
			if n.intermediates[key] == nil && wanted(c) && n.issuer(c) != nil {
				n.intermediates[key], grown = c, true
			}
		}
	}
	signers := map[[sha256.Size]byte]bool{}
	for c := range n.cas() {
		signers[keyDigest(c)] = true
	}
	for key, l := range all.crls {
		if signers[l.signer] {
			n.crls[key] = l
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all.anchors)) {
		if n.anchors[key] == nil {
			gone = append(gone, Item{ItemAnchor, key, all.anchors[key].Raw})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all.intermediates)) {
		if n.intermediates[key] == nil {
			gone = append(gone, Item{ItemIntermediate, key, all.intermediates[key].Raw})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all.crls)) {
		if n.crls[key] == nil {
			gone = append(gone, Item{ItemCRL, key, all.crls[key].der})
		}
	}
	return n.clone(), gone
}
