// SPDX-License-Identifier: Apache-2.0

// Package delivery is a small reference delivery service for MLS (RFC 9750
// section 5) and its client: HTTP with JSON bodies on TCP or a Unix socket,
// state in a [core.Keystore].
//
// Start with [New] and [Server.Serve] for the service, [Dial] for the client.
//
// What the service does:
//
//   - It hands out each uploaded key package once, and the last-resort one again
//     and again.
//   - It orders what is sent to a group. The first commit for an epoch is
//     accepted; the same bytes again get the same answer again, another commit is
//     refused. A commit, its Welcome and its GroupInfo are published together or
//     not at all: they are one [core.Batch].
//   - It gives every message of a group a sequence number and fans it out to all
//     members, the sender included. A member reads the log of its group from the
//     commit that added it (not included; an external joiner sees its own commit)
//     to the commit that removed it (included), and a cursor for each member is
//     kept here. If it is added again before it has read its removal, it goes on
//     from its cursor and cannot open what was sent in between.
//   - It keeps a Welcome for each joiner until the joiner has taken it, and the
//     newest GroupInfo for those who join by external commit.
//
// What it knows: group ids, epochs and content types (from the header of each
// message, never from a claim beside it), sizes, times, and who is a member. The
// roster is what committers say it is: the service cannot read private commits.
// It sees no plaintext. A GroupInfo is given to any registered client that knows
// the group id, and claiming a key package to any registered client at all.
//
// What not to do with it: there are no quotas and no rate limits, logs are never
// pruned, and long polling sees only what was sent through the same process. A
// registration is for good, and open to all who can reach the service.
package delivery
