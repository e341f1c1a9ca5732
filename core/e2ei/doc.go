// SPDX-License-Identifier: Apache-2.0

// Package e2ei is the engine of end-to-end identity: how an MLS client of Wire comes to an
// X.509 certificate that says whose it is. It has no clock, no network and no store.
// Applications use core/client and providers/acme; they meet this package in its types.
//
// Where to start: [ClientID] and [Handle], the names that stand in a certificate, with
// [ParseClientID] and [NewHandle]; then [New], an enrolment, which [Enrollment.Next] leads
// through ACME (RFC 8555) with Wire's two challenges. An enrolment is over with its first
// certificate or refusal: whoever tries again makes a new one. [Environment] is whom a client
// trusts, and [Authenticator] says by it who the members of a group are and whether they are
// verified. An application with other names in its certificates than Wire's sets
// [Authenticator.Identify].
//
// The MLS key stays where it is: the engine asks for one signature over bytes it gives out
// ([Enrollment.CSRMessage]). The ACME account has a key of its own, made for the enrolment
// and wiped with it. Whoever brings the replies sees to TLS, time limits and retries, reads
// at most [MaxReply] bytes, follows no redirects, and logs neither requests nor tokens.
package e2ei
