// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/client/clienttest"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/seal"
)

// An operation is one thing that an application does, played by alice in a chat with
// bob and carol. The tests of faults, cancellations and boundaries play each of the
// table below, at every point where something can go wrong. What is new gets a line.
//
// Its answer is compared between runs, so it must say nothing that is random.
type operation struct {
	name    string
	prepare func(s *stage) // what it needs, beyond the chat
	outside bool           // alice is not in the chat
	nobody  bool           // alice has no identity; outside goes with it

	// compound: it is two operations, and after a fault the first may have happened
	// alone: a commit is dropped if what goes before it cannot be sent.
	compound bool
	// varies are tables whose records depend on where it was interrupted.
	varies []core.Table

	// One of the two: what it does in a transaction, or with the client.
	tx  func(ctx context.Context, tx *client.Transaction, in *input) (answer any, err error)
	run func(ctx context.Context, p player, in *input) (answer any, err error)
}

// A player is who plays an operation: a client and what it is made of.
type player struct {
	*clienttest.Device
	store   core.Keystore
	wrapper core.KeyWrapper // of the store; nil: that of every device
}

// input is what an operation needs from others, made before. A process that is to
// be killed gets it from its parent.
type input struct {
	KeyPackage []byte // of dave
	Info       []byte // of the chat, a GroupInfo
	Welcome    []byte // for alice
	Message    []byte // for alice
	Ref        []byte
	Credential client.CredentialRef
	Names      []core.ClientID // of keys
	Key        client.IdempotencyKey
	Group      mls.Config // for who joins
}

// play has a player do it. In a transaction that is stubborn, an error is passed over
// and the transaction finished all the same.
func (o operation) play(ctx context.Context, p player, in *input, stubborn bool) (answer any, err error) {
	if o.run != nil {
		return o.run(ctx, p, in)
	}
	var passed error
	err = p.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		answer, err = o.tx(ctx, tx, in)
		if stubborn {
			passed, err = err, nil
		}
		return err
	})
	return answer, errors.Join(err, passed)
}

// inChat is for an operation on the chat.
func inChat(f func(ctx context.Context, c *client.Conversation, in *input) (any, error)) func(context.Context, *client.Transaction, *input) (any, error) {
	return func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		c, err := tx.Conversation(ctx, chat)
		if err != nil {
			return nil, err
		}
		return f(ctx, c, in)
	}
}

// no is for an answer that is random.
func no[T any](_ T, err error) (any, error) { return nil, err }

// size is for an answer of which the length alone is not random.
func size[T any](list []T, err error) (any, error) { return len(list), err }

// gistOf is an answer in words, without what is random.
func gistOf(answer any) string {
	replayed := func(list []client.Decrypted) (text string) {
		for _, r := range list {
			text += fmt.Sprintf(" [%s %v]", gistOf(r.Received), r.Err)
		}
		return text
	}
	switch r := answer.(type) {
	case *client.Text:
		return fmt.Sprintf("text %q of %s in %d%s", r.Data, r.Sender, r.Epoch, replayed(r.Replayed))
	case *client.ProposalResult:
		return fmt.Sprintf("proposal %T%s", r.Proposal, replayed(r.Replayed))
	case *client.CommitResult:
		return fmt.Sprintf("commit: epoch %d, own %v, by %q, added %q, removed %q, active %v, dropped %d%s", r.Epoch, r.Own, r.Committer, nameless(r.Added), nameless(r.Removed), r.Active, len(r.Dropped), replayed(r.Replayed))
	case *client.Buffered:
		return fmt.Sprintf("buffered: %d, epoch %d", r.Reason, r.Epoch)
	case client.Info:
		return fmt.Sprintf("epoch %d, pending: commit %v, join %v, proposals %d; buffered: %d, commit %v; parent %q",
			r.Epoch, r.PendingCommit, r.PendingJoin, r.PendingProposals, r.Buffered, r.BufferedCommit, r.Parent)
	}
	return fmt.Sprint(answer)
}

// textsOf lists the application data in what came, what was replayed included.
func textsOf(r client.Received) (texts []string) {
	var replayed []client.Decrypted
	switch r := r.(type) {
	case *client.Text:
		texts, replayed = append(texts, string(r.Data)), r.Replayed
	case *client.ProposalResult:
		replayed = r.Replayed
	case *client.CommitResult:
		replayed = r.Replayed
	}
	for _, r := range replayed {
		if r.Err == nil {
			texts = append(texts, textsOf(r.Received)...)
		}
	}
	return texts
}

// boundaries are the operations that ask the delivery service in a transaction.
var boundaries = []operation{
	{name: "AddMembers", prepare: (*stage).invite, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return c.AddMembers(ctx, in.KeyPackage)
	})},
	{name: "RemoveMembers", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.RemoveMembers(ctx, "carol")
	})},
	{name: "UpdateKeyMaterial", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.UpdateKeyMaterial(ctx)
	})},
	{name: "Rotate", prepare: (*stage).rename, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.Rotate(ctx, core.CredentialBasic)
	})},
	{name: "CommitPendingProposals", compound: true, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		if _, err := c.ProposeUpdate(ctx, 0); err != nil {
			return nil, err
		}
		return c.CommitPendingProposals(ctx)
	})},
	{name: "SetCredential", prepare: (*stage).rename, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return c.SetCredential(ctx, in.Credential)
	})},
	{name: "Commit with a PSK", prepare: (*stage).share, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.Commit(ctx, client.Changes{PSKs: [][]byte{pskID}, Update: true})
	})},
	{name: "Commit of extensions", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.Commit(ctx, client.Changes{Extensions: &[]mls.Extension{}})
	})},
	{name: "EnableHistorySharing", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.EnableHistorySharing(ctx)
	})},
	{name: "RemoveMembers, a new era", prepare: (*stage).history, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.RemoveMembers(ctx, "carol")
	})},
	{name: "DisableHistorySharing", prepare: (*stage).history, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.DisableHistorySharing(ctx)
	})},
	{name: "JoinByExternalCommit", outside: true, prepare: (*stage).look, tx: joinByInfo},
	{name: "JoinByExternalCommit again", prepare: (*stage).look, tx: joinByInfo},
}

func joinByInfo(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
	_, r, err := tx.JoinByExternalCommit(ctx, in.Info, client.JoinConfig{Group: in.Group})
	return r, err
}

// operations are all that a client can be asked for.
var operations = slices.Concat(boundaries, []operation{
	// who we are
	{name: "InitMLS", nobody: true, outside: true, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.InitMLS(ctx, "alice", 1, 2, 7)
	}},
	{name: "GenerateKeypairs", nobody: true, outside: true, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.GenerateKeypairs(ctx, 1, 2))
	}},
	{name: "InitMLSWithClientID", nobody: true, outside: true, prepare: (*stage).keys, tx: func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		return nil, tx.InitMLSWithClientID(ctx, "alice", in.Names, 1, 2)
	}},
	{name: "RemoveCredential", prepare: (*stage).rename, tx: func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		return nil, tx.RemoveCredential(ctx, in.Credential)
	}},
	{name: "Conversation.Credential", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		own, err := c.Credential(ctx)
		return own.Ref, err
	})},
	{name: "NewCredential", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return no(tx.NewCredential(ctx, 2))
	}},
	{name: "Credentials", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.Credentials(ctx, client.CredentialFilter{}))
	}},
	{name: "ClientID", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) { return tx.ClientID(ctx) }},
	{name: "ClientPublicKey", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.ClientPublicKey(ctx, suite1, core.CredentialBasic))
	}},
	{name: "Client.Credentials", run: func(ctx context.Context, p player, _ *input) (any, error) {
		return size(p.Credentials(ctx, client.CredentialFilter{Suite: suite1, ClientID: "alice"}))
	}},
	{name: "Client.ClientPublicKey", run: func(ctx context.Context, p player, _ *input) (any, error) {
		return size(p.ClientPublicKey(ctx, suite1, core.CredentialBasic))
	}},
	{name: "Client.Credential", run: func(ctx context.Context, p player, _ *input) (any, error) {
		own, err := p.Credential(ctx, chat)
		return own.Ref, err
	}},
	{name: "Client.ClientID", run: func(ctx context.Context, p player, _ *input) (any, error) { return p.ClientID(ctx) }},

	// key packages
	{name: "NewKeyPackages", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 2))
	}},
	{name: "NewLastResortKeyPackage", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return no(tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic))
	}},
	{name: "KeyPackages", prepare: (*stage).publish, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.KeyPackages(ctx, suite1, core.CredentialBasic, 3))
	}},
	{name: "CountKeyPackages", prepare: (*stage).publish, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return tx.CountKeyPackages(ctx, suite1, core.CredentialBasic)
	}},
	{name: "Client.CountKeyPackages", prepare: (*stage).publish, run: func(ctx context.Context, p player, _ *input) (any, error) {
		return p.CountKeyPackages(ctx, suite1, core.CredentialBasic)
	}},
	{name: "DeleteKeyPackages", prepare: (*stage).publish, tx: func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		return nil, tx.DeleteKeyPackages(ctx, in.Ref)
	}},

	{name: "DeleteKeyPackagesOf", prepare: (*stage).publish, tx: func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		return nil, tx.DeleteKeyPackagesOf(ctx, in.Credential)
	}},
	{name: "DeleteStaleKeyPackages", prepare: func(s *stage) { s.publish(); s.rename() }, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.DeleteStaleKeyPackages(ctx, suite1, core.CredentialBasic)
	}},
	{name: "StoredKeyPackages", prepare: (*stage).publish, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return size(tx.StoredKeyPackages(ctx))
	}},

	{name: "NewExternalAddProposal", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return no(tx.NewExternalAddProposal(ctx, "another", 3, client.KeyPackageOptions{Suite: suite1}))
	}},

	// what is ours alone
	{name: "SetData", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.SetData(ctx, []byte("data"))
	}},
	{name: "Data", prepare: (*stage).remember, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		data, _, err := tx.Data(ctx)
		return string(data), err
	}},
	{name: "Client.Data", prepare: (*stage).remember, run: func(ctx context.Context, p player, _ *input) (any, error) {
		data, _, err := p.Data(ctx)
		return string(data), err
	}},
	{name: "SetPSK", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.SetPSK(ctx, pskID, core.NewSecret([]byte("secret")))
	}},
	{name: "DeletePSK", prepare: (*stage).share, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.DeletePSK(ctx, pskID)
	}},
	{name: "SetParent", prepare: func(s *stage) { s.another("parent") }, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return nil, c.SetParent(ctx, "parent")
	})},
	{name: "NewConversation", tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return no(tx.NewConversation(ctx, "another", client.ConversationConfig{}))
	}},
	{name: "Wipe", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) { return nil, c.Wipe(ctx) })},

	// questions
	{name: "Conversation.Info", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) { return c.Info(ctx) })},
	{name: "Conversation.ClientIDs", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) { return c.ClientIDs(ctx) })},
	{name: "Conversation.ExportSecret", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		secret, err := c.ExportSecret(ctx, 32)
		return secret.Len(), err
	})},
	{name: "Conversation.GroupInfo", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) { return no(c.GroupInfo(ctx)) })},
	{name: "Conversation.PendingProposals", prepare: (*stage).proposed, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return size(c.PendingProposals(ctx))
	})},
	{name: "Conversation.HasPendingCommit", prepare: (*stage).unanswered, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.HasPendingCommit(ctx)
	})},
	{name: "Conversations", run: func(ctx context.Context, p player, _ *input) (any, error) { return p.Conversations(ctx) }},
	{name: "Info", run: func(ctx context.Context, p player, _ *input) (any, error) { return p.Info(ctx, chat) }},
	{name: "ClientIDs", run: func(ctx context.Context, p player, _ *input) (any, error) { return p.ClientIDs(ctx, chat) }},
	{name: "ExportSecret", run: func(ctx context.Context, p player, _ *input) (any, error) {
		secret, err := p.ExportSecret(ctx, chat, 32)
		return secret.Len(), err
	}},

	// sending
	{name: "Send", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.Send(ctx, []byte("one"), nil))
	})},
	{name: "Send and UpdateKeyMaterial", compound: true, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		if _, err := c.Send(ctx, []byte("one"), nil); err != nil {
			return nil, err
		}
		return c.UpdateKeyMaterial(ctx)
	})},
	{name: "StageCommit", prepare: (*stage).invite, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return no(c.StageCommit(ctx, client.Changes{Add: [][]byte{in.KeyPackage}}))
	})},
	{name: "StageCommit overtaken", compound: true, prepare: (*stage).rivalled, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.StageCommit(ctx, client.Changes{Update: true}))
	})},
	{name: "UpdateKeyMaterial overtaken", compound: true, prepare: (*stage).rivalled, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.UpdateKeyMaterial(ctx)
	})},
	{name: "JoinByExternalCommit overtaken", compound: true, outside: true, prepare: func(s *stage) { s.look(); s.rivalled() }, tx: joinByInfo},
	{name: "DiscardStaged", prepare: (*stage).staged, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return nil, c.DiscardStaged(ctx, in.Key)
	})},
	{name: "Resume, a commit is staged", prepare: (*stage).staged, run: resume},
	{name: "Resume, a proposal will be refused", prepare: (*stage).unwelcome, run: resume},
	{name: "Rejoin", run: func(ctx context.Context, p player, _ *input) (any, error) { return p.Rejoin(ctx, chat) }},
	{name: "Encrypt", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.Encrypt(ctx, []byte("text"), nil))
	})},
	{name: "ProposeAdd", prepare: (*stage).invite, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return no(c.ProposeAdd(ctx, in.KeyPackage))
	})},
	{name: "ProposeRemove", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.ProposeRemove(ctx, "carol"))
	})},
	{name: "ProposeUpdate", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.ProposeUpdate(ctx, 0))
	})},
	{name: "ProposePSK", prepare: (*stage).share, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return no(c.ProposePSK(ctx, pskID))
	})},
	{name: "Leave", tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) { return no(c.Leave(ctx)) })},
	{name: "ClearPendingProposal", prepare: (*stage).proposed, tx: inChat(func(ctx context.Context, c *client.Conversation, in *input) (any, error) {
		return nil, c.ClearPendingProposal(ctx, in.Ref)
	})},
	{name: "CommitPendingProposals of others", prepare: (*stage).proposed, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.CommitPendingProposals(ctx)
	})},
	{name: "UpdateKeyMaterial behind a commit", prepare: (*stage).unanswered, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.UpdateKeyMaterial(ctx)
	})},
	{name: "UpdateKeyMaterial behind texts", prepare: (*stage).blocked, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return c.UpdateKeyMaterial(ctx)
	})},
	{name: "DiscardPendingCommit", prepare: (*stage).unanswered, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		return nil, c.DiscardPendingCommit(ctx)
	})},
	{name: "DiscardPendingJoin", outside: true, prepare: (*stage).joining, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.DiscardPendingJoin(ctx, chat)
	}},
	{name: "JoinByExternalCommit behind a join", outside: true, prepare: (*stage).joining, tx: joinByInfo},
	{name: "Resume, texts wait", prepare: (*stage).blocked, run: resume},
	{name: "Resume, texts of an old epoch wait", prepare: (*stage).overtaken, varies: encryptedAgain, run: resume},
	{name: "Resume, a commit was not sent", prepare: (*stage).unanswered, run: resume},
	{name: "Resume, a commit was accepted", prepare: (*stage).unheard, run: resume},
	{name: "Resume, a join was not sent", outside: true, prepare: (*stage).joining, run: resume},
	{name: "Settle", prepare: (*stage).blocked, run: func(ctx context.Context, p player, _ *input) (any, error) { return nil, p.Settle(ctx, chat) }},

	// receiving
	{name: "ProcessWelcome", outside: true, prepare: func(s *stage) { s.welcome(false) }, tx: processWelcome},
	{name: "ProcessWelcome by a last resort", outside: true, prepare: func(s *stage) { s.welcome(true) }, tx: processWelcome},
	{name: "DecryptMessage: text", prepare: func(s *stage) { s.send(s.bob, "text"); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessage: proposal", prepare: func(s *stage) { s.propose(); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessage: commit", prepare: func(s *stage) { s.update(s.bob); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessage: removed", prepare: (*stage).expelled, tx: decryptMessage},
	{name: "DecryptMessage: future", prepare: func(s *stage) { s.update(s.bob); s.send(s.bob, "text"); s.next(2) }, tx: decryptMessage},
	{name: "DecryptMessage: commit and what was buffered", prepare: (*stage).early, tx: decryptMessage},
	{name: "DecryptMessage: commit without its proposal", prepare: (*stage).bobCommits, tx: decryptMessage},
	{name: "DecryptMessage: the missing proposal", prepare: func(s *stage) { s.bobCommits(); s.take(); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessages", prepare: func(s *stage) { s.update(s.bob); s.send(s.bob, "text"); s.next(2) }, tx: func(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
		return size(tx.DecryptMessages(ctx, chat, [][]byte{[]byte("rubbish"), in.Message}))
	}},
	{name: "DecryptMessage: own commit", prepare: func(s *stage) { s.unheard(); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessage: commit that overtook ours", prepare: func(s *stage) { s.unanswered(); s.update(s.bob); s.next(1) }, tx: decryptMessage},
	{name: "DecryptMessage: commit that overtakes texts", varies: encryptedAgain, prepare: func(s *stage) { s.overtaken(); s.next(1) }, tx: decryptMessage},
	{name: "Replay", outside: true, prepare: (*stage).welcomed, tx: inChat(func(ctx context.Context, c *client.Conversation, _ *input) (any, error) {
		replayed, err := c.Replay(ctx)
		return &client.ProposalResult{Replayed: replayed}, err
	})},

	// after the store was put back
	{name: "SweepKeys", run: func(ctx context.Context, p player, _ *input) (any, error) {
		_, err := p.SweepKeys(ctx)
		return nil, err
	}},
	{name: "Rejoin, recovering", prepare: func(s *stage) { s.blocked(); s.putBack() }, run: func(ctx context.Context, p player, _ *input) (any, error) {
		return p.Rejoin(ctx, chat)
	}},
	{name: "JoinByExternalCommit, recovering", prepare: func(s *stage) { s.unheard(); s.look(); s.putBack() }, tx: joinByInfo},
	{name: "ProcessWelcome, recovering", prepare: func(s *stage) { s.staged(); s.putBack(); s.addedAgain() }, tx: processWelcome},
	{name: "Wipe, recovering", prepare: func(s *stage) { s.blocked(); s.putBack() }, tx: func(ctx context.Context, tx *client.Transaction, _ *input) (any, error) {
		return nil, tx.WipeConversation(ctx, chat)
	}},

	// its life
	{name: "Open and Close", run: func(ctx context.Context, p player, _ *input) (answer any, err error) {
		cfg, wrapper := config(), p.wrapper
		if wrapper == nil {
			if wrapper, err = seal.RawKey(core.NewSecret(make([]byte, 32))); err != nil {
				return nil, err
			}
		}
		if cfg.Store, err = seal.Open(ctx, p.store, wrapper, "device"); err != nil {
			return nil, err
		}
		c, err := client.Open(ctx, cfg)
		if err != nil {
			return nil, errors.Join(err, cfg.Store.Close())
		}
		answer, err = c.ClientIDs(ctx, chat)
		return answer, errors.Join(err, c.Close(ctx))
	}},
})

// encryptedAgain: of an epoch in which something was encrypted there are ratchets.
var encryptedAgain = []core.Table{client.TableGroup}

func operationOf(name string) operation {
	i := slices.IndexFunc(operations, func(op operation) bool { return op.name == name })
	if i < 0 {
		panic("no operation " + name)
	}
	return operations[i]
}

func resume(ctx context.Context, p player, _ *input) (any, error) { return nil, p.Resume(ctx) }

func processWelcome(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
	return no(tx.ProcessWelcome(ctx, in.Welcome, client.JoinConfig{Group: in.Group}))
}

func decryptMessage(ctx context.Context, tx *client.Transaction, in *input) (any, error) {
	return tx.DecryptMessage(ctx, chat, in.Message)
}

var pskID = []byte("psk")

// What operations need.

// putBack has alice's store put back to what it holds, and alice recover.
func (s *stage) putBack() {
	s.Helper()
	s.must(s.alice.Close(s.Context()))
	s.store = putBack(s, photo(s, s.store))
	s.cfg.RolledBack = client.Recover
	s.open()
}

// addedAgain: bob removes alice and adds her.
func (s *stage) addedAgain() {
	s.Helper()
	s.in(s.bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "alice")
		return err
	})
	s.must(s.bob.Link.Drain(s.Context(), chat))
	s.welcome(false)
}

func (s *stage) invite() { s.input.KeyPackage = s.keyPackage(s.dave) }

func (s *stage) look() {
	s.Helper()
	info, err := s.service.GroupInfo(chat)
	s.must(err)
	s.input.Info = info
}

// share gives everybody a pre-shared key.
func (s *stage) share() {
	s.Helper()
	for _, d := range s.devices {
		s.do(d, func(ctx context.Context, tx *client.Transaction) error {
			return tx.SetPSK(ctx, pskID, core.NewSecret([]byte("a secret that all have")))
		})
	}
}

// publish makes two key packages and a last resort; the input is one of the two.
func (s *stage) publish() {
	s.Helper()
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error {
		list, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 2)
		if err != nil {
			return err
		}
		s.input.Ref = list[0].Ref
		all, err := tx.Credentials(ctx, client.CredentialFilter{})
		if err != nil {
			return err
		}
		s.input.Credential = all[0].Ref
		_, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
		return err
	})
}

// keys makes the keys of a client without an id.
func (s *stage) keys() {
	s.Helper()
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		s.input.Names, err = tx.GenerateKeypairs(ctx, 1, 2)
		return err
	})
}

// rename gives alice a newer credential; it is the input.
func (s *stage) rename() {
	s.Helper()
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error {
		own, err := tx.NewCredential(ctx, suite1)
		s.input.Credential = own.Ref
		return err
	})
}

func (s *stage) remember() {
	s.Helper()
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, []byte("data")) })
}

func (s *stage) another(id core.ConversationID) {
	s.Helper()
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, client.ConversationConfig{})
		return err
	})
}

// propose has bob propose something.
func (s *stage) propose() {
	s.Helper()
	s.in(s.bob, func(ctx context.Context, c *client.Conversation) error {
		p, err := c.ProposeUpdate(ctx, 0)
		s.input.Ref = p.Ref
		return err
	})
}

// proposed is propose, and alice knows of it.
func (s *stage) proposed() {
	s.Helper()
	s.propose()
	s.must(s.alice.Link.Drain(s.Context(), chat))
}

// blocked has texts of alice wait in her outbox.
func (s *stage) blocked() {
	s.Helper()
	up := down(s.alice)
	s.send(s.alice, "one")
	s.send(s.alice, "two")
	up()
}

// overtaken is blocked, with a proposal, and two commits of bob meanwhile.
func (s *stage) overtaken() {
	s.Helper()
	up := down(s.alice)
	s.send(s.alice, "one")
	s.send(s.alice, "two")
	s.in(s.alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, 0)
		return err
	})
	for range 2 {
		s.update(s.bob)
		s.must(s.bob.Link.Drain(s.Context(), chat))
	}
	up()
}

// staged has a commit of alice wait in her outbox, behind a text.
func (s *stage) staged() {
	s.Helper()
	up := down(s.alice)
	s.in(s.alice, func(ctx context.Context, c *client.Conversation) (err error) {
		if _, err = c.Send(ctx, []byte("one"), nil); err == nil {
			s.input.Key, err = c.StageCommit(ctx, client.Changes{Update: true})
		}
		return err
	})
	up()
}

// A rival is a service where bob is faster, once.
type rival struct {
	clienttest.Backend
	faster func()
}

func (r *rival) SubmitCommit(by core.ClientID, id core.ConversationID, b client.CommitBundle) client.Outcome {
	if faster := r.faster; faster != nil {
		r.faster = nil
		faster()
	}
	return r.Backend.SubmitCommit(by, id, b)
}

// rivalled: bob will commit before alice does.
func (s *stage) rivalled() {
	s.alice.Link.Service = &rival{Backend: s.service, faster: func() {
		s.update(s.bob)
		s.must(s.bob.Link.Drain(s.Context(), chat))
	}}
}

// A doorman is a service that refuses the first message that it sees.
type doorman struct {
	clienttest.Backend
	refused string // its key
}

func (d *doorman) SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome {
	if d.refused == "" {
		d.refused = key
	}
	if key == d.refused {
		return client.Outcome{Kind: client.Refused, Reason: "no"}
	}
	return d.Backend.SendMessage(by, id, key, message)
}

// unwelcome has a proposal of alice wait that will be refused.
func (s *stage) unwelcome() {
	s.Helper()
	up := down(s.alice)
	s.in(s.alice, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.ProposeUpdate(ctx, 0)
		return err
	})
	up()
	s.alice.Link.Service = &doorman{Backend: s.service}
}

// unanswered has a commit of alice wait that has not reached the service.
func (s *stage) unanswered() {
	s.Helper()
	s.alice.Link.Before = once("commit")
	if err := in(s.Context(), s.alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		s.Fatal(err)
	}
}

// unheard has a commit of alice wait that the service has accepted.
func (s *stage) unheard() {
	s.Helper()
	s.alice.Link.After = once("commit")
	if err := in(s.Context(), s.alice, update); !errors.Is(err, core.ErrUnknownOutcome) {
		s.Fatal(err)
	}
}

// joining has an external commit of alice wait that has not reached the service.
func (s *stage) joining() {
	s.Helper()
	s.look()
	s.alice.Link.Before = once("commit")
	err := s.alice.Transaction(s.Context(), func(ctx context.Context, tx *client.Transaction) error {
		_, err := joinByInfo(ctx, tx, &s.input)
		return err
	})
	if !errors.Is(err, core.ErrUnknownOutcome) {
		s.Fatal(err)
	}
}

// next makes the n-th message that waits for alice the input.
func (s *stage) next(n int) {
	s.Helper()
	number, _, err := s.service.Next("alice", chat)
	s.must(err)
	log := s.service.Log(chat)
	s.input.Message = log[number-1+n-1]
}

// take has alice process the input.
func (s *stage) take() {
	s.Helper()
	_, err := s.give(s.alice, s.input.Message)
	s.must(err)
}

// expelled: bob removes alice, who has a text waiting.
func (s *stage) expelled() {
	s.Helper()
	s.blocked()
	s.in(s.bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.RemoveMembers(ctx, "alice")
		return err
	})
	s.next(1)
}

// early: alice has a text of the next epoch, and the commit comes now.
func (s *stage) early() {
	s.Helper()
	s.update(s.bob)
	s.send(s.bob, "text")
	s.next(2)
	s.take()
	s.next(1)
}

// bobCommits has bob propose and commit; the input is the commit.
func (s *stage) bobCommits() {
	s.Helper()
	s.propose()
	s.must(s.bob.Link.Drain(s.Context(), chat))
	s.must(s.carol.Link.Drain(s.Context(), chat))
	s.in(s.carol, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.CommitPendingProposals(ctx)
		return err
	})
	s.next(2)
}

// welcome has bob add alice.
func (s *stage) welcome(lastResort bool) {
	s.Helper()
	var k client.KeyPackage
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) (err error) {
		if lastResort {
			k, err = tx.NewLastResortKeyPackage(ctx, suite1, core.CredentialBasic)
			return err
		}
		list, err := tx.NewKeyPackages(ctx, suite1, core.CredentialBasic, 1)
		if err == nil {
			k = list[0]
		}
		return err
	})
	s.in(s.bob, func(ctx context.Context, c *client.Conversation) error {
		_, err := c.AddMembers(ctx, k.Message)
		return err
	})
	w, ok := s.service.Welcome("alice")
	if !ok {
		s.Fatal("no Welcome")
	}
	s.input.Welcome = w.Message
}

// welcomed: alice has joined, and a text came while she was about to.
func (s *stage) welcomed() {
	s.Helper()
	s.joining()
	s.welcome(false)
	s.send(s.bob, "text")
	s.next(1)
	s.take() // buffered, because of the join
	s.do(s.alice, func(ctx context.Context, tx *client.Transaction) error {
		if err := tx.DiscardPendingJoin(ctx, chat); err != nil {
			return err
		}
		_, err := processWelcome(ctx, tx, &s.input)
		return err
	})
}
