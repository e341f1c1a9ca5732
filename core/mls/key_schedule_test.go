// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
)

func testEpoch(t testing.TB, suite core.Suite, seed byte) *epochSecrets {
	t.Helper()
	e, err := epochFromSecret(suite, core.NewSecret(bytes.Repeat([]byte{seed}, suite.Parameters().Nh)))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// CS-4, KS-6: limits of the exporter are errors, not truncations.
func TestExport(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		e := testEpoch(t, suite, 1)
		limit := 255 * suite.Parameters().Nh
		for length, want := range map[int]error{
			0: nil, 1: nil, 32: nil, limit: nil,
			limit + 1: core.ErrTooLarge, 65535: core.ErrTooLarge, 65536: core.ErrTooLarge, 65536 + 32: core.ErrTooLarge, -1: core.ErrInvalid,
		} {
			secret, err := e.export("label", nil, length)
			if !errors.Is(err, want) || err == nil && secret.Len() != length || err != nil && !secret.IsZero() {
				t.Errorf("%d bytes: %d bytes, %v, want %v", length, secret.Len(), err, want)
			}
		}
		all := map[string]bool{}
		for _, label := range []string{"", "a", "b"} {
			for _, context := range []string{"", "a", "b"} {
				all[string(must(e.export(label, []byte(context), 32)).Bytes())] = true
			}
		}
		if len(all) != 9 {
			t.Errorf("9 exports give %d secrets", len(all))
		}
		e.exporter = core.Secret{}
		if _, err := e.export("label", nil, 32); !errors.Is(err, core.ErrNotFound) {
			t.Errorf("without the exporter secret: %v", err)
		}
	})
}

// EXT-5, CS-2: both sides of an external init reach one secret (RFC 9420 section
// 8.3); what does not open is refused.
func TestExternalInit(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		ctx := context.Background()
		e := testEpoch(t, suite, 1)
		kemOutput, sent, err := externalInitSender(suite, must(e.externalKeyPair()).Public())
		if err != nil || sent.Len() != suite.Parameters().Nh {
			t.Fatal(sent, err)
		}
		if got, err := e.externalInitReceiver(ctx, kemOutput); err != nil || !got.Equal(sent) {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := testEpoch(t, suite, 2).externalInitReceiver(ctx, kemOutput); err == nil && got.Equal(sent) {
			t.Error("another epoch's key opens it")
		}
		for _, bad := range [][]byte{nil, kemOutput[1:], append(bytes.Clone(kemOutput), 0), make([]byte, len(kemOutput))} {
			if _, err := e.externalInitReceiver(ctx, bad); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("kem_output %x: %v", bad, err)
			}
			if _, _, err := externalInitSender(suite, bad); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("external_pub %x: %v", bad, err)
			}
		}
	})
}

// What a header keeps reads back the same; the encryption secret is not among it.
func TestStoredEpochSecrets(t *testing.T) {
	t.Parallel()
	eachSuite(t, func(t *testing.T, suite core.Suite) {
		e := testEpoch(t, suite, 1)
		encryption := bytes.Clone(e.encryption.Bytes())
		for _, deleted := range []*core.Secret{nil, &e.exporter, &e.init} {
			if deleted != nil {
				*deleted = core.Secret{}
			}
			stored := e.append(nil)
			if bytes.Contains(stored, encryption) {
				t.Error("the encryption secret is stored")
			}
			got, err := decode("epoch secrets", stored, func(r *reader) *epochSecrets { return readEpochSecrets(r, suite) })
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "stored again", got.append(nil), stored)
			for i, s := range got.stored() {
				if !s.Equal(*e.stored()[i]) {
					t.Errorf("secret %d differs", i)
				}
			}
			for n := range stored {
				if _, err := decode("epoch secrets", stored[:n], func(r *reader) *epochSecrets { return readEpochSecrets(r, suite) }); !errors.Is(err, ErrMalformed) {
					t.Fatalf("cut at %d: %v", n, err)
				}
			}
		}
		if _, err := decode("epoch secrets", bytes.Repeat([]byte{1, 1}, 8), func(r *reader) *epochSecrets { return readEpochSecrets(r, suite) }); !errors.Is(err, ErrMalformed) {
			t.Errorf("secrets of one byte: %v", err)
		}
		var ws record.WriteSet
		ws.Retire(e.secrets()...)
		e.wipe()
		for _, s := range ws.Retired {
			if !bytes.Equal(s.Bytes(), make([]byte, s.Len())) {
				t.Error("a secret was not wiped")
			}
		}
		if len(ws.Retired) != 9 {
			t.Errorf("%d secrets", len(ws.Retired))
		}
	})
}

// CS-8: a confirmation tag is compared whole.
func TestConfirmationTag(t *testing.T) {
	t.Parallel()
	e := testEpoch(t, suiteOf(t, core.SuiteX25519AES128Ed25519), 1)
	hash := []byte("confirmed")
	tag := e.confirmationTag(hash)
	if err := e.verifyConfirmationTag(hash, tag); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][]byte{nil, {}, tag[:1], tag[:31], append(bytes.Clone(tag), 0), make([]byte, 32)} {
		if err := e.verifyConfirmationTag(hash, wrong); !errors.Is(err, ErrAuthentication) {
			t.Errorf("tag %x: %v", wrong, err)
		}
	}
}

// KS-3: wire format, content and signature enter the confirmed hash, the tag only
// the interim one; nothing is lost between the fields.
func TestTranscript(t *testing.T) {
	t.Parallel()
	suite := suiteOf(t, core.SuiteX25519AES128Ed25519)
	g := newWireGroup(t, suite)
	a := g.sign(t, WirePublicMessage, g.content(ContentCommit), []byte("tag"))
	confirmed := confirmedTranscriptHash(suite, []byte("before"), a)
	for what, change := range map[string]func(a *AuthenticatedContent){
		"wire format": func(a *AuthenticatedContent) { a.WireFormat = WirePrivateMessage },
		"content":     func(a *AuthenticatedContent) { a.Content = g.content(ContentProposal) },
		"signature":   func(a *AuthenticatedContent) { a.Auth.Signature = a.Auth.Signature[1:] },
	} {
		b := *a
		if change(&b); bytes.Equal(confirmedTranscriptHash(suite, []byte("before"), &b), confirmed) {
			t.Errorf("the %s does not count", what)
		}
	}
	b := *a
	b.Auth.ConfirmationTag = nil
	wantBytes(t, "confirmed hash without tag", confirmedTranscriptHash(suite, []byte("before"), &b), confirmed)
	if bytes.Equal(confirmedTranscriptHash(suite, []byte("other"), a), confirmed) {
		t.Error("the hash before does not count")
	}
	if bytes.Equal(interimTranscriptHash(suite, confirmed, []byte("tag")), interimTranscriptHash(suite, confirmed, []byte("tah"))) {
		t.Error("the tag does not count")
	}
}
