// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// authenticator takes basic credentials, and certificates that the client's own trust
// anchors vouch for, with the names of Wire or a client id of another application.
func authenticator() core.Authenticator { return e2ei.Authenticator{Identify: e2ei.ClientOf} }
