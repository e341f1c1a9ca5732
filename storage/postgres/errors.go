// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/conclave-mls/conclave/core"
)

// fail gives an error its place and its sentinel.
func fail(ctx context.Context, op string, err error) error {
	switch s := sentinel(err); {
	case s == core.ErrUnavailable && ctx.Err() != nil:
		err = fmt.Errorf("%w: %v", ctx.Err(), err) // the call was cancelled, without effect
	case !errors.Is(err, s):
		err = fmt.Errorf("%w: %v", s, err)
	}
	return &core.ProviderError{Provider: "postgres", Op: op, Err: err}
}

// sentinel says what the caller should do about an error.
func sentinel(err error) error {
	if s := core.Kind(err); s != nil {
		return s
	}
	if e := (*net.DNSError)(nil); errors.As(err, &e) && e.IsNotFound {
		return core.ErrNotFound
	}
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		switch {
		case strings.HasPrefix(e.Code, "28"), e.Code == "42501": // authorization, privileges
			return core.ErrDenied
		case e.Code == "3D000": // no such database
			return core.ErrNotFound
		case strings.HasPrefix(e.Code, "22"), e.Code == "42704": // of a parameter in the data source name
			return core.ErrInvalid
		case strings.HasPrefix(e.Code, "42"), strings.HasPrefix(e.Code, "3F"), strings.HasPrefix(e.Code, "XX00"):
			return core.ErrDamaged // a table is gone or not as it should be, or its pages
		}
		return core.ErrUnavailable // see below
	}
	if distrusted(err) { // and no server has answered without TLS
		return core.ErrDenied
	}
	// Time-outs, a disk or memory that is full, too many connections, a server that
	// starts, ends or only reads, serialisation failures, and the network.
	return core.ErrUnavailable
}

// distrusted says that there is no TLS, or none with whom it should be.
func distrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError // by itself with sslmode=verify-ca
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &invalid) ||
		strings.Contains(err.Error(), "server refused TLS connection")
}

// lost says that the connection is broken.
func lost(err error) bool {
	if err == nil {
		return false
	}
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) {
		return e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC" || e.Code == "25006" // not a primary any more
	}
	if e := (net.Error)(nil); errors.As(err, &e) {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}
