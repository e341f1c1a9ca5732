// SPDX-License-Identifier: Apache-2.0

// Package client is what an application imports: encrypted group conversations
// behind transactions. Start with [Open], make an identity with
// [Transaction.InitMLS], then [Transaction.NewConversation] or
// [Transaction.ProcessWelcome].
//
// What a [Transaction] does is buffered and becomes durable as one write when it
// finishes, or not at all. An operation that needs the delivery service's answer,
// such as [Conversation.AddMembers], is a boundary: it makes everything so far
// durable together with the commit, lets go of every conversation, asks the
// service, and applies the answer at once. What comes after it belongs to a new
// segment; an abort, an error, a panic or a cancellation undoes the open segment
// only. The methods that are boundaries say so. Who wants all or nothing stages a
// commit instead, see [Conversation.StageCommit]: it is sent after the transaction, and
// its outcome is an event.
//
// What comes from the delivery service is for [Transaction.ProcessWelcome], first, and
// [Transaction.DecryptMessage]; [All] has what one message makes readable.
//
// Who joins later may read what was said before, if the members share it: see
// [Conversation.EnableHistorySharing] and [OpenHistory].
//
// Credentials may be X.509 certificates, of a PKI environment ([Transaction.RegisterTrustAnchor])
// that is staged with a transaction like everything else; [View.E2EIState] says whether all
// in a conversation are who they say.
//
// For a certificate, see [Transaction.BeginIssue] and [Client.Issue], which drive any issuer,
// or [Transaction.NewEnrollment]; for whom to trust [Transaction.RegisterTrustAnchor].
//
// What it promises:
//
//   - A commit is durable before it is sent and is dropped only when another
//     commit of its epoch was processed, or when the service refused it for good
//     the first time it was submitted. After a crash or an unknown answer
//     [Client.Resume] asks the service and sends the same bytes again.
//   - Nothing that leaves the process repeats a key and nonce, whatever crashes.
//   - What a commit was for outlives it: where another member's commit wins, the changes
//     that are left are committed again, also after a crash, and our proposals are
//     proposed again; Config.NoRenewal leaves that to the application.
//   - What [Conversation.Send] accepted is delivered at least once, in order, with
//     the same idempotency key each time, or reported as [Undelivered], once at most: a
//     process that ends just then loses an [Event]. [Client.Deliver] tells its caller.
//   - Reads through the [Client] and its [View] see what is durable and nothing else.
//   - Who comes into a conversation is for the application to decide: [Admission].
//
// What not to do: hand out ciphertexts of [Conversation.Encrypt] before the
// transaction is durable; start a transaction within a transaction; keep a
// [Conversation] beyond its transaction; copy the store of a running client.
package client
