// SPDX-License-Identifier: Apache-2.0

package client_test

import "testing"

// dangers are the mistakes that are made most easily, by their number in the
// specification. 24 to 26 and parts of 4 and 27 belong to certificates: see testdata/behaviour.txt.
var dangers = []point{
	{"1 what is buffered is a result and stays", dangerBuffered},
	{"2 the buffered commit is kept", quirkBufferedCommit},
	{"3 delete and then save in one transaction", together(quirkDeletedAndPut, quirkWipeAndJoin, dangerBufferAfterReplay)},
	{"4 an abort leaves the client as it was", together(dangerAbort, TestProteusAbort)},
	{"5 everything is let go on every path", together(TestUndone, quirkFinishFails, dangerSlot)},
	{"6 a commit is durable before it is sent", dangerDurableFirst},
	{"7 no answer is no rejection", dangerUnknown},
	{"8 a retry in a new epoch commits what is left", together(dangerRetry, TestRace)},
	{"9 nothing is held while the service is asked", dangerNothingHeld},
	{"10 duplicates are known by what they are", together(dangerDuplicates, TestDuplicatesAndLatecomers)},
	{"11 only the next epoch is buffered", dangerFarFuture},
	{"12 replay has an order, no recursion, and ends when we are removed", together(dangerReplayOrder, dangerReplayRemoved, dangerReplayLater)},
	{"13 a poisoned message does not block a commit", quirkPoison},
	{"14 a first join replays, a rejoin keeps nothing old", together(quirkJoinReplays, dangerRejoinBuffer, TestBufferAfterRejoin)},
	{"15 a join that waits blocks a new conversation and a Welcome", dangerJoinBlocks},
	{"16 a Welcome that fails uses nothing up", together(quirkWelcomeFails, TestWelcome)},
	{"17 filters before limits", quirkLimitAfterFilter},
	{"18 key packages go, credentials in use do not", quirkCredentialStays},
	{"19 the same key packages again", methodKeyPackages},
	{"20 the leaf's key signs, not the newest", TestQuirkSignsWithTheKeyOfTheLeaf},
	{"21 prekeys go with the session that used them", dangerPreKeys},
	{"22 an error is not absence", together(TestQuirkExistsReportsErrors, quirkUnreadable, quirkProteusStoreAway)},
	{"23 batched encryption passes unknown sessions over", TestProteusBatch},
	{"27 rotation in its order loses nobody", dangerRotationOrder},
	{"28 the commit delay counts who stays, in 32 bits", together(TestCommitDelay, dangerDelay)},
	{"29 the constants of the field", dangerConstants},
	{"30 the client sees what is durable, the transaction what it did", together(quirkDurableReads, dangerOwnWrites)},
	{"31 nothing predictable seeds anything", quirkSystemsRandom},
	{"32 our own encrypted commit is no duplicate while it waits", quirkOwnEcho},
	{"33 our own commits replay what is buffered, too", TestReplayAfterOwnCommit},
	{"34 a second retry compares with the latest bundle", quirkSecondRetry},
	{"35 a generation too far ahead is not a duplicate", quirkNoDuplicates},
	{"36 a rotation that is renewed keeps its credential", quirkRotationAgain},
}

// TestDangers is not parallel itself, as TestQuirks.
func TestDangers(t *testing.T) { walk(t, dangers) }
