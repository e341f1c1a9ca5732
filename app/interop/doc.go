// SPDX-License-Identifier: Apache-2.0

// Package interop is the engine as a server for the MLS working group's
// interoperability harness: a test driver calls it and other MLS stacks over gRPC,
// has them play the members of one group, and compares what they say. Start with
// [New] and [Server.Serve]; the wire contract is package mlsclient.
//
// It promises that every call of the contract works in every cipher suite of RFC
// 9420, that a call that fails changes nothing that the driver can see, and that
// nothing a driver sends makes it panic or grow without bounds.
//
// It is for tests. It keeps everything in memory, gives private keys to whoever
// asks, as the contract has it, and does not know its callers: do not put it
// where a stranger can reach it, and do not hold real conversations through it.
package interop
