// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// A stored is a kind of record: a value of it, and what its bytes are when they were
// read and written again.
type stored struct {
	name  string
	value []byte
	again func(value []byte) ([]byte, error)
}

// encodes is for a type that encodes itself.
func encodes[T interface{ encode() []byte }](decode func([]byte) (T, error)) func([]byte) ([]byte, error) {
	return func(value []byte) ([]byte, error) {
		v, err := decode(value)
		if err != nil {
			return nil, err
		}
		return v.encode(), nil
	}
}

// storedRecords are all records of this package that have more than one field. A new
// one is added here.
func storedRecords() []stored {
	at := time.UnixMilli(1_800_000_000_000)
	ref, entry := CredentialRef(7).key(), append(be16(1), be64(5)...)
	credential := Credential{Ref: 7, Credential: core.BasicCredential("alice"), Scheme: 0x0807, SignatureKey: []byte("public")}
	h := head{
		id: "chat", sequence: 1, epoch: 2, active: 3, staged: 4, next: 5, pending: pendingHead{digest{1}, 2, 3}, join: pendingHead{digest{2}, 3, 4},
		merged: digest{3}, began: digest{4}, outbox: 6, stamp: 7, barrier: 8, parent: "parent", waiting: buffered{count: 1, bytes: 2, next: 3, commit: true, ready: true},
	}
	params := IssueParams{Issuer: "acme", ClientID: "alice", Handle: "alice_1", DisplayName: "Alice", Extra: map[string]string{"team": "tea", "a": "b"}, Action: core.ActionRenew, Credential: 7}
	step := func(n core.Need) []byte {
		return enrollment{suite: 1, key: []byte("public"), issue: &issue{params, []byte("carry"), &core.Step{State: []byte("state"), Need: n}}}.encode()
	}
	return []stored{
		{"identity", identity{"alice", 3, []temporary{{"0123456789abcdef", 0x0807, []byte("public")}}}.encode(), encodes(decodeIdentity)},
		{"credential", credential.encode(), encodes(func(v []byte) (Credential, error) { return decodeCredential(ref, v) })},
		{"signature key", storedKey{"pure:1", core.NewSecret([]byte("secret"))}.encode(), encodes(decodeStoredKey)},
		{"journal", journalled{core.Ed25519, "token:1", true}.encode(), encodes(decodeJournalled)},
		{"key package", pooled{key: entry, suite: 1, ref: []byte("ref"), kind: 1, credential: 7, notAfter: 9, lastResort: true}.encode(), encodes(func(v []byte) (pooled, error) { return decodePooled(entry, v) })},
		{"head", h.encode(), func(v []byte) ([]byte, error) {
			h, err := decodeHead(v)
			return h.encode(), err
		}},
		{"outbox", outgoing{key: IdempotencyKey{1}, kind: outText, epoch: 2, message: []byte("message"), ref: mls.ProposalRef("ref"), data: []byte("data"), aad: []byte("aad"), stamp: 3}.encode(), encodes(decodeOutgoing)},
		{"outbox of who asks", outgoing{key: IdempotencyKey{1}, kind: outText, stamp: 3, asked: at}.encode(), encodes(decodeOutgoing)},
		{"refusal", refusal{at, "reason"}.encode(), encodes(decodeRefusal)},
		{"intention", intention{key: IdempotencyKey{1}, tries: 2, owner: [16]byte{3}, until: at, changes: Changes{
			Add: [][]byte{[]byte("add")}, Remove: []core.ClientID{"bob"}, PSKs: [][]byte{[]byte("psk")}, Update: true, Rotate: 7,
			Extensions: &[]mls.Extension{{Type: 1, Data: []byte("data")}}, AuthenticatedData: []byte("aad"),
		}}.encode(), encodes(decodeIntention)},
		{"enrolment", enrollment{suite: 1, key: []byte("public"), holder: [16]byte{1}, stash: []byte("stash")}.encode(), encodes(decodeEnrollment)},
		{"issue", enrollment{suite: 1, issue: &issue{params: params}}.encode(), encodes(decodeEnrollment)},
		{"issue that signs", step(core.Need{Sign: &core.SignNeed{Message: []byte("message")}}), encodes(decodeEnrollment)},
		{"issue that visits", step(core.Need{Visit: &core.VisitNeed{URL: "https://example.com", RedirectURI: "http://localhost/"}}), encodes(decodeEnrollment)},
		{"issue that calls", step(core.Need{Call: &core.CallNeed{Kind: "nonce", Args: map[string]string{"device": "1", "a": ""}}}), encodes(decodeEnrollment)},
		{"issue that shows", step(core.Need{Show: &core.ShowNeed{Text: "text", File: []byte("file")}}), encodes(decodeEnrollment)},
		{"issue that waits", step(core.Need{Wait: &core.WaitNeed{After: time.Minute}}), encodes(decodeEnrollment)},
		{"lease", leaseRecord{owner: [16]byte{1}, expires: at}.encode(), encodes(func(v []byte) (leaseRecord, error) {
			return decodeLease([]seal.Record{{Value: v}})
		})},
	}
}

// Records are written as they are read.
func TestStoredRecordsAgain(t *testing.T) {
	for _, r := range storedRecords() {
		again, err := r.again(r.value)
		if err != nil || !bytes.Equal(again, r.value) {
			t.Errorf("%s: %x is %x again, %v", r.name, r.value, again, err)
		}
		for _, wrong := range [][]byte{r.value[:len(r.value)-1], append(bytes.Clone(r.value), 0), append([]byte{recordFormat + 1}, r.value[1:]...)} {
			if _, err := r.again(wrong); !errors.Is(err, core.ErrDamaged) {
				t.Errorf("%s: %x is read: %v", r.name, wrong, err)
			}
		}
	}
	for _, key := range [][]byte{nil, {1}, make([]byte, 9)} {
		if _, err := decodeCredential(key, storedRecords()[1].value); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("a credential under the key %x: %v", key, err)
		}
	}
	if _, err := decodePooled([]byte{1, 0}, storedRecords()[4].value); !errors.Is(err, core.ErrDamaged) {
		t.Errorf("a key package under a short key: %v", err)
	}
}

// FuzzRecords: what cannot be a record of ours is core.ErrDamaged, and what can be one
// means the same when it is written again.
func FuzzRecords(f *testing.F) {
	records := storedRecords()
	for i, r := range records {
		f.Add(uint8(i), r.value)
	}
	f.Fuzz(func(t *testing.T, kind uint8, value []byte) {
		r := records[int(kind)%len(records)]
		once, err := r.again(value)
		if err != nil {
			if !errors.Is(err, core.ErrDamaged) {
				t.Fatalf("%s: %v", r.name, err)
			}
			return
		}
		if twice, err := r.again(once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s: %x, then %x, %v", r.name, once, twice, err)
		}
	})
}
