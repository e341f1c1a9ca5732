// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

const newMemberCommit = 4

// Whoever joins by an external commit says nothing about others: RFC 9420 section
// 12.4.3.2 lets it remove its own old leaf only.
func TestOutsiderEvictsNobody(t *testing.T) {
	c := people(t, "alice", "bob", "mallory")
	alice, bob, mallory := c[0], c[1], c[2]
	submit(t, alice, client.CommitBundle{Commit: private(group, 0, commit, "add bob"), Welcome: []byte("w"), Added: []core.ClientID{"bob"}}, client.Accepted)
	for name, bad := range map[string]client.CommitBundle{
		"removes others": {Removed: []core.ClientID{"alice", "bob"}},
		"adds others":    {Added: []core.ClientID{"mallory"}},
		"invites others": {Welcome: []byte("w")},
	} {
		bad.Commit = public(group, 1, newMemberCommit, commit, name)
		if answer := submit(t, mallory, bad, client.Refused); answer.Refusal.Code != delivery.CodeInvalid {
			t.Errorf("%s: %+v", name, answer.Refusal)
		}
	}
	submit(t, bob, client.CommitBundle{Commit: public(group, 1, newMemberCommit, commit, "resync"), Removed: []core.ClientID{"bob"}}, client.Accepted)
	send(t, alice, "1", private(group, 2, application, "still here"), client.Accepted)
	if got := drain(t, bob, group); !slices.Equal(got, []uint64{2, 3}) {
		t.Errorf("bob read %v", got)
	}
}

// The names beside a commit are bounded before the store is asked about each.
func TestTooManyNames(t *testing.T) {
	alice := people(t, "alice")[0]
	many := make([]core.ClientID, delivery.MaxNames+1)
	for i := range many {
		many[i] = "alice"
	}
	for _, bad := range []client.CommitBundle{{Added: many}, {Removed: many}} {
		bad.Commit = private(group, 0, commit, "")
		if answer := submit(t, alice, bad, client.Refused); answer.Refusal.Code != delivery.CodeTooLarge {
			t.Errorf("%+v", answer.Refusal)
		}
	}
}

// What is no word of the service on the message must not cost it: who is not signed
// in, or meets something else on the way, sends it later.
func TestWhatIsNoRefusal(t *testing.T) {
	for _, code := range []delivery.Code{delivery.CodeUnauthenticated, delivery.CodeUnavailable, delivery.CodeUnknownOutcome, "overloaded"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = fmt.Fprintf(w, `{"error":{"code":%q,"message":"no"}}`, code)
		}))
		transport := delivery.NewTransport(dial(t, server.URL, delivery.ClientOptions{}))
		sent, err := transport.SendMessage(t.Context(), group, "key", private(group, 0, application, ""))
		if err == nil {
			t.Errorf("%s: a message: outcome %v", code, sent.Kind)
		}
		committed, err := transport.SubmitCommit(t.Context(), group, "key", client.CommitBundle{Commit: private(group, 0, commit, "")})
		if err == nil {
			t.Errorf("%s: a commit: outcome %v", code, committed.Kind)
		}
		server.Close()
	}
}

// A service that repeats itself, or confirms nothing, is given up.
func TestServiceThatRepeats(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = fmt.Fprint(w, `{}`)
			return
		}
		_, _ = fmt.Fprint(w, `{"entries":[{"seq":7,"message":"AA=="},{"seq":7,"message":"AA=="}]}`)
	}))
	defer server.Close()
	count := 0
	tooMany := errors.New("too many")
	err := dial(t, server.URL, delivery.ClientOptions{}).Drain(t.Context(), group, func(context.Context, delivery.Entry) error {
		if count++; count > 50 {
			return tooMany
		}
		return nil
	})
	if err == nil || errors.Is(err, tooMany) {
		t.Errorf("%d entries, %v", count, err)
	}
}
