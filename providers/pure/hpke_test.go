// SPDX-License-Identifier: Apache-2.0

package pure_test

import (
	"bytes"
	"crypto/hpke"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	circl "github.com/cloudflare/circl/hpke"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/coretest"
	"github.com/conclave-mls/conclave/providers/pure"
)

// eachSuite runs a test for each of the seven suites.
func eachSuite(t *testing.T, run func(t *testing.T, s core.Suite)) {
	for _, s := range suites() {
		t.Run(s.Parameters().Name, func(t *testing.T) { t.Parallel(); run(t, s) })
	}
}

func suites() (all []core.Suite) {
	p := pure.New()
	for _, id := range p.Suites() {
		all = append(all, must(p.Suite(id)))
	}
	return all
}

// A peer is another implementation of HPKE with the same algorithms.
type peer struct {
	name string
	// derive is nil where the peer cannot derive from Nh bytes.
	derive func(ikm []byte) (secret, public []byte)
	seal   func(public, info, aad, plaintext []byte) (enc, ct []byte)
	// opener parses the private key once.
	opener func(secret []byte) func(enc, info, aad, ct []byte) ([]byte, error)
	// export makes an exporter for the receiver.
	export func(secret, enc, info, context []byte, length int) []byte
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// peersOf panics in its closures where a peer refuses.
func peersOf(p core.SuiteParameters) []peer {
	var peers []peer
	if kem, err := hpke.NewKEM(p.KEM); err == nil {
		kdf, aead := must(hpke.NewKDF(p.KDF)), must(hpke.NewAEAD(p.AEAD))
		peers = append(peers, peer{
			name: "crypto/hpke",
			derive: func(ikm []byte) ([]byte, []byte) {
				k := must(kem.DeriveKeyPair(ikm))
				return must(k.Bytes()), k.PublicKey().Bytes()
			},
			seal: func(public, info, aad, plaintext []byte) ([]byte, []byte) {
				enc, sender, err := hpke.NewSender(must(kem.NewPublicKey(public)), kdf, aead, info)
				return enc, must(must(sender, err).Seal(aad, plaintext))
			},
			opener: func(secret []byte) func(enc, info, aad, ct []byte) ([]byte, error) {
				key := must(kem.NewPrivateKey(secret))
				return func(enc, info, aad, ct []byte) ([]byte, error) {
					return must(hpke.NewRecipient(enc, key, kdf, aead, info)).Open(aad, ct)
				}
			},
			export: func(secret, enc, info, context []byte, length int) []byte {
				r := must(hpke.NewRecipient(enc, must(kem.NewPrivateKey(secret)), kdf, aead, info))
				return must(r.Export(string(context), length))
			},
		})
	}
	suite := circl.NewSuite(circl.KEM(p.KEM), circl.KDF(p.KDF), circl.AEAD(p.AEAD))
	scheme := circl.KEM(p.KEM).Scheme()
	peers = append(peers, peer{
		name: "circl",
		seal: func(public, info, aad, plaintext []byte) ([]byte, []byte) {
			sender := must(suite.NewSender(must(scheme.UnmarshalBinaryPublicKey(public)), info))
			enc, sealer, err := sender.Setup(nil)
			return enc, must(must(sealer, err).Seal(plaintext, aad))
		},
		opener: func(secret []byte) func(enc, info, aad, ct []byte) ([]byte, error) {
			key := must(scheme.UnmarshalBinaryPrivateKey(secret))
			return func(enc, info, aad, ct []byte) ([]byte, error) {
				return must(must(suite.NewReceiver(key, info)).Setup(enc)).Open(ct, aad)
			}
		},
		export: func(secret, enc, info, context []byte, length int) []byte {
			r := must(suite.NewReceiver(must(scheme.UnmarshalBinaryPrivateKey(secret)), info))
			return must(r.Setup(enc)).Export(context, uint(length))
		},
	})
	return peers
}

func TestHPKEInterop(t *testing.T) {
	eachSuite(t, func(t *testing.T, s core.Suite) {
		info, aad, plaintext := []byte("info"), []byte("associated"), []byte("plaintext")
		ikm := bytes.Repeat([]byte{7}, s.Parameters().Nh)
		key, err := s.DeriveKeyPair(core.NewSecret(ikm))
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Recipient(key)
		if err != nil {
			t.Fatal(err)
		}
		secret := key.Material().Bytes()
		for _, peer := range peersOf(s.Parameters()) {
			t.Run(peer.name, func(t *testing.T) {
				if peer.derive != nil {
					theirs, public := peer.derive(ikm)
					again, err := s.OpenKeyPair(core.NewSecret(theirs))
					if err != nil || !bytes.Equal(again.Public(), key.Public()) || !bytes.Equal(public, key.Public()) {
						t.Errorf("derived another key pair: %x, %x", public, key.Public())
					}
				}
				enc, ct := peer.seal(key.Public(), info, aad, plaintext)
				got, err := r.Open(t.Context(), info, aad, core.HPKECiphertext{KEMOutput: enc, Ciphertext: ct})
				if err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("opening the peer's: %q, %v", got, err)
				}
				mine, err := s.Sealer(info).Seal(key.Public(), aad, plaintext)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := peer.opener(secret)(mine.KEMOutput, info, aad, mine.Ciphertext); err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("the peer opens mine: %q, %v", got, err)
				}
				enc, export, err := s.SetupSender(key.Public(), info)
				if err != nil {
					t.Fatal(err)
				}
				out, err := export.Export([]byte("context"), 2*s.Parameters().Nh+1)
				if err != nil || !bytes.Equal(out.Bytes(), peer.export(secret, enc, info, []byte("context"), out.Len())) {
					t.Errorf("export differs from the peer's (%v)", err)
				}
			})
		}
	})
}

// hexBytes is a JSON string in hexadecimal.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// The published vectors of RFC 9180, those in base mode for the algorithms of an
// RFC 9420 suite (there are none for P-384), first encryption only.
func TestHPKEVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc9180.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		KEM     uint16 `json:"kem_id"`
		KDF     uint16 `json:"kdf_id"`
		AEAD    uint16 `json:"aead_id"`
		Info    hexBytes
		IKM     hexBytes `json:"ikmR"`
		Secret  hexBytes `json:"skRm"`
		Public  hexBytes `json:"pkRm"`
		Enc     hexBytes
		AAD     hexBytes
		PT, CT  hexBytes
		Exports []struct {
			Context hexBytes `json:"exporter_context"`
			Length  int      `json:"L"`
			Value   hexBytes `json:"exported_value"`
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	eachSuite(t, func(t *testing.T, s core.Suite) {
		p := s.Parameters()
		for _, v := range vectors {
			if v.KEM != p.KEM || v.KDF != p.KDF || v.AEAD != p.AEAD {
				continue
			}
			key, err := s.DeriveKeyPair(core.NewSecret(v.IKM))
			if err != nil || !bytes.Equal(key.Public(), v.Public) {
				t.Fatalf("derived %x (%v), want %x", key.Public(), err, v.Public)
			}
			if key, err = s.OpenKeyPair(core.NewSecret(v.Secret)); err != nil || !bytes.Equal(key.Public(), v.Public) {
				t.Fatalf("opened %x (%v), want %x", key.Public(), err, v.Public)
			}
			r, err := s.Recipient(key)
			if err != nil {
				t.Fatal(err)
			}
			pt, err := r.Open(t.Context(), v.Info, v.AAD, core.HPKECiphertext{KEMOutput: v.Enc, Ciphertext: v.CT})
			if err != nil || !bytes.Equal(pt, v.PT) {
				t.Errorf("plaintext %x (%v), want %x", pt, err, v.PT)
			}
			export, err := r.Setup(t.Context(), v.Enc, v.Info)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range v.Exports {
				if out, err := export.Export(e.Context, e.Length); err != nil || !bytes.Equal(out.Bytes(), e.Value) {
					t.Errorf("exported %x (%v), want %x", out.Bytes(), err, e.Value)
				}
			}
			return
		}
		if p.KEMAlgorithm != core.ECDHP384 {
			t.Error("no vector")
		}
	})
}

// The working group's vectors of EncryptWithLabel and SignWithLabel (RFC 9420
// section 5.1.2 and 5.1.3).
func TestCryptoBasics(t *testing.T) {
	raw, err := os.ReadFile(coretest.Shared(t, "vectors", "mls", "crypto-basics.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Suite   core.SuiteID `json:"cipher_suite"`
		Encrypt struct {
			Priv, Pub, Context, Plaintext, Ciphertext hexBytes
			Label                                     string
			KEMOutput                                 hexBytes `json:"kem_output"`
		} `json:"encrypt_with_label"`
		Sign struct {
			Priv, Pub, Content, Signature hexBytes
			Label                         string
		} `json:"sign_with_label"`
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 7 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		s, err := pure.New().Suite(v.Suite)
		if err != nil {
			t.Fatal(err)
		}
		// The vectors lack the leading zero byte of a P-521 scalar.
		material := append(make([]byte, max(0, len(v.Encrypt.Priv)/65*66-len(v.Encrypt.Priv))), v.Encrypt.Priv...)
		key, err := s.OpenKeyPair(core.NewSecret(material))
		if err != nil || !bytes.Equal(key.Public(), v.Encrypt.Pub) {
			t.Fatalf("suite %s: private key: %v", v.Suite, err)
		}
		r, err := s.Recipient(key)
		if err != nil {
			t.Fatal(err)
		}
		info := withLabel(v.Encrypt.Label, v.Encrypt.Context)
		pt, err := r.Open(t.Context(), info, nil, core.HPKECiphertext{KEMOutput: v.Encrypt.KEMOutput, Ciphertext: v.Encrypt.Ciphertext})
		if err != nil || !bytes.Equal(pt, v.Encrypt.Plaintext) {
			t.Errorf("suite %s: EncryptWithLabel: %x, %v", v.Suite, pt, err)
		}
		message := withLabel(v.Sign.Label, v.Sign.Content)
		if err := s.ValidateSignaturePublic(v.Sign.Pub); err != nil {
			t.Errorf("suite %s: %v", v.Suite, err)
		}
		if err := s.Verify(v.Sign.Pub, message, v.Sign.Signature); err != nil {
			t.Errorf("suite %s: SignWithLabel: %v", v.Suite, err)
		}
		message[0] ^= 1
		if err := s.Verify(v.Sign.Pub, message, v.Sign.Signature); !errors.Is(err, core.ErrInvalid) {
			t.Errorf("suite %s: another message verifies: %v", v.Suite, err)
		}
	}
}

// withLabel is the label and content of RFC 9420 section 5.1.2, two vectors.
func withLabel(label string, content []byte) (b []byte) {
	for _, v := range [][]byte{[]byte("MLS 1.0 " + label), content} {
		if len(v) < 64 {
			b = append(b, byte(len(v)))
		} else {
			b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(len(v)))
		}
		b = append(b, v...)
	}
	return b
}
