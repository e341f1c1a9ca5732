// SPDX-License-Identifier: Apache-2.0

package client

import (
	"time"

	"github.com/conclave-mls/conclave/core"
)

// A Flat is a [Received] in one shape, with the fields that the bindings of Core Crypto
// had before they told texts, proposals and commits apart, but for those of end-to-end
// identity.
type Flat struct {
	Message         []byte        // of a text: not nil, even if it is empty
	Sender          core.ClientID // of a text
	Proposals       []Proposed    // renewed by a commit
	Active          bool          // false if a commit has removed us, or has ended the conversation
	Delay           *time.Duration
	HasEpochChanged bool
	Buffered        []Flat       // what was replayed, without Buffered of its own
	Waits           BufferReason // not 0: the message is kept until it can be processed
	Err             error        // of a replayed message: it was dropped
}

// Flatten shows what a message turned out to be as a [Flat].
func Flatten(r Received) Flat {
	f := Flat{Active: true}
	switch r := r.(type) {
	case *Text:
		f.Message, f.Sender = append([]byte{}, r.Data...), r.Sender
	case *ProposalResult:
		f.Delay = r.Delay
	case *CommitResult:
		f.Proposals, f.Active, f.Delay, f.HasEpochChanged = r.Renewed, r.Active, r.Delay, true
	case *Buffered:
		f.Waits = r.Reason
	}
	for _, x := range replayedWith(r) {
		inner := Flatten(x.Received)
		inner.Err = x.Err
		f.Buffered = append(f.Buffered, inner)
	}
	return f
}
