// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/storage/memory"
)

const group core.ConversationID = "group/1"

func TestCommitsOfAnEpoch(t *testing.T) {
	c := people(t, "alice", "bob")
	alice, bob := c[0], c[1]
	first := client.CommitBundle{Commit: private(group, 0, commit, "add bob"), Welcome: []byte("welcome"), Added: []core.ClientID{"bob"}}
	seq := submit(t, alice, first, client.Accepted).Seq

	if again := submit(t, alice, first, client.Accepted); again.Seq != seq {
		t.Errorf("the same bytes again: sequence %d, want %d", again.Seq, seq)
	}
	other := submit(t, bob, client.CommitBundle{Commit: private(group, 0, commit, "another")}, client.Competing)
	if other.Refusal.Epoch != 1 || !errors.Is(other.Refusal, core.ErrConflict) {
		t.Errorf("competing: %+v, want the group's epoch 1 and ErrConflict", other)
	}
	far := submit(t, bob, client.CommitBundle{Commit: private(group, 7, commit, "far")}, client.Refused)
	if far.Refusal.Epoch != 1 || far.Refusal.Code != delivery.CodeWrongEpoch {
		t.Errorf("too far: %+v", far)
	}
	submit(t, bob, client.CommitBundle{Commit: private(group, 1, commit, "next")}, client.Accepted)
	if again := submit(t, alice, first, client.Accepted); again.Seq != seq {
		t.Errorf("the same bytes an epoch later: sequence %d, want %d", again.Seq, seq)
	}
	if got := drain(t, alice, group); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("alice read %v: her own commit and bob's, each once", got)
	}
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{2}) {
		t.Errorf("bob read %v, want what follows the commit that added him", got)
	}
}

func TestRefuseRepeats(t *testing.T) {
	address, _ := serve(t, memory.New(), delivery.Options{RefuseRepeats: true})
	alice := person(t, address, "alice")
	c := client.CommitBundle{Commit: private(group, 0, commit, "x")}
	submit(t, alice, c, client.Accepted)
	submit(t, alice, c, client.Competing)
	if got := drain(t, alice, group); !slices.Equal(got, []uint64{1}) {
		t.Errorf("log %v, want one entry", got)
	}
}

// Two services over one store: whoever loses a race loses it for good.
func TestOneCommitWins(t *testing.T) {
	store := memory.New()
	one, _ := serve(t, store, delivery.Options{})
	two, _ := serve(t, store, delivery.Options{})
	alice := person(t, one, "alice")
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, ""), Added: []core.ClientID{"alice"}}, client.Accepted)
	clients := []*delivery.Client{alice, person(t, two, "alice")}

	for epoch := uint64(1); epoch < 5; epoch++ {
		outcomes := make([]client.OutcomeKind, 16)
		var wg sync.WaitGroup
		for i := range outcomes {
			wg.Go(func() {
				answer, err := clients[i%2].SubmitCommit(t.Context(), client.CommitBundle{Commit: private(group, epoch, commit, string(rune('a'+i)))})
				if err != nil {
					t.Error(err)
				}
				outcomes[i] = answer.Kind
			})
		}
		wg.Wait()
		slices.Sort(outcomes)
		if outcomes[0] != client.Accepted || outcomes[1] != client.Competing || outcomes[15] != client.Competing {
			t.Fatalf("epoch %d: %v, want exactly one accepted", epoch, outcomes)
		}
	}
}

func TestMembers(t *testing.T) {
	c := people(t, "alice", "bob", "carol", "dave")
	alice, bob, carol, dave := c[0], c[1], c[2], c[3]
	info := []byte("group info of epoch 1")
	submit(t, alice, client.CommitBundle{
		Commit: private(group, 0, commit, "add"), Welcome: []byte("welcome"), GroupInfo: info, Added: []core.ClientID{"bob", "carol"},
	}, client.Accepted)

	for name, joiner := range map[string]*delivery.Client{"bob": bob, "carol": carol} {
		w, err := joiner.Welcomes(t.Context(), 0)
		if err != nil || len(w) != 1 || string(w[0].Welcome) != "welcome" || core.ConversationID(w[0].Group) != group || w[0].Seq != 1 {
			t.Fatalf("%s: %+v, %v", name, w, err)
		}
		for range 2 {
			if err := joiner.AckWelcome(t.Context(), w[0]); err != nil {
				t.Fatal(err)
			}
		}
		if w, err = joiner.Welcomes(t.Context(), 0); err != nil || len(w) != 0 {
			t.Fatalf("%s has still %+v, %v", name, w, err)
		}
	}

	// Strangers neither read nor write; they may join by external commit.
	submit(t, dave, client.CommitBundle{Commit: private(group, 1, commit, "mine")}, client.Refused)
	send(t, dave, "1", private(group, 1, application, "hello"), client.Refused)
	if _, err := dave.Log(t.Context(), group, 0); !errors.Is(err, core.ErrDenied) {
		t.Errorf("a stranger reads: %v", err)
	}
	got, err := dave.GroupInfo(t.Context(), group)
	if err != nil || !bytes.Equal(got, info) {
		t.Errorf("GroupInfo: %q, %v", got, err)
	}
	send(t, dave, "2", public(group, 1, 3, proposal, "add me"), client.Accepted)
	external := client.CommitBundle{Commit: public(group, 1, 4, commit, "external"), GroupInfo: []byte("of epoch 2")}
	if seq := submit(t, dave, external, client.Accepted).Seq; seq != 3 {
		t.Errorf("external commit has sequence %d, want 3", seq)
	}
	if got := drain(t, dave, group); !slices.Equal(got, []uint64{3}) {
		t.Errorf("an external joiner read %v, want its own commit first", got)
	}

	// Who is removed reads up to that commit and posts nothing more.
	submit(t, alice, client.CommitBundle{Commit: private(group, 2, commit, "remove"), Removed: []core.ClientID{"bob", "nobody"}}, client.Accepted)
	send(t, alice, "3", private(group, 3, application, "without bob"), client.Accepted)
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{2, 3, 4}) {
		t.Errorf("who was removed read %v, want up to the commit that did it", got)
	}
	if e, _, err := bob.History(t.Context(), group, 4); err != nil || len(e) != 0 {
		t.Errorf("who was removed sees %v, %v", e, err)
	}
	send(t, bob, "4", private(group, 2, application, "late"), client.Stale)
	send(t, bob, "4", private(group, 3, application, "late"), client.Refused)
	submit(t, bob, client.CommitBundle{Commit: private(group, 3, commit, "late")}, client.Refused)
	if got := drain(t, carol, group); !slices.Equal(got, []uint64{2, 3, 4, 5}) {
		t.Errorf("carol read %v", got)
	}

	// A commit without a GroupInfo leaves none behind: the older one is useless.
	if _, err := dave.GroupInfo(t.Context(), group); !errors.Is(err, core.ErrNotFound) {
		t.Errorf("GroupInfo of an earlier epoch: %v", err)
	}

	// Added again after having read how it was removed: from here on. Removed and
	// added again in one commit: with this commit, which tells.
	submit(t, alice, client.CommitBundle{
		Commit: private(group, 3, commit, "again"), Welcome: []byte("again"),
		Added: []core.ClientID{"bob", "carol"}, Removed: []core.ClientID{"carol"},
	}, client.Accepted)
	send(t, bob, "5", private(group, 4, application, "back"), client.Accepted)
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{7}) {
		t.Errorf("who came again read %v, want 7", got)
	}
	if got := drain(t, carol, group); !slices.Equal(got, []uint64{6, 7}) {
		t.Errorf("who left and came at once read %v, want 6 and 7", got)
	}
}

// Whoever is added again before reading how it was removed reads that first.
func TestAddedAgain(t *testing.T) {
	for _, read := range []bool{false, true} {
		c := people(t, "alice", "bob")
		alice, bob := c[0], c[1]
		add := func(epoch uint64) {
			submit(t, alice, client.CommitBundle{
				Commit: private(group, epoch, commit, "add"), Welcome: []byte("welcome"), Added: []core.ClientID{"bob", "alice"},
			}, client.Accepted)
		}
		add(0)
		send(t, alice, "1", private(group, 1, application, "one"), client.Accepted)
		submit(t, alice, client.CommitBundle{Commit: private(group, 1, commit, "remove"), Removed: []core.ClientID{"bob"}}, client.Accepted)
		var want []uint64
		if read {
			if got := drain(t, bob, group); !slices.Equal(got, []uint64{2, 3}) {
				t.Errorf("removed, bob read %v", got)
			}
		} else {
			want = []uint64{2, 3, 4, 5}
		}
		send(t, alice, "2", private(group, 2, application, "two"), client.Accepted)
		add(2)
		send(t, alice, "3", private(group, 3, application, "three"), client.Accepted)
		if got := drain(t, bob, group); !slices.Equal(got, append(want, 6)) {
			t.Errorf("added again, bob read %v, want %v", got, append(want, 6))
		}
		if got := drain(t, alice, group); !slices.Equal(got, []uint64{1, 2, 3, 4, 5, 6}) {
			t.Errorf("alice read %v", got)
		}
	}
}

func TestWhatACommitNeeds(t *testing.T) {
	c := people(t, "alice", "bob")
	alice := c[0]
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, ""), Added: []core.ClientID{"nobody"}}, client.Refused)
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, application, "")}, client.Refused)
	submit(t, alice, client.CommitBundle{Commit: public(group, 0, 4, commit, "")}, client.Refused) // no group to join
	submit(t, alice, client.CommitBundle{Commit: private(group, 1, commit, "")}, client.Refused)
	send(t, alice, "k", private(group, 0, commit, ""), client.Refused)
	send(t, alice, "k", public(group, 0, 3, proposal, ""), client.Refused)
	if got := drain(t, alice, group); got != nil {
		t.Errorf("refused, but in the log: %v", got)
	}
	send(t, alice, "k", private(group, 0, application, "alone"), client.Accepted) // makes the group
	send(t, c[1], "k", private(group, 0, application, "me too"), client.Refused)
	if got := drain(t, alice, group); !slices.Equal(got, []uint64{1}) {
		t.Errorf("log %v", got)
	}
}

func TestIdempotentMessages(t *testing.T) {
	c := people(t, "alice", "bob")
	alice, bob := c[0], c[1]
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, ""), Added: []core.ClientID{"bob"}}, client.Accepted)
	message := private(group, 1, application, "hello")
	seq := send(t, alice, "key", message, client.Accepted).Seq
	if again := send(t, alice, "key", message, client.Accepted).Seq; again != seq {
		t.Errorf("again: %d, want %d", again, seq)
	}
	if other := send(t, bob, "key", private(group, 1, application, "bob's"), client.Accepted).Seq; other == seq {
		t.Error("the keys of two clients are one")
	}
	submit(t, bob, client.CommitBundle{Commit: private(group, 1, commit, "next")}, client.Accepted)
	if again := send(t, alice, "key", message, client.Accepted).Seq; again != seq {
		t.Errorf("again, when it would be stale: %d, want %d", again, seq)
	}
	if again := send(t, alice, "key", private(group, 2, application, "hello"), client.Accepted).Seq; again != seq {
		t.Errorf("encrypted again under the same key: %d, want %d", again, seq)
	}
	stale := send(t, alice, "key 2", private(group, 1, application, "hello"), client.Stale)
	if stale.Refusal.Epoch != 2 {
		t.Errorf("stale: %+v, want the group's epoch 2", stale)
	}
	send(t, alice, "key 3", private(group, 9, application, "hello"), client.Refused)
	send(t, alice, "key 2", private(group, 2, application, "hello"), client.Accepted)
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{2, 3, 4, 5}) {
		t.Errorf("bob read %v", got)
	}
}

// Long values are cut into records and a log into pages; neither shows.
func TestLongLog(t *testing.T) {
	c := people(t, "alice", "bob")
	alice, bob := c[0], c[1]
	big := string(random(delivery.MaxHandshake - 200))
	w := random(delivery.MaxHandshake)
	first := client.CommitBundle{Commit: private(group, 0, commit, big), Welcome: w, GroupInfo: w[:300<<10], Added: []core.ClientID{"bob"}}
	submit(t, alice, first, client.Accepted)
	var want [][]byte
	want = append(want, first.Commit)
	for i := range 200 {
		m := private(group, 1, application, string(random(i)))
		if i == 60 {
			m = private(group, 1, application, string(random(delivery.MaxMessage-100)))
		}
		send(t, alice, string(rune('A'+i)), m, client.Accepted)
		want = append(want, m)
	}
	second := client.CommitBundle{Commit: private(group, 1, commit, big)}
	submit(t, alice, second, client.Accepted)
	want = append(want, second.Commit)

	var got [][]byte
	var after uint64
	for more := true; more; {
		entries, next, err := alice.History(t.Context(), group, after)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			got = append(got, e.Message)
			after = e.Seq
		}
		more = next
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d entries of %d, or others than were sent", len(got), len(want))
	}
	welcomes, err := bob.Welcomes(t.Context(), 0)
	if err != nil || len(welcomes) != 1 || !bytes.Equal(welcomes[0].Welcome, w) {
		t.Errorf("Welcome of %d bytes: %v", len(w), err)
	}
}
