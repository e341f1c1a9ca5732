// SPDX-License-Identifier: Apache-2.0

package client_test

import "testing"

// quirks are what the reference does by accident and what is to be done better: the
// section of the specification, and the behaviour that is required here.
var quirks = []point{
	{"1.2 there is no seed to give, of whatever length", quirkNoSeed},
	{"1.2 random bytes are those of the system", quirkSystemsRandom},
	{"1.2 the client sees what is durable and nothing else", together(quirkDurableReads, TestQuirkReadsSeeNothingUncommitted)},
	{"1.3 a finish that fails lets go of everything", together(TestFinishFails, quirkFinishFails)},
	{"2.1 each credential has its own key", TestQuirkEachCredentialHasItsOwnKey},
	{"2.1 a client id given later is the identity, and the key stays", TestQuirkClientIDGivenLater},
	{"2.1 commits are signed with the key of the leaf", TestQuirkSignsWithTheKeyOfTheLeaf},
	{"2.2 the limit counts the key packages that fit", quirkLimitAfterFilter},
	{"2.2 a credential stays when its key packages go", quirkCredentialStays},
	{"2.2 nothing stale is no error", quirkNothingStale},
	{"2.2 stale is what the signature scheme of the suite has replaced", quirkStaleOfScheme},
	{"2.3 whether a conversation exists is not guessed", TestQuirkExistsReportsErrors},
	{"2.3 a child does without its parent", quirkOrphan},
	{"2.3 a wipe takes everything, and the id is free at once", together(quirkWipeTakesAll, quirkWipeAndJoin, TestNoRowsAreLeft)},
	{"2.4 a Welcome that fails leaves the key package, whatever becomes of the transaction", quirkWelcomeFails},
	{"2.5 what was buffered during a join comes with its result", quirkJoinReplays},
	{"2.5 the echo of a join is known before the old group is asked", quirkJoinEcho},
	{"2.7 a conversation that cannot be read is not absent", quirkUnreadable},
	{"2.7 too far ahead and too old are no duplicates", quirkNoDuplicates},
	{"2.7 who is removed renews and replays nothing, and the conversation goes", quirkRemoved},
	{"2.7 our own encrypted commit is known when it comes back", quirkOwnEcho},
	{"2.7 a proposal to join from outside releases the commit that waits for it", TestQuirkJoinProposalReleasesCommit},
	{"2.7 a poisoned buffered message does not hold up a commit", quirkPoison},
	{"2.7 what is buffered is replayed after our own commit", TestReplayAfterOwnCommit},
	{"3.2 a rotation is signed with the key in the leaf that it replaces", quirkRotationSigned},
	{"3.4 a missing transport is noticed before anything is made", together(quirkNoTransport, TestQuirkTransportIsMissedBeforeAnythingIsMade)},
	{"3.4 what is sent again is compared with the latest commit", quirkSecondRetry},
	{"3.4 a commit without an answer stays, and the next one sends it first", quirkUnanswered},
	{"3.5 a renewal that fails does not hold up the commit that won", quirkRenewalFails},
	{"3.5 a rotation that lost is made again, path and credential", quirkRotationAgain},
	{"3.5 of a commit that lost only our own proposals are renewed", quirkRenewsOwn},
	{"4.3 the commit that lacks proposals is durable", quirkBufferedCommit},
	{"5.7 a Remove goes before an Update of the leaf", quirkRemoveFirst},
	{"5.7 the path takes our own Update, not another's", quirkOwnUpdate},
	{"6 a session that cannot be read is in nobody's way", quirkProteusOneUnreadable},
	{"6 a deletion that failed is an error", quirkProteusStoreAway},
	{"6 whether a session exists is not guessed", together(quirkProteusStoreAway, quirkProteusOneUnreadable)},
	{"6.3 a session that there is not has its code", quirkProteusCode},
	{"7.4.1 what is deleted and put again in a transaction is there", together(quirkDeletedAndPut, TestWipeAndAgain)},
	{"7.4.2 a limit counts what is left", quirkLimits},
	{"7.4.3 a transaction that only deletes is not empty", quirkOnlyDeletes},
	{"7.4.4 buffered commits are written with the rest", quirkBufferedCommitInOne},
	{"7.4.5 the same thing kept twice is kept once", quirkKeptOnce},
	{"7.4.6 a transaction that does nothing costs nothing", quirkEmptyIsFree},
}

// TestQuirks is not parallel itself: one of its points sets the random source of the
// process.
func TestQuirks(t *testing.T) { walk(t, quirks) }
