// SPDX-License-Identifier: Apache-2.0

// Package e2ei is the engine of end-to-end identity: how an MLS client of Wire comes to an
// X.509 certificate that says whose it is. It has no clock, no network and no store.
// Applications use core/client and providers/acme; they meet this package in its types.
//
// Where to start: [ClientID] and [Handle], the names that stand in a certificate, with
// [ParseClientID] and [NewHandle].
package e2ei
