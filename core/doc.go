// SPDX-License-Identifier: Apache-2.0

// Package core holds the contracts between the parts of Conclave and the types
// they share: no behaviour of a protocol, only what the protocols stand on.
//
// Three parts can be replaced by an integrator: the [CryptoProvider] (where
// private keys live), the [Keystore] (where state lives) and the
// [CredentialIssuer] (who vouches for a client). Small seams join the rest:
// [SuiteSource], [KeyWrapper], [Authenticator], and Transport in core/client.
// Package coretest holds a conformance suite for each; passing it is the
// definition of the contract.
//
// Rules for the contracts and for KeyWrapper: the context comes first wherever
// a call may leave the process; arguments and results are plain values, so that
// each method can be one message to another process; implementations are safe
// for concurrent use; nil and empty mean the same; slices are neither kept nor
// changed by either side. Nothing is ever added to a published interface: a new
// ability is a new optional interface, found by type assertion.
//
// Package core imports the standard library and golang.org/x/crypto only.
package core
