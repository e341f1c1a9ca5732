// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"crypto/x509"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
	"github.com/conclave-mls/conclave/providers/localca"
)

// authenticator takes basic credentials, and certificates that the client's own trust
// anchors vouch for, with the names of Wire or with those of package localca.
func authenticator() core.Authenticator { return e2ei.Authenticator{Identify: Identify} }

// Identify reads whose a certificate is: a client id of package localca, which is its only
// name, or what all of Wire's names say. No certificate has both.
func Identify(c *x509.Certificate) (core.ClientID, error) {
	if id, err := localca.ClientID(c); err == nil {
		return id, nil
	}
	leaf, err := e2ei.ParseLeaf(c.Raw)
	if err != nil {
		return "", err
	}
	id, err := leaf.Identity()
	return id.ClientID.Core(), err
}
