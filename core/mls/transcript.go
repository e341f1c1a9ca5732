// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"crypto/subtle"

	"github.com/conclave-mls/conclave/core"
)

// The transcript hashes and the tags (RFC 9420 sections 6.1, 6.2 and 8.2).

// confirmedTranscriptHash takes a commit into the transcript: wire format,
// content and signature, but neither version nor tag (KS-3).
func confirmedTranscriptHash(suite core.Suite, interim []byte, a *AuthenticatedContent) []byte {
	input := make([]byte, 0, 128+a.Content.size+len(a.Auth.Signature))
	input = a.Content.append(appendU16(input, uint16(a.WireFormat)))
	return suite.Hash(interim, appendOpaque(input, a.Auth.Signature))
}

// interimTranscriptHash takes the commit's tag in as well. At group creation and
// for a joiner the tag is the epoch's own (KS-2, WEL-13).
func interimTranscriptHash(suite core.Suite, confirmed, confirmationTag []byte) []byte {
	return suite.Hash(confirmed, appendOpaque(nil, confirmationTag))
}

// membershipTag is the MAC over AuthenticatedContentTBM: tbs is what
// framedContentTBS gave for the same content.
func membershipTag(suite core.Suite, membershipKey core.Secret, tbs []byte, auth *FramedContentAuthData, t ContentType) []byte {
	tbm := make([]byte, 0, len(tbs)+len(auth.Signature)+len(auth.ConfirmationTag)+8)
	return suite.MAC(membershipKey, auth.append(append(tbm, tbs...), t))
}

// sameTag compares tags in constant time. An empty tag is equal to nothing (CS-8).
func sameTag(want, got []byte) bool {
	return len(want) > 0 && subtle.ConstantTimeCompare(want, got) == 1
}
