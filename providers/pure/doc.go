// SPDX-License-Identifier: Apache-2.0

// Package pure is the cryptography of Conclave in Go: the seven cipher suites
// of RFC 9420 and private keys in software. Start with [New]: a [Provider] is
// both a core.SuiteSource and a core.CryptoProvider.
//
// Primitives come from the standard library, and from circl for X448, Ed448 and
// X25519, where it is faster. HPKE (RFC 9180, base mode) is written once here,
// over any core.Agreer, because the standard library's takes no X448 and no
// context; the tests hold it against the standard library's and circl's.
//
// It promises: keys and signatures have the encodings of RFC 9420 section 5.1;
// a public key is validated before use; bad input is an error that wraps
// core.ErrInvalid or core.ErrTooLarge and never a panic; randomness comes from
// crypto/rand only, which ends the process if the system has none; everything is
// safe for concurrent use.
//
// A key kept here is in the memory of the process: do not use this package for
// keys that must not leave a token. It keeps nothing: whoever generates a key
// stores its Material, and gives it back to OpenKey.
package pure
