// SPDX-License-Identifier: Apache-2.0

package messenger_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/providers/pure"
)

// Who asks to join one conversation is not led into another, whatever the service
// answers.
func TestJoinOfAnother(t *testing.T) {
	all := people(t, "alice", "bob", "carol")
	id, trap := conversation(t, "friends", all[:2]), conversation(t, "trap", all[:2])
	carol := all[2]
	carol.network.set(func(r *http.Request) error {
		if strings.HasSuffix(r.URL.Path, "/info") {
			r.URL.Path = "/v1/groups/" + base64.RawURLEncoding.EncodeToString([]byte(trap)) + "/info"
		}
		return nil
	}, nil)
	if err := carol.Join(t.Context(), core.ConversationID(id)); !errors.Is(err, mls.ErrWrongGroup) {
		t.Errorf("%v, want ErrWrongGroup", err)
	}
	if list, err := carol.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("carol is in %v, %v", list, err)
	}
}

// Somebody who adds us to a conversation while there is no room for anything unread
// does not keep us from reading, which makes room.
func TestFullAndInvited(t *testing.T) {
	all := people(t, "alice", "bob")
	alice, bob := all[0], all[1]
	id := conversation(t, "friends", all)
	const n = 8
	for i := range n {
		size := messenger.MaxText
		if i == 5 {
			size = 60 << 10 // what is left after it, a few invitations fill
		}
		must(t, alice.Send(t.Context(), id, []byte(strings.Repeat("x", size))))
	}
	if err := bob.Sync(t.Context()); !errors.Is(err, messenger.ErrFull) {
		t.Fatalf("sync: %v", err)
	}
	for range 60 {
		_, err := alice.Create(t.Context(), "more")
		must(t, err)
	}
	list, err := alice.List(t.Context())
	must(t, err)
	for _, c := range list {
		if string(c.ID) != id {
			must(t, alice.Add(t.Context(), string(c.ID), "bob"))
		}
	}
	read := 0
	for range 20 {
		must(t, bob.Read(t.Context(), id, func(core.ConversationID, messenger.Item) error { read++; return nil }))
	}
	if read != n {
		t.Errorf("%d texts", read)
	}
	must(t, bob.Sync(t.Context()))
}

// Somebody who adds us by our key package of last resort to a conversation, and ends that
// at once, does not keep us from anything: we can neither renew our keys there nor ask
// others to let us go.
func TestInvitedToWhatHasEnded(t *testing.T) {
	all := people(t, "alice", "bob", "mallory")
	alice, bob, mallory := all[0], all[1], all[2]
	for n := 1; n > 0; {
		_, err := mallory.service.Claim(t.Context(), "bob")
		must(t, err)
		n, err = bob.service.Count(t.Context())
		must(t, err)
	}
	last, err := mallory.service.Claim(t.Context(), "bob")
	must(t, err)
	invited, err := mls.UnmarshalMLSMessage(last)
	must(t, err)
	p := pure.New()
	suite, err := p.Suite(1)
	must(t, err)
	key, err := p.GenerateKey(t.Context(), core.KeySpec{Algorithm: suite.Parameters().Signature, Use: core.UseSign})
	must(t, err)
	signer := key.(core.Signer)
	env := &mls.Env{
		Suites: p, Auth: client.Basic{}, Now: time.Now(),
		Signer: func(context.Context, []byte) (core.Signer, error) { return signer, nil },
		Fetch: func(_ context.Context, q []record.Query) ([][]record.Record, error) {
			return make([][]record.Record, len(q)), nil
		},
	}
	g, _, err := mls.Create(t.Context(), env, mls.CreateParams{
		Suite: suite, GroupID: []byte("trap"), Signer: signer, Credential: core.BasicCredential("mallory"),
		Capabilities: mls.DefaultCapabilities(p.Suites()), Config: mls.DefaultConfig,
		Lifetime: mls.Lifetime{NotBefore: uint64(time.Now().Add(-time.Hour).Unix()), NotAfter: uint64(time.Now().Add(time.Hour).Unix())},
	})
	must(t, err)
	for i, change := range []mls.Proposal{
		&mls.Add{KeyPackage: invited.KeyPackage}, &mls.ReInit{GroupID: []byte("next"), Version: mls.MLS10, Suite: 1},
	} {
		next, pending, _, err := g.Commit(t.Context(), env, mls.CommitParams{Proposals: []mls.Proposal{change}})
		must(t, err)
		b, err := pending.Bundle(t.Context(), env, next)
		must(t, err)
		bundle := client.CommitBundle{Commit: b.Commit, Welcome: b.Welcome, GroupInfo: b.GroupInfo}
		if i == 0 {
			bundle.Added = []core.ClientID{"bob"}
		}
		outcome, err := mallory.transport.SubmitCommit(t.Context(), "trap", "key", bundle)
		must(t, err)
		if outcome.Kind != client.Accepted {
			t.Fatalf("%+v", outcome)
		}
		g, _, _, err = next.Merge(t.Context(), env, pending)
		must(t, err)
	}
	id := conversation(t, "friends", []*person{alice, bob})
	must(t, alice.Send(t.Context(), id, []byte("hello")))
	must(t, bob.Sync(t.Context()))
	if got := bob.reads(id); len(got) != 1 || got[0] != "text alice hello" {
		t.Errorf("bob reads %q", got)
	}
	if gone, err := bob.Leave(t.Context(), "trap"); err != nil || !gone {
		t.Errorf("leaving: %v, %v", gone, err)
	}
	must(t, bob.Sync(t.Context()))
}
