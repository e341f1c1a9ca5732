// SPDX-License-Identifier: Apache-2.0

// Package mls is the engine of the Messaging Layer Security protocol (RFC 9420):
// no clock, no network, no store. A [Group] is an immutable value; every
// operation returns the next value and, beside it, a [record.WriteSet] of the records
// that changed. Applications use core/client, which adds transactions, storage
// and delivery; they meet this package in its types.
//
// Where to start, each with an example beside it:
//
//   - a group: [Create], [Join], [JoinExternal]; then [Group.Commit] and
//     [Group.Merge], [Group.Protect], [Group.Process]
//   - a group that follows another: [Group.Reinitialize], [Group.Branch]
//   - from outside, without secrets: [Observe], [ProposeExternal]
//   - proposals of your own: [CustomProposal]
//   - what a client chooses, GREASE and how strict it is about lifetimes among it:
//     [Env], and [Config] for a group
//
// The names are the RFC's. Each check carries the number that the conformance
// list gives it ("LEAF-4"), and refusals name it: see [RuleError]. CONFORMANCE.md has
// the list, with the tests of each rule.
package mls
