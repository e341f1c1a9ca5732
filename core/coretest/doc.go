// SPDX-License-Identifier: Apache-2.0

// Package coretest holds the conformance suites: what an implementation of a
// contract in package core must pass. Each takes a constructor and runs in the
// implementation's own test:
//
//	func TestStore(t *testing.T) {
//		coretest.TestKeystore(t, func(t *testing.T) core.Keystore { return openMine(t) })
//	}
//
// For a store that outlives its process, TestDurableKeystore does more; for what the
// client does when the connection to it breaks, TestFaultyKeystore.
//
// A program that is no test gets the same as a list of [Check]: see [KeystoreChecks].
//
// The suites are the definition of the contracts in code. Each is itself tested
// against deliberately wrong implementations, which it must catch.
package coretest
