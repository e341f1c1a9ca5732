// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// kind is the type of the credential that we use for a suite: a certificate, once there is
// one.
func (m *Messenger) kind(ctx context.Context, suite core.SuiteID) (core.CredentialType, error) {
	_, err := m.client.ClientPublicKey(ctx, suite, core.CredentialX509)
	switch {
	case errors.Is(err, client.ErrEnrollmentNotDone):
		return core.CredentialBasic, nil
	case err != nil:
		return 0, err
	}
	return core.CredentialX509, nil
}

// suiteOf is the suite of a conversation or, if nobody knows it, that of new ones.
func (m *Messenger) suiteOf(ctx context.Context, id core.ConversationID) core.SuiteID {
	info, err := m.client.Info(ctx, id)
	if err != nil {
		return m.suite
	}
	return info.Suite
}

// inDate says of a credential that it is a certificate that has not expired.
func inDate(c core.Credential) bool {
	cert, err := certificate(c)
	return err == nil && time.Now().Before(cert.NotAfter)
}

// certificate is that of an X.509 credential.
func certificate(c core.Credential) (*x509.Certificate, error) {
	if c.Type != core.CredentialX509 || len(c.Certificates) == 0 {
		return nil, core.ErrNotFound
	}
	return x509.ParseCertificate(c.Certificates[0])
}
