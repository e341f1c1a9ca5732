// SPDX-License-Identifier: Apache-2.0

// Package host starts plugins and gives what they offer as the interfaces of core. Start
// with [Launch].
//
// A plugin is a process: it is trusted with what its parts are trusted with, and with
// nothing else of ours. Its executable is pinned by a SHA-256, its environment has only
// what the configuration says, and only this process and it can talk to each other (mutual
// TLS on a socket in a private folder). A plugin that dies is started again, and is
// core.ErrUnavailable until it is back. A call on which it died has not happened, or it
// can be made again, but for [core.Keystore.Apply]: that is core.ErrUnknownOutcome if the
// plugin had the whole batch. A plugin ends when the host does, however that ends.
package host
