// SPDX-License-Identifier: Apache-2.0

// Package proteus is the engine of Proteus, the double ratchet between two devices that
// Wire's clients speak beside MLS: no clock, no network, no store. A [Session] is an
// immutable value; every operation returns the next value, and [Session.Changes] says
// which records differ between two of them. Applications use core/client, which adds
// transactions and storage; they meet this package in its types.
//
// Where to start, with an example beside it: [GenerateIdentity], [GeneratePreKey] and
// [PreKey.Bundle]; then [SessionFromPreKey], [SessionFromMessage], [Session.Encrypt] and
// [Session.Decrypt].
//
// It reads and writes the bytes of two implementations that are in use, Wire's in
// TypeScript (npm @wireapp/proteus) and its in Rust (within Core Crypto), and opens the
// stored sessions and keys of both. Where those differ it writes what both read, and reads
// what either writes, with two exceptions: public keys of small order or in an encoding
// that is not the canonical one, and CBOR maps that name a known key twice, are refused.
//
// Proteus keys are in software: one key pair signs and agrees, which no token does.
package proteus
