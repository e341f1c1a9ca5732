// SPDX-License-Identifier: Apache-2.0

// Package hsm keeps private keys in a PKCS#11 token: signature keys of all five schemes
// of RFC 9420, keys for HPKE, and the key that wraps the keystore's data keys. No private
// key is ever in this process, and nothing ever falls back to software.
//
// [Open] finds a token by an RFC 7512 URI, in a module that the process loads once; what
// is opened shares one login and a bounded pool of sessions. [Token.Provider] is the
// core.CryptoProvider, [Token.Wrapper] the core.KeyWrapper, [Token.Probe] says what the
// token can do. Errors are [Error]s: match them with errors.Is against the errors of this
// package or of core.
//
// Without cgo, or with the build tag nohsm, everything compiles and Open is ErrNotBuilt.
//
// # What a failing token does
//
// A call that the token cannot serve is [ErrTokenUnavailable] within the deadline of its
// context; meanwhile the token is looked for, and when it is back, work goes on without a
// restart. A PIN that a token refused is never tried again, not after a restart either:
// see [Config].
package hsm
