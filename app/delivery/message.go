// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// Code points of RFC 9420 sections 6 and 17.2 that the header of a group
// message may have.
const (
	mls10          = 1
	publicMessage  = 1
	privateMessage = 2

	contentApplication = 1
	contentProposal    = 2
	contentCommit      = 3

	senderMember            = 1
	senderExternal          = 2
	senderNewMemberProposal = 3
	senderNewMemberCommit   = 4
)

// A header is what a delivery service can read of an MLSMessage that is sent to
// a group.
type header struct {
	group   core.ConversationID
	epoch   uint64
	content uint8 // contentApplication, ...
	sender  uint8 // senderMember for every PrivateMessage
}

// parseHeader reads the beginning of a PublicMessage or PrivateMessage
// (RFC 9420 sections 6, 6.2 and 6.3). ErrInvalid: it is neither.
func parseHeader(message []byte) (h header, err error) {
	bad := func(what string) (header, error) {
		return header{}, fmt.Errorf("MLSMessage: %s: %w", what, core.ErrInvalid)
	}
	s := cryptobyte.String(message)
	var version, format uint16
	if !s.ReadUint16(&version) || !s.ReadUint16(&format) || version != mls10 {
		return bad("not of version mls10")
	}
	if format != publicMessage && format != privateMessage {
		return bad("not a PublicMessage or PrivateMessage")
	}
	var group []byte
	if !vlbytes.ReadBytes(&s, &group) || !s.ReadUint64(&h.epoch) {
		return bad("no group id and epoch")
	}
	if len(group) == 0 || len(group) > maxID {
		return bad("length of the group id")
	}
	h.group, h.sender = core.ConversationID(group), senderMember
	if format == publicMessage {
		if !s.ReadUint8(&h.sender) {
			return bad("no sender")
		}
		switch h.sender {
		case senderMember, senderExternal:
			var index uint32
			if !s.ReadUint32(&index) {
				return bad("no sender index")
			}
		case senderNewMemberProposal, senderNewMemberCommit:
		default:
			return bad("unknown sender type")
		}
		var authenticated cryptobyte.String
		if !vlbytes.Read(&s, &authenticated) {
			return bad("no authenticated data")
		}
	}
	if !s.ReadUint8(&h.content) || h.content < contentApplication || h.content > contentCommit {
		return bad("unknown content type")
	}
	switch {
	case format == publicMessage && h.content == contentApplication:
		return bad("application data in a PublicMessage")
	case h.sender == senderNewMemberCommit && h.content != contentCommit,
		(h.sender == senderExternal || h.sender == senderNewMemberProposal) && h.content != contentProposal:
		return bad("content that this sender type does not have")
	}
	return h, nil
}

// be64 is the order-preserving form of a number in a key.
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
