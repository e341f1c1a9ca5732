// SPDX-License-Identifier: Apache-2.0

package client

import (
	"iter"
	"math"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// Received is what a message turned out to be: *Text, *ProposalResult,
// *CommitResult or *Buffered. The first three may have in Replayed what was buffered
// and can be read now; [All] has both.
type Received interface{ received() }

// All is what a message turned out to be, and all that was replayed with it, in order.
// A message that was replayed in vain is nil and its error; it was dropped. The result of
// a commit of our own can have such messages as well.
func All(r Received) iter.Seq2[Received, error] {
	return func(yield func(Received, error) bool) {
		if r == nil || !yield(r, nil) {
			return
		}
		for _, x := range replayedWith(r) {
			if !yield(x.Received, x.Err) {
				return
			}
		}
	}
}

// replayedWith is flat: what was replayed has nothing replayed with it.
func replayedWith(r Received) []Decrypted {
	switch r := r.(type) {
	case *Text:
		return r.Replayed
	case *ProposalResult:
		return r.Replayed
	case *CommitResult:
		return r.Replayed
	}
	return nil
}

// Text is an application message.
type Text struct {
	Sender            core.ClientID // as of the message's epoch
	Epoch             uint64
	AuthenticatedData []byte
	Data              []byte
	Replayed          []Decrypted
}

// ProposalResult is a proposal that waits now for a commit.
type ProposalResult struct {
	Ref      mls.ProposalRef
	Proposal mls.Proposal
	Sender   mls.Sender
	Delay    *time.Duration // how long to leave the commit to others; nil: not ours to commit
	Replayed []Decrypted
}

// CommitResult is a commit: the conversation is in a new epoch, or we are out.
type CommitResult struct {
	Epoch     uint64 // that it began
	Own       bool   // it was ours
	Committer core.ClientID
	Added     []core.ClientID
	Removed   []core.ClientID
	Active    bool // false: it removed us, and nothing of the conversation is kept; see ReInit
	// ReInit is set if the commit has ended the conversation, for another group to take
	// its place, which this package does not make. What was sent in it can still be read;
	// whatever would change it is mls.ErrInactive. Wipe it when it is of no use.
	ReInit *mls.ReInit
	// Renewed are proposals of ours that it left undone, proposed again in its epoch;
	// Dropped are those that were not.
	Renewed  []Proposed
	Dropped  []mls.Proposal
	Delay    *time.Duration // how long to leave what is renewed to others; nil: nothing is
	Replayed []Decrypted
}

// Buffered is a message that is kept until it can be processed. Finish the
// transaction: it is durable then, and comes later in the Replayed of the message that
// makes it readable, or from [Conversation.Replay].
type Buffered struct {
	Reason BufferReason
	Epoch  uint64 // of the message
}

// BufferReason tells what a message waits for.
type BufferReason uint8

// The reasons.
const (
	FutureEpoch      BufferReason = iota + 1 // the commit that ends our epoch
	MissingProposals                         // proposals that it names
	JoinPending                              // the answer to our external commit
)

// A Decrypted is what became of one of several messages: exactly one field is set. With an
// error one that was buffered was dropped.
type Decrypted struct {
	Received Received
	Err      error
}

func (*Text) received()           {}
func (*ProposalResult) received() {}
func (*CommitResult) received()   {}
func (*Buffered) received()       {}

// attach hands what was replayed on with the message that made it possible.
func attach(r Received, replayed []Decrypted) Received {
	switch r := r.(type) {
	case *Text:
		r.Replayed = append(r.Replayed, replayed...)
	case *ProposalResult:
		r.Replayed = append(r.Replayed, replayed...)
	case *CommitResult:
		r.Replayed = append(r.Replayed, replayed...)
	}
	return r
}

// commitDelay spreads the members over time, so that as a rule one of them commits
// what is proposed. Members are in leaf order; removed lists the leaves that
// pending proposals remove, ours not among them.
func commitDelay(epoch uint64, own mls.LeafIndex, members []mls.Member, removed map[mls.LeafIndex]bool) time.Duration {
	index, shift := 0, 0
	for i, m := range members {
		if m.Leaf == own {
			index = i
		}
	}
	for i, m := range members {
		if i < index && removed[m.Leaf] {
			shift++
		}
	}
	return delayAt(epoch, uint64(max(index-shift, 0)), uint64(max(len(members)-len(removed), 0)))
}

// delayAt is the formula that Core Crypto members use, so that all agree.
func delayAt(epoch, index, n uint64) time.Duration {
	position := uint64(1)
	if n > 0 {
		position = (epoch%n+index%n)%n + 1
	}
	if position <= 3 {
		return time.Duration(position-1) * 15 * time.Second
	}
	seconds := int64(float32(math.Log(float64(float32(position))))*120) - 106
	return time.Duration(max(seconds, 0)) * time.Second
}
