// SPDX-License-Identifier: Apache-2.0

// Package drive lets a program in any language script Conclave: one JSON request a
// line in, one JSON reply a line out. Start with [Serve], or with the command
// conclave drive; README.md has the protocol and [Table] the commands.
//
// The commands, their arguments, the replies and the kinds of errors are those of the
// driver of Core Crypto that the interoperability tests use, so that one script can
// drive either. A request names one of several instances; each is a client of its own
// with a store of its own. Requests are answered one after another.
//
// There is no delivery service: what a command would submit is in its reply, and the
// request says what the service answers. What a reply shows is durable.
//
// Whoever writes the requests is trusted with all keys of the instances. Do not offer
// it to a network.
package drive
