// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A recovery is one run of conclave recover.
type recovery struct {
	*program
	lines                                           *bufio.Reader
	yes, nothingLost, putBack, rejoinAll, sweepKeys bool
	own                                             *client.Client
}

func (p *program) recover() *cobra.Command {
	r := &recovery{program: p}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on after the database was put back to an older state",
		Long: `Go on after the database was put back to an older state: by a backup, by copying
files, by a replica that lagged, or because its log was lost. The keys of that state may
have been used since, and to use them twice would let others read what you write. So
every conversation is joined again, with new keys, and new key packages take the place
of the old ones. What others wrote meanwhile and you had not read stays unread; what
waited here to be sent is not sent, and listed.

It says what was found and asks before it changes anything. Run it again if it does not
come to its end. Messages that you have read already may be shown once more.

A conversation is left alone if your place among its members would change: members with
Core Crypto 10.3 would then go on without the others. Ask a member to remove you and to
add you again; if no member has Core Crypto, use --rejoin-all. One that you have left
since, or were removed from, is left alone as well. What you have joined since is not
known here: conclave chat join ID.

Sessions of Proteus can be read as before; to write in one, open it again by a prekey of
the other side, for which there is no hurry. Your own prekeys are dropped, but that of last
resort, and others are to be published in their place.

Signature keys in a token that nothing names any more are kept, for the case that a
newer state of the database is found after all; --sweep-keys deletes them.`,
		Example: `  conclave recover
  conclave recover --yes --json
  conclave recover --put-back
  conclave recover --nothing-lost`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.lines = bufio.NewReader(p.in)
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&r.nothingLost, "nothing-lost", false, "you know that nothing was used since the state that is there: go on as if nothing had happened")
	f.BoolVar(&r.putBack, "put-back", false, "you have put older files back yourself, which cannot be seen from here; each client that shares the database has to recover then")
	f.BoolVar(&r.rejoinAll, "rejoin-all", false, "join conversations too in which your place would change")
	f.BoolVar(&r.sweepKeys, "sweep-keys", false, "delete signature keys in a token that nothing names")
	cmd.MarkFlagsMutuallyExclusive("nothing-lost", "put-back")
	cmd.MarkFlagsMutuallyExclusive("nothing-lost", "rejoin-all")
	return cmd
}

func (r *recovery) run(ctx context.Context) error {
	c, err := r.existing()
	if err != nil {
		return err
	}
	if r.putBack { // not opened before: that would go on with what may be wrong
		return r.begin(ctx, c, "you say that you have put back an older state. Each client that shares the database has to recover then.", fx.Decorate(newIncarnation(ctx, c)))
	}
	err = r.openWith(ctx, c, func(ctx context.Context, m *messenger.Messenger) error {
		lost, err := m.Lost(ctx)
		if err != nil || !lost.Any() {
			return errors.Join(err, r.nothing(ctx, m))
		}
		return r.goOn(ctx, m)
	}, fx.Decorate(present(ctx, c)), fx.Populate(&r.own))
	if errors.Is(err, core.ErrRolledBack) && !errors.Is(err, client.ErrRecovering) {
		return r.begin(ctx, c, err.Error()+".")
	}
	return err
}

// newIncarnation tells whoever uses the keystore that it was put back.
func newIncarnation(ctx context.Context, c config.Config) func(core.Keystore, modules.Tenant) (core.Keystore, error) {
	return func(ks core.Keystore, tenant modules.Tenant) (core.Keystore, error) {
		if _, err := present(ctx, c)(ks, tenant); err != nil {
			return nil, err
		}
		return ks, ks.Apply(ctx, core.Batch{Puts: []core.Put{core.NewIncarnation()}})
	}
}

// nothing is for a database that needs no recovery.
func (r *recovery) nothing(ctx context.Context, m *messenger.Messenger) error {
	if r.sweepKeys {
		return r.sweep(ctx, m)
	}
	if err := r.proteusWaits(ctx); err != nil {
		return err
	}
	return r.result(deed{Done: "nothing"}, "there is nothing to recover; if you have put older files back yourself: conclave recover --put-back\n")
}

// begin says what was found, asks, and opens the database.
func (r *recovery) begin(ctx context.Context, c config.Config, found string, options ...fx.Option) error {
	if err := r.agreed(found); err != nil {
		return err
	}
	then := client.Recover
	if r.nothingLost {
		then = client.NothingLost
	}
	options = append(options, fx.Replace(modules.RolledBack(then)), fx.Populate(&r.own))
	return r.openWith(ctx, c, func(ctx context.Context, m *messenger.Messenger) error {
		if r.nothingLost {
			return r.result(deed{Done: "nothing lost"}, "noted: nothing was lost; the database is used as it is\n")
		}
		return r.goOn(ctx, m)
	}, options...)
}

// agreed asks a person. With --json there is none, who says --yes or not.
func (r *recovery) agreed(found string) error {
	if r.yes {
		return nil
	}
	if r.json {
		found = strings.TrimSuffix(strings.TrimSuffix(found, "."), ": "+core.ErrRolledBack.Error())
		return hint(fmt.Errorf("%s: %w", found, core.ErrRolledBack), "conclave recover --help says what recovery means; with --yes it is done")
	}
	r.printf("%s\n\n", plain(strings.ToUpper(found[:1])+found[1:]))
	if r.nothingLost {
		r.printf("You are about to say that this is the newest state all the same. If that is not so,\n" +
			"keys are used twice, and others may be able to read what you write.\n\n")
	} else {
		r.printf(`What you have done since that state is not known here, and its keys must not be used
again. So:
  - every conversation is joined again, with new keys,
  - what others wrote meanwhile and you had not read stays unread,
  - what waits here to be sent is not sent, and listed,
  - new key packages take the place of the old ones at the delivery service,
  - sessions of Proteus are read only until they are opened again by a prekey of the other
    side, and your own prekeys are dropped.
Is there a newer state of the database anywhere? Then stop here and use that. Do you know
that this is the newest, as after a move? Then stop and use conclave recover --nothing-lost.

`)
	}
	if !r.asks("Go on?") {
		return hint(fmt.Errorf("not recovered, nothing was changed: %w", core.ErrDenied), "to go on, answer yes, or use --yes")
	}
	return nil
}

func (r *recovery) asks(question string) bool {
	r.printf("%s [y/N] ", question)
	line, err := r.lines.ReadString('\n')
	if _, typed := r.terminal(); !typed || err != nil {
		r.printf("\n")
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}

// goOn joins again what is to be joined, and reports.
func (r *recovery) goOn(ctx context.Context, m *messenger.Messenger) error {
	if _, err := m.ID(ctx); errors.Is(err, client.ErrNotInitialized) { // there is Proteus only
		if err := r.proteusWaits(ctx); err != nil {
			return err
		}
		return r.result(deed{Done: "recovered"}, "recovered\n")
	}
	done, err := m.Recover(ctx, r.rejoinAll)
	if err != nil {
		return err
	}
	if n := moved(done); n > 0 && !r.yes && !r.json {
		r.printf("In %d conversations your place would change, and members with Core Crypto 10.3 would go on\nwithout the others.\n", n)
		if r.asks("Do you know that no member has it?") {
			again, err := m.Recover(ctx, true)
			if err != nil {
				return err
			}
			done = merged(done, again)
		}
	}
	left := 0
	for _, x := range done {
		if x.Err != nil {
			left++
		}
		if err := r.report(x); err != nil {
			return err
		}
	}
	if r.sweepKeys {
		if err := r.sweep(ctx, m); err != nil {
			return err
		}
	}
	if err := r.proteusWaits(ctx); err != nil {
		return err
	}
	if left > 0 {
		return errTold
	}
	return r.result(deed{Done: "recovered"}, "recovered; what you have joined since that state is not known here: conclave chat join ID\n")
}

// proteusWaits tells of sessions that wait for a prekey of the other side, which nothing
// here can bring, and of prekeys that are gone.
func (r *recovery) proteusWaits(ctx context.Context) error {
	s, err := proteusStateOf(ctx, r.own)
	if err != nil || s.fingerprint == "" {
		return err
	}
	for _, name := range s.recovering {
		err := r.result(deed{Done: "waits", Session: name}, "%s: a session of Proteus that can be read only, until it is opened again by a prekey of the other side\n", plain(name))
		if err != nil {
			return err
		}
	}
	if len(s.recovering) > 0 && !r.json {
		r.printf("%s\n", r.here(reopen))
	}
	if s.preKeys == 0 {
		r.notice("no prekey of Proteus is left but that of last resort; %s", r.here("make others and publish them: conclave proteus prekeys N"))
	}
	return nil
}

func moved(list []messenger.Return) (n int) {
	for _, x := range list {
		if errors.Is(x.Err, client.ErrLeafMoves) {
			n++
		}
	}
	return n
}

// merged is the first list with what became of the same conversations later.
func merged(first, later []messenger.Return) []messenger.Return {
	now := map[core.ConversationID]messenger.Return{}
	for _, x := range later {
		now[x.ID] = x
	}
	for i, x := range first {
		if y, again := now[x.ID]; again {
			first[i] = y
		}
	}
	return first
}

// report tells what became of a conversation.
func (r *recovery) report(x messenger.Return) error {
	id := string(x.ID)
	switch {
	case x.Err != nil:
		next := hintOr(x.Err, "conclave recover tries it again")
		if errors.Is(x.Err, core.ErrNotFound) {
			next = "ask a member to remove you and to add you again; if you are the only one: conclave chat leave " + word(id) + " deletes it here"
		}
		r.complain(hint(fmt.Errorf("%s: not joined again: %w", id, x.Err), "%s", next))
		return nil
	case x.Left:
		return r.result(deed{Done: "left", Conversation: id}, "%s: you were leaving it and are out; nothing of it is kept here\n", plain(id))
	}
	return r.result(deed{Done: "joined again", Conversation: id, Epoch: &x.Epoch}, "%s: joined again; epoch %d\n", plain(id), x.Epoch)
}

func (r *recovery) sweep(ctx context.Context, m *messenger.Messenger) error {
	n, err := m.SweepKeys(ctx)
	if err != nil {
		return err
	}
	return r.result(struct {
		deed
		Keys int `json:"keys"`
	}{deed{Done: "keys swept"}, n}, "%d signature keys that nothing names are deleted\n", n)
}
