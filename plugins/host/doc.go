// SPDX-License-Identifier: Apache-2.0

// Package host starts plugins and gives what they offer as the interfaces of core. Start
// with [Launch].
//
// A plugin is a process: it is trusted with what its parts are trusted with, and with
// nothing else of ours. Its executable is pinned by a SHA-256, only root and we may write
// where it is, its environment has only what the configuration says, of our open files it
// has none (at a start they all get the flag close-on-exec, also for what else this process
// executes), and only this process and it can talk to each other (mutual TLS on a socket in
// a private folder). What it answers is bounded, and refused if it is not an answer to what
// was asked. A plugin that dies or answers no more is started again, and is
// core.ErrUnavailable until it is back; one that died too often is core.ErrClosed besides,
// until it is launched anew, and one that may not be started any more is core.ErrDenied. A
// call on which it died has not happened, or it can be made again, but for
// [core.Keystore.Apply]: that is core.ErrUnknownOutcome if the plugin had the whole batch. A
// plugin ends when the host does, however that ends. What it leaves in its process group is
// killed if the host lives; if not, a plugin of package sdk does that.
package host
