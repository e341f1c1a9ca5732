// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"errors"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

func TestState(t *testing.T) {
	t.Parallel()
	root := newRoot(t, "root")
	env := environment(t, root)
	good, bad := member(t, root.newLeaf(t)), member(t, newRoot(t, "other root").newLeaf(t))
	basic := Member{core.BasicCredential("bob"), good.SignatureKey}
	mixed := Member{core.Credential{Type: core.CredentialBasic, Certificates: good.Credential.Certificates}, good.SignatureKey}
	other := Member{core.Credential{Type: 9}, good.SignatureKey}
	for _, c := range []struct {
		name    string
		members []Member
		want    ConversationState
	}{
		{"nobody", nil, NotEnabled},
		{"basic", []Member{basic, basic}, NotEnabled},
		{"another type", []Member{other}, NotEnabled},
		{"one", []Member{good}, Verified},
		{"two", []Member{good, good}, Verified},
		{"basic first", []Member{basic, good}, NotVerified},
		{"basic last", []Member{good, basic}, NotVerified},
		{"basic with a certificate", []Member{good, mixed}, NotVerified},
		{"bad", []Member{bad}, NotVerified},
		{"bad first", []Member{bad, good}, NotVerified},
		{"bad last", []Member{good, bad}, NotVerified},
	} {
		if got := wire(env).State(slices.Values(c.members), noon); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The numbers are those of the reference; the names are shown.
func TestStateNames(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"state 0", "valid", "expired", "revoked", "state 4"} {
		if got := DeviceStatus(i).String(); got != want {
			t.Errorf("%d: %s", i, got)
		}
	}
	for i, want := range []string{"state 0", "verified", "not verified", "not enabled", "state 4"} {
		if got := ConversationState(i).String(); got != want {
			t.Errorf("%d: %s", i, got)
		}
	}
}

func TestAuthenticator(t *testing.T) {
	t.Parallel()
	a := Authenticator{Environment: environment(t, newRoot(t, "root"))}
	if id, err := a.Validate(core.BasicCredential("bob"), nil, noon, core.PurposeMember); err != nil || id.ClientID != "bob" {
		t.Errorf("%q, %v", id.ClientID, err)
	}
	for _, c := range []core.Credential{core.BasicCredential(""), {Type: 9}, {}} {
		for _, p := range []core.Purpose{core.PurposeMember, core.PurposeExternal, core.PurposeIdentify} {
			if id, err := a.Validate(c, nil, noon, p); !errors.Is(err, core.ErrDenied) || id != (core.Identity{}) {
				t.Errorf("%+v: %q, %v", c, id.ClientID, err)
			}
		}
	}
	if err := a.Environment.Accept(Member{Credential: core.Credential{Type: 9}}, noon); !errors.Is(err, core.ErrDenied) {
		t.Error(err)
	}
	one, two := core.Identity{ClientID: "bob"}, core.Identity{ClientID: "carol"}
	if err := a.Successor(one, one); err != nil {
		t.Error(err)
	}
	if err := a.Successor(one, two); !errors.Is(err, core.ErrDenied) {
		t.Error(err)
	}
}
