// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
)

// jwkOf writes a public key as a JWK.
func jwkOf(suite core.Suite, key []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	switch suite.Parameters().Scheme {
	case core.SchemeEd25519:
		return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":"%s"}`, b64(key))
	case core.SchemeEd448:
		return fmt.Sprintf(`{"kty":"OKP","crv":"Ed448","x":"%s"}`, b64(key))
	}
	n := len(key) / 2
	crv := map[int]string{32: "P-256", 48: "P-384", 66: "P-521"}[n]
	return fmt.Sprintf(`{"kty":"EC","crv":"%s","x":"%s","y":"%s"}`, crv, b64(key[1:1+n]), b64(key[1+n:]))
}

// compressed is a point of a NIST curve as peers write it; nil of another key.
func compressed(suite core.Suite, key []byte) []byte {
	curve := map[core.SignatureScheme]elliptic.Curve{
		core.SchemeECDSAP256: elliptic.P256(), core.SchemeECDSAP384: elliptic.P384(), core.SchemeECDSAP521: elliptic.P521(),
	}[suite.Parameters().Scheme]
	if curve == nil {
		return nil
	}
	n := len(key) / 2
	return elliptic.MarshalCompressed(curve, new(big.Int).SetBytes(key[1:1+n]), new(big.Int).SetBytes(key[1+n:]))
}

func signerOf(t testing.TB, suite core.Suite) core.Signer {
	t.Helper()
	k, err := pure.New().GenerateKey(t.Context(), core.KeySpec{Algorithm: suite.Parameters().Signature, Use: core.UseSign})
	if err != nil {
		t.Fatal(err)
	}
	return k.(core.Signer)
}

func TestParseExternalSenders(t *testing.T) {
	t.Parallel()
	for _, id := range pure.New().Suites() {
		suite, err := pure.New().Suite(id)
		if err != nil {
			t.Fatal(err)
		}
		key, other := signerOf(t, suite).Public(), signerOf(t, suite).Public()
		good := [][]byte{key, []byte(jwkOf(suite, other)), []byte(" \n" + jwkOf(suite, key) + " ")}
		want := [][]byte{key, other, key}
		if c := compressed(suite, key); c != nil {
			good, want = append(good, c), append(want, key)
		}
		senders, err := client.ParseExternalSenders(suite, good...)
		if err != nil || len(senders) != len(good) {
			t.Fatalf("%v: %v, %v", id, senders, err)
		}
		for i, s := range senders {
			if !bytes.Equal(s.SignatureKey, want[i]) || s.Credential.Type != core.CredentialBasic || string(s.Credential.Identity) != "wire-server" {
				t.Errorf("%v: %d is %+v", id, i, s)
			}
		}
		if none, err := client.ParseExternalSenders(suite); none != nil || err != nil {
			t.Errorf("%v: nothing gives %v, %v", id, none, err)
		}
		jwk := jwkOf(suite, key)
		offCurve := bytes.Clone(key)
		for i := range offCurve { // some change leaves the curve
			offCurve[len(offCurve)-1-i] ^= 1
			if suite.ValidateSignaturePublic(offCurve) != nil {
				break
			}
		}
		for what, bad := range map[string]string{
			"nothing": "", "half a key": string(key[:len(key)/2]), "a longer key": string(key) + "x", "off the curve": string(offCurve),
			"off the curve, as JWK": jwkOf(suite, offCurve), "half a JWK": jwk[:len(jwk)/2], "no key": `{}`, "a list": "[" + jwk + "]",
			"another kty": strings.Replace(jwk, `"kty":"`, `"kty":"R`, 1), "another crv": strings.Replace(jwk, `"crv":"`, `"crv":"X`, 1),
			"no kty": strings.Replace(jwk, `"kty"`, `"KTY"`, 1), "no x": strings.Replace(jwk, `"x"`, `"X"`, 1), "x twice as long": strings.Replace(jwk, `"x":"`, `"x":"AAAA`, 1),
			"x no text": strings.Replace(jwk, `"x":"`, `"x":1,"z":"`, 1), "padded": strings.Replace(jwk, `"}`, `="}`, 1), "private": strings.Replace(jwk, `{`, `{"d":"AAAA",`, 1),
		} {
			got, err := client.ParseExternalSenders(suite, key, []byte(bad))
			if !errors.Is(err, core.ErrInvalid) || got != nil || !strings.Contains(err.Error(), "external sender 1") {
				t.Errorf("%v, %s: %v, %v", id, what, got, err)
			}
		}
		if _, err := client.ParseExternalSenders(suite, []byte(strings.Replace(jwk, `{`, `{"pad":"`+strings.Repeat("x", 9000)+`",`, 1))); !errors.Is(err, core.ErrTooLarge) {
			t.Errorf("%v, long: %v", id, err)
		}
		for _, foreign := range pure.New().Suites() {
			f, err := pure.New().Suite(foreign)
			if err != nil {
				t.Fatal(err)
			}
			if f.Parameters().Scheme == suite.Parameters().Scheme {
				continue
			}
			if _, err := client.ParseExternalSenders(suite, []byte(jwkOf(f, signerOf(t, f).Public()))); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%v takes a key of %v: %v", id, foreign, err)
			}
		}
	}
	// A key may begin like JSON.
	ed, err := pure.New().Suite(suite1)
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ {
		if key := signerOf(t, ed).Public(); key[0] == '{' {
			if _, err := client.ParseExternalSenders(ed, key); err != nil {
				t.Error(err)
			}
			break
		} else if try > 1<<14 {
			t.Fatal("no such key")
		}
	}
}

// An external sender proposes, as it is given to us and in a group of a peer that has
// its key as a compressed point.
func TestExternalSenderProposes(t *testing.T) {
	t.Parallel()
	for _, id := range []core.SuiteID{core.SuiteX25519AES128Ed25519, core.SuiteP256AES128P256, core.SuiteP384AES256P384, core.SuiteP521AES256P521} {
		suite, err := pure.New().Suite(id)
		if err != nil {
			t.Fatal(err)
		}
		server := signerOf(t, suite)
		senders, err := client.ParseExternalSenders(suite, []byte(jwkOf(suite, server.Public())))
		if err != nil {
			t.Fatal(err)
		}
		for _, ofPeer := range []bool{false, true} {
			w := newWorld(t, clienttest.Options{})
			alice, bob := w.deviceOf("alice", id), w.deviceOf("bob", id)
			cfg := client.ConversationConfig{Suite: id, ExternalSenders: senders}
			if c := compressed(suite, server.Public()); c != nil { // we write it uncompressed
				cfg.ExternalSenders = []mls.ExternalSender{{SignatureKey: c, Credential: senders[0].Credential}}
			}
			w.do(alice, func(ctx context.Context, tx *client.Transaction) error {
				_, err := tx.NewConversation(ctx, chat, cfg)
				return err
			})
			check := func(d *clienttest.Device) {
				t.Helper()
				if key, err := d.View(chat).ExternalSender(t.Context()); err != nil || !bytes.Equal(key, server.Public()) {
					t.Errorf("%v: external sender is %x, %v", id, key, err)
				}
			}
			check(alice)
			if c := compressed(suite, server.Public()); ofPeer && c != nil {
				list := []mls.Extension{
					mls.RequiredCapabilities{Credentials: []core.CredentialType{core.CredentialBasic}}.Extension(),
					mls.ExternalSendersExtension([]mls.ExternalSender{{SignatureKey: c, Credential: senders[0].Credential}}),
				}
				w.in(alice, func(ctx context.Context, conversation *client.Conversation) error {
					_, err := conversation.Commit(ctx, client.Changes{Extensions: &list})
					return err
				})
				check(alice)
			} else if info := w.groupInfo(alice); !bytes.Contains(info, server.Public()) {
				t.Errorf("%v: the key does not travel as it should", id)
			}
			var message []byte
			w.do(bob, func(ctx context.Context, tx *client.Transaction) error {
				k, err := tx.NewKeyPackages(ctx, id, core.CredentialBasic, 1)
				if err == nil {
					message = k[0].Message
				}
				return err
			})
			w.in(alice, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.AddMembers(ctx, message)
				return err
			})
			w.catchUp()
			check(bob)
			epoch, err := bob.View(chat).Epoch(t.Context())
			w.must(err)
			proposal, err := mls.ProposeExternal(t.Context(), &mls.Env{Suites: pure.New()}, mls.ExternalProposalParams{
				Suite: id, GroupID: []byte(chat), Epoch: epoch, Sender: mls.Sender{Type: mls.SenderExternal}, Signer: server,
				Proposal: &mls.Remove{Removed: 0},
			})
			w.must(err)
			if r, err := w.give(bob, proposal); err != nil || r.(*client.ProposalResult).Sender.Type != mls.SenderExternal {
				t.Errorf("%v: %+v, %v", id, r, err)
			}
			proposal[len(proposal)-1] ^= 1
			if _, err := w.give(alice, proposal); !errors.Is(err, core.ErrInvalid) {
				t.Errorf("%v: a wrong signature: %v", id, err)
			}
		}
	}
}

func (w *world) groupInfo(d *clienttest.Device) []byte {
	w.Helper()
	info, err := d.View(chat).GroupInfo(w.Context())
	w.must(err)
	return info
}

// FuzzParseExternalSenders: what is read is a key of the suite in the one form that we
// write, and reads as itself.
func FuzzParseExternalSenders(f *testing.F) {
	var suites []core.Suite
	for _, id := range pure.New().Suites() {
		suite, err := pure.New().Suite(id)
		if err != nil {
			f.Fatal(err)
		}
		suites = append(suites, suite)
		key := signerOf(f, suite).Public()
		f.Add(key)
		f.Add([]byte(jwkOf(suite, key)))
		f.Add(compressed(suite, key))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		for _, suite := range suites {
			senders, err := client.ParseExternalSenders(suite, raw)
			if !bytes.Equal(raw, before) {
				t.Fatal("the input was changed")
			}
			if err != nil {
				if !errors.Is(err, core.ErrInvalid) && !errors.Is(err, core.ErrTooLarge) {
					t.Fatal(err)
				}
				continue
			}
			key := senders[0].SignatureKey
			again, err := client.ParseExternalSenders(suite, key, []byte(jwkOf(suite, key)))
			if err != nil || !bytes.Equal(again[0].SignatureKey, key) || !bytes.Equal(again[1].SignatureKey, key) {
				t.Fatalf("%x reads as %v, %v", key, again, err)
			}
		}
	})
}

func ExampleParseExternalSenders() {
	suite, err := pure.New().Suite(core.SuiteP256AES128P256)
	check(err)
	senders, err := client.ParseExternalSenders(suite, []byte(`{
		"kty": "EC", "crv": "P-256",
		"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
		"y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`))
	check(err)
	cfg := client.ConversationConfig{Suite: suite.ID(), ExternalSenders: senders}
	fmt.Printf("%x... proposes as %s\n", cfg.ExternalSenders[0].SignatureKey[:8], cfg.ExternalSenders[0].Credential.Identity)
	// Output: 0430a0424cd21c29... proposes as wire-server
}

// deviceOf makes a device for another suite.
func (w *world) deviceOf(id core.ClientID, suite core.SuiteID) *clienttest.Device {
	w.Helper()
	d := clienttest.NewDevice(w, w.service, id, memory.New(), config())
	w.do(d, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, id, suite) })
	w.devices = append(w.devices, d)
	return d
}
