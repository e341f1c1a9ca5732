// SPDX-License-Identifier: Apache-2.0

package bench

// The operations. Each is one transaction of a client, and what it waits for.
const (
	EmptyTransaction = "empty transaction"
	OpenNew          = "open new client"
	OpenExisting     = "open existing client"
	MakeKeyPackage   = "key package"
	MakeKeyPackages  = "key packages, 100 at once" // each
	CreateGroup      = "create group"

	AddAll           = "add all" // n-1 members to an own group of 1, in one commit
	AddAgain         = "add N to N"
	AddOne           = "add 1"
	ProcessAddOne    = "process add 1"
	RemoveOne        = "remove 1"
	ProcessRemoveOne = "process remove 1"
	RemoveHalf       = "remove half"
	UpdateKeys       = "update"
	ProcessUpdate    = "process update"
	JoinByWelcome    = "join by Welcome"
	JoinExternal     = "join by external commit"
	ProcessExternal  = "process external commit"
	ProposeAdd       = "propose add"
	CommitProposals  = "commit 100 proposals"

	Send10      = "send 10 B"
	Receive10   = "receive 10 B"
	Send1K      = "send 1024 B"
	Receive1K   = "receive 1024 B"
	Send10K     = "send 10240 B"
	Receive10K  = "receive 10240 B"
	SendMany    = "send 1024 B, 100 at once"    // each
	ReceiveMany = "receive 1024 B, 100 at once" // each

	ExportSecret     = "export secret"
	ListMembers      = "member list"
	FirstReceive     = "first receive after opening"
	WipeConversation = "wipe conversation"
)

// Ops are all of them, in the order of the tables.
func Ops() []string {
	return []string{
		EmptyTransaction, OpenNew, OpenExisting, MakeKeyPackage, MakeKeyPackages, CreateGroup,
		AddAll, AddAgain, AddOne, ProcessAddOne, RemoveOne, ProcessRemoveOne, RemoveHalf, UpdateKeys, ProcessUpdate,
		JoinByWelcome, JoinExternal, ProcessExternal, ProposeAdd, CommitProposals,
		Send10, Receive10, Send1K, Receive1K, Send10K, Receive10K, SendMany, ReceiveMany,
		ExportSecret, ListMembers, FirstReceive, WipeConversation,
	}
}
