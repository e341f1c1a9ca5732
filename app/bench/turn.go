// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A stage is one go through the operations in a group: Alice has made it, and Bob is in it.
// What only has to be there, such as most of the members, is a key package without a client.
type stage struct {
	*bench
	*turn
	ctx        context.Context
	suite      core.SuiteID
	n          int
	id         core.ConversationID
	alice, bob *device
}

// samples is how often each operation is done in a turn.
func (s *stage) samples() int {
	switch {
	case s.n >= 5000:
		return 2
	case s.n >= 1000:
		return 3
	}
	return 7
}

// single measures what has no group: opening clients, key packages, making a group.
func (b *bench) single(ctx context.Context, t *turn) (err error) {
	s := &stage{bench: b, turn: t, ctx: ctx, suite: core.SuiteID(t.of.Suite)}
	if s.alice, err = b.device(ctx, t); err != nil {
		return err
	}
	defer s.shut(s.alice, &err)
	for range 7 {
		if err := s.single(); err != nil {
			return err
		}
	}
	return s.opening()
}

func (s *stage) single() error {
	const series = 20
	err := s.time(EmptyTransaction, s.alice, series, func() error {
		for range series {
			if err := s.alice.Transaction(s.ctx, func(context.Context, *client.Transaction) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.time(MakeKeyPackage, s.alice, series, func() error {
		for range series {
			if _, err := s.alice.keyPackage(s.ctx, s.suite); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.time(MakeKeyPackages, s.alice, 100, func() error {
		return s.alice.Transaction(s.ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewKeyPackages(ctx, s.suite, core.CredentialBasic, 100)
			return err
		})
	})
	if err != nil {
		return err
	}
	return s.time(CreateGroup, s.alice, series, func() error {
		for range series {
			if err := s.create(core.ConversationID(rand.Text())); err != nil {
				return err
			}
		}
		return nil
	})
}

// opening measures how long a client takes to be there: a new one, and one that was. The
// data key is wrapped by a key, not by a passphrase.
func (s *stage) opening() error {
	for range 7 {
		var d *device
		fresh := &device{store: &counting{}}
		err := s.time(OpenNew, fresh, 1, func() (err error) {
			d, err = s.device(s.ctx, s.turn)
			return err
		})
		if err != nil {
			return err
		}
		if err := d.close(s.ctx); err != nil || s.of.Store == "memory" {
			if err != nil {
				return err
			}
			continue
		}
		if err := s.time(OpenExisting, fresh, 1, func() (err error) {
			d, err = s.reopen(s.ctx, s.turn, d)
			return err
		}); err != nil {
			return err
		}
		if err := d.close(s.ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) create(id core.ConversationID) error {
	return s.alice.Transaction(s.ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: s.suite})
		return err
	})
}

func (s *stage) shut(d *device, err *error) {
	*err = errors.Join(*err, d.close(s.ctx))
}

// commit has Alice do something to the group that is a commit, and Bob receive it.
func (s *stage) commit(op, process string, f func(context.Context, *client.Conversation) error) error {
	if err := s.time(op, s.alice, 1, func() error { return s.alice.in(s.ctx, s.id, f) }); err != nil {
		return err
	}
	return s.time(process, s.bob, 1, func() error { return s.bob.receive(s.ctx, s.id, s.alice.last.Commit) })
}

// join measures how a device joins by the Welcome of Alice's last commit.
func (s *stage) join(d *device) error {
	return s.time(JoinByWelcome, d, 1, func() error {
		return d.Transaction(s.ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, s.alice.last.Welcome, client.JoinConfig{})
			return err
		})
	})
}

// external measures how a device joins by the GroupInfo.
func (s *stage) external(d *device, groupInfo []byte) error {
	return s.time(JoinExternal, d, 1, func() error {
		return d.Transaction(s.ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, _, err := tx.JoinByExternalCommit(ctx, groupInfo, client.JoinConfig{})
			return err
		})
	})
}

// bare measures a group of n that Alice has made in one commit: above the others' leaves all
// nodes of the tree are blank, so that a path is encrypted to each of them.
func (b *bench) bare(ctx context.Context, t *turn) (err error) {
	s := &stage{bench: b, turn: t, ctx: ctx, suite: core.SuiteID(t.of.Suite), n: t.of.N, id: core.ConversationID(rand.Text())}
	if s.alice, err = b.device(ctx, t); err != nil {
		return err
	}
	defer s.shut(s.alice, &err)
	if s.bob, err = b.device(ctx, t); err != nil {
		return err
	}
	defer func() { s.shut(s.bob, &err) }()
	all, err := b.packages(ctx, s.suite, s.n-2)
	if err != nil {
		return err
	}
	first, err := s.bob.keyPackage(ctx, s.suite)
	if err != nil {
		return err
	}
	if err := s.create(s.id); err != nil {
		return err
	}
	all = append([][]byte{first}, all...)
	if err := s.time(AddAll, s.alice, 1, func() error { return s.alice.in(ctx, s.id, adding(all...)) }); err != nil {
		return err
	}
	if err := s.join(s.bob); err != nil {
		return err
	}
	if err := s.commits(); err != nil {
		return err
	}
	if err := s.messages(); err != nil {
		return err
	}
	if err := s.later(); err != nil {
		return err
	}
	if err := s.proposals(); err != nil {
		return err
	}
	return s.many()
}

func adding(keyPackages ...[]byte) func(context.Context, *client.Conversation) error {
	return func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, keyPackages...)
		return err
	}
}

func updating(ctx context.Context, c *client.Conversation) error {
	_, err := c.UpdateKeyMaterial(ctx)
	return err
}

func removing(ids ...core.ClientID) func(context.Context, *client.Conversation) error {
	return func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, ids...)
		return err
	}
}

// commits measures updates, and one member who comes by a Welcome and one who comes by an
// external commit and are removed.
func (s *stage) commits() error {
	for range s.samples() {
		if err := s.commit(UpdateKeys, ProcessUpdate, updating); err != nil {
			return err
		}
	}
	for range s.samples() {
		if err := s.guest(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) guest() (err error) {
	carol, err := s.device(s.ctx, s.turn)
	if err != nil {
		return err
	}
	defer s.shut(carol, &err)
	packed, err := carol.keyPackage(s.ctx, s.suite)
	if err != nil {
		return err
	}
	if err := s.commit(AddOne, ProcessAddOne, adding(packed)); err != nil {
		return err
	}
	if err := s.join(carol); err != nil {
		return err
	}
	if err := s.commit(RemoveOne, ProcessRemoveOne, removing(carol.id)); err != nil {
		return err
	}
	info := s.alice.last.GroupInfo

	dave, err := s.device(s.ctx, s.turn)
	if err != nil {
		return err
	}
	defer s.shut(dave, &err)
	if err := s.external(dave, info); err != nil {
		return err
	}
	if err := s.time(ProcessExternal, s.bob, 1, func() error { return s.bob.receive(s.ctx, s.id, dave.last.Commit) }); err != nil {
		return err
	}
	if err := s.alice.receive(s.ctx, s.id, dave.last.Commit); err != nil {
		return err
	}
	if err := s.alice.in(s.ctx, s.id, removing(dave.id)); err != nil {
		return err
	}
	return s.bob.receive(s.ctx, s.id, s.alice.last.Commit)
}

// messages measures application messages of several sizes, one in a transaction and many.
func (s *stage) messages() error {
	for _, m := range []struct {
		size                                 int
		send, receive, sendMany, receiveMany string
	}{
		{10, Send10, Receive10, "", ""},
		{1024, Send1K, Receive1K, SendMany, ReceiveMany},
		{10240, Send10K, Receive10K, "", ""},
	} {
		text := make([]byte, m.size)
		for i := range 1 + s.samples() {
			if err := s.series(i > 0, m.send, m.receive, text); err != nil {
				return err
			}
		}
		if m.sendMany == "" {
			continue
		}
		for range s.samples() {
			if err := s.batch(m.sendMany, m.receiveMany, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// series sends one message after another; the first series is to warm up.
func (s *stage) series(counts bool, send, receive string, text []byte) error {
	const series = 20
	var messages [][]byte
	sending := func() error {
		for range series {
			if err := s.alice.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
				m, err := c.Encrypt(ctx, text, nil)
				messages = append(messages, m)
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	}
	receiving := func() error {
		for _, m := range messages {
			if err := s.bob.receive(s.ctx, s.id, m); err != nil {
				return err
			}
		}
		return nil
	}
	if !counts {
		return errors.Join(sending(), receiving())
	}
	if err := s.time(send, s.alice, series, sending); err != nil {
		return err
	}
	return s.time(receive, s.bob, series, receiving)
}

// batch sends a hundred messages in one transaction.
func (s *stage) batch(send, receive string, text []byte) error {
	const many = 100
	var messages [][]byte
	if err := s.time(send, s.alice, many, func() error {
		return s.alice.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
			for range many {
				m, err := c.Encrypt(ctx, text, nil)
				if err != nil {
					return err
				}
				messages = append(messages, m)
			}
			return nil
		})
	}); err != nil {
		return err
	}
	return s.time(receive, s.bob, many, func() error {
		return s.bob.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
			for _, m := range messages {
				if _, err := c.DecryptMessage(ctx, m); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// proposals measures one proposal, and a commit of a hundred.
func (s *stage) proposals() error {
	packages, err := s.packages(s.ctx, s.suite, 2*s.n+98)
	if err != nil {
		return err
	}
	for _, p := range packages[2*s.n-2:] {
		if err := s.time(ProposeAdd, s.alice, 1, func() error {
			return s.alice.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
				_, err := c.ProposeAdd(ctx, p)
				return err
			})
		}); err != nil {
			return err
		}
	}
	return s.time(CommitProposals, s.alice, 1, func() error {
		return s.alice.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
	})
}

// later measures what a member does who was away: its client is closed and opened, and the
// first message waits.
func (s *stage) later() (err error) {
	for range 5 {
		if err := s.time(ExportSecret, s.bob, 1, func() error {
			_, err := s.bob.ExportSecret(s.ctx, s.id, 32)
			return err
		}); err != nil {
			return err
		}
		if err := s.time(ListMembers, s.bob, 1, func() error {
			_, err := s.bob.ClientIDs(s.ctx, s.id)
			return err
		}); err != nil {
			return err
		}
	}
	if s.of.Store == "memory" {
		return nil
	}
	for range 3 {
		var message []byte
		if err := s.alice.in(s.ctx, s.id, func(ctx context.Context, c *client.Conversation) error {
			message, err = c.Encrypt(ctx, make([]byte, 10), nil)
			return err
		}); err != nil {
			return err
		}
		if err := s.bob.close(s.ctx); err != nil {
			return err
		}
		if err := s.time(OpenExisting, s.bob, 1, func() error {
			s.bob, err = s.reopen(s.ctx, s.turn, s.bob)
			return err
		}); err != nil {
			return err
		}
		if err := s.time(FirstReceive, s.bob, 1, func() error { return s.bob.receive(s.ctx, s.id, message) }); err != nil {
			return err
		}
	}
	return nil
}

// many measures what is done to as many members as there are at once, and at last how the
// group goes away.
func (s *stage) many() error {
	packages, err := s.packages(s.ctx, s.suite, 2*s.n-2)
	if err != nil {
		return err
	}
	if s.n <= 1000 {
		more := packages[s.n-2:]
		if err := s.time(AddAgain, s.alice, 1, func() error { return s.alice.in(s.ctx, s.id, adding(more...)) }); err != nil {
			return err
		}
		members, err := s.alice.ClientIDs(s.ctx, s.id)
		if err != nil {
			return err
		}
		half := removing(members[s.n:]...)
		if err := s.time(RemoveHalf, s.alice, 1, func() error { return s.alice.in(s.ctx, s.id, half) }); err != nil {
			return err
		}
	}
	return s.time(WipeConversation, s.alice, 1, func() error {
		return s.alice.Transaction(s.ctx, func(ctx context.Context, tx *client.Transaction) error {
			return tx.WipeConversation(ctx, s.id)
		})
	})
}
