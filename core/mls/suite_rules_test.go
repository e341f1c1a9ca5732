// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
)

// firstSuite has one suite only; it counts what is asked of it.
type firstSuite struct{ asked int }

func (f *firstSuite) Suites() []core.SuiteID { return []core.SuiteID{1} }

func (f *firstSuite) Suite(id core.SuiteID) (core.Suite, error) {
	f.asked++
	if id != 1 {
		return nil, fmt.Errorf("suite %v: %w", id, core.ErrUnsupported)
	}
	return provider.Suite(1)
}

// CS-6: a suite that is not at hand is refused wherever it can come from, before
// anything is looked up, asked or made.
func TestSuiteThatIsNotAtHand(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	alice, bob := newMember(t, 2, "alice", mls.DefaultConfig), newMember(t, 2, "bob", mls.DefaultConfig)
	alice.create("group", nil)
	b, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.Add{KeyPackage: bob.keyPackage()}}})
	if err != nil {
		t.Fatal(err)
	}
	welcome, err := mls.UnmarshalMLSMessage(b.Welcome)
	if err != nil {
		t.Fatal(err)
	}
	info := infoOf(t, alice.groupInfo())
	env := &mls.Env{
		Suites: &firstSuite{}, Auth: &judge{refuse: func(core.Credential, core.Purpose) bool { t.Error("the authenticator is asked"); return true }},
		Fetch: func(context.Context, []record.Query) ([][]record.Record, error) {
			t.Error("the store is read")
			return nil, core.ErrUnavailable
		},
		Signer: func(context.Context, []byte) (core.Signer, error) {
			t.Error("a key is asked for")
			return nil, core.ErrNotFound
		},
		PSK: func(context.Context, mls.PreSharedKeyID) (core.Secret, error) {
			t.Error("a PSK is asked for")
			return core.Secret{}, core.ErrNotFound
		},
	}
	for what, enter := range map[string]func() error{
		"Join": func() error {
			_, _, ws, err := mls.Join(ctx, env, mls.JoinParams{Welcome: welcome.Welcome, KeyPackage: func(context.Context, []byte) (*mls.KeyPackageBundle, error) {
				t.Error("a key package is asked for")
				return bob.bundle, nil
			}})
			if ws != nil {
				t.Error("something is to be written")
			}
			return err
		},
		"JoinExternal": func() error {
			_, message, ws, err := mls.JoinExternal(ctx, env, mls.ExternalParams{GroupInfo: info, Signer: bob.signer(), Credential: core.BasicCredential("bob"), Capabilities: bob.capabilities()})
			if message != nil || ws != nil {
				t.Error("something is made")
			}
			return err
		},
		"Observe": func() error { _, err := mls.Observe(env, info, nil); return err },
		"Load":    func() error { _, err := mls.Load(env.Suites, alice.stored[mls.RecordHeader][0].Value); return err },
		"UnmarshalKeyPackageBundle": func() error {
			_, err := mls.UnmarshalKeyPackageBundle(env.Suites, bob.bundle.Marshal())
			return err
		},
	} {
		if err := enter(); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// CS-2: public keys that are none are refused before they are used: an external_pub and
// the key of an external sender here; the others are in the tests of LEAF, KP, TREE,
// PATH and EXT-5.
func TestPublicKeysFromOutside(t *testing.T) {
	t.Parallel()
	for _, suite := range provider.Suites() {
		alice := newMember(t, suite, "alice", mls.DefaultConfig)
		alice.create("group", nil)
		for _, bad := range [][]byte{nil, alice.signer().Public()[1:], append(alice.signer().Public(), 0)} {
			senders := mls.Extensions{mls.ExternalSendersExtension([]mls.ExternalSender{{SignatureKey: bad, Credential: core.BasicCredential("service")}})}
			_, err := alice.commit(mls.CommitParams{Proposals: []mls.Proposal{&mls.GroupContextExtensions{Extensions: senders}}})
			wantBreach(t, fmt.Sprintf("suite %v: a sender with %x", suite, bad), "CS-2", err)
			zoe := newMember(t, suite, "zoe", mls.DefaultConfig)
			_, _, err = mls.Create(t.Context(), zoe.env(), mls.CreateParams{
				Suite: zoe.suite, GroupID: []byte("g"), Signer: zoe.signer(), Credential: core.BasicCredential("zoe"),
				Capabilities: zoe.capabilities(), Lifetime: mls.NoLifetime, Extensions: senders,
			})
			wantBreach(t, fmt.Sprintf("suite %v: a group with a sender with %x", suite, bad), "CS-2", err)
		}
		good := infoOf(t, alice.groupInfo()).Extensions
		for what, bad := range map[string]func([]byte) []byte{
			"zeros":        func(k []byte) []byte { return make([]byte, len(k)) },
			"none":         func([]byte) []byte { return nil },
			"a short one":  func(k []byte) []byte { return k[1:] },
			"a longer one": func(k []byte) []byte { return append(k, 0) },
		} {
			info, err := mls.ForgeGroupInfo(t.Context(), alice.env(), alice.g(), alice.signer(), func(i *mls.GroupInfo) {
				for n, e := range i.Extensions {
					if e.Type == mls.ExtensionExternalPub {
						key, err := mls.ExternalPub(good)
						if err != nil {
							t.Fatal(err)
						}
						i.Extensions[n] = mls.ForgeExternalPub(bad(key))
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			zoe := newMember(t, suite, "zoe", mls.DefaultConfig)
			_, err = zoe.joinExternal(info)
			wantBreach(t, fmt.Sprintf("suite %v: %s", suite, what), "CS-2", err)
			if len(zoe.stored) != 0 {
				t.Error("something is stored")
			}
		}
	}
}
