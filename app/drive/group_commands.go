// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

const (
	maxKeyPackages = 1000               // that one request makes
	maxLifetime    = 365 * 24 * 60 * 60 // of one, in seconds
)

func keyPackages(ctx context.Context, i *instance, r *request) (result, error) {
	n, err := upTo("n", r.N, 1, maxKeyPackages)
	if err != nil {
		return nil, err
	}
	suite, err := i.suite(r)
	if err != nil {
		return nil, err
	}
	options := client.KeyPackageOptions{Suite: suite.ID()}
	if r.Lifetime != nil {
		if *r.Lifetime <= 0 || *r.Lifetime > maxLifetime {
			return nil, bad("lifetime: %d is not from 1 to %d", *r.Lifetime, maxLifetime)
		}
		options.Lifetime = time.Duration(*r.Lifetime) * time.Second
	}
	var made []client.KeyPackage
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		made, err = tx.MakeKeyPackages(ctx, options, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	packages, refs := [][]byte{}, [][]byte{}
	for _, k := range made {
		packages, refs = append(packages, bare(k.Message)), append(refs, k.Ref)
	}
	return result{"keyPackages": packages, "refs": refs}, nil
}

// keyPackageRefs lists the key packages that are kept.
func keyPackageRefs(ctx context.Context, i *instance, _ *request) (result, error) {
	var kept []client.KeyPackage
	err := i.transact(ctx, func(ctx context.Context, tx *client.Transaction) (err error) {
		kept, err = tx.StoredKeyPackages(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := []result{}
	for _, k := range kept {
		list = append(list, result{"hashRef": k.Ref, "ciphersuite": k.Suite, "valid": time.Now().Before(k.Expires)})
	}
	return result{"refs": list}, nil
}

func createConversation(ctx context.Context, i *instance, r *request) (result, error) {
	id, err := r.conversation()
	if err != nil {
		return nil, err
	}
	suite, err := i.suite(r)
	if err != nil {
		return nil, err
	}
	cfg := client.ConversationConfig{Suite: suite.ID()}
	if r.Sender != nil {
		if cfg.ExternalSenders, err = client.ParseExternalSenders(suite, r.Sender); err != nil {
			return nil, err
		}
	}
	return nil, i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		_, err := tx.NewConversation(ctx, id, cfg)
		return err
	})
}

// parseKeyPackage reads and writes one again, whoever's it is.
func parseKeyPackage(_ context.Context, i *instance, r *request) (result, error) {
	encoded, err := need("keyPackage", r.KeyPackage)
	if err != nil {
		return nil, err
	}
	k, err := mls.UnmarshalKeyPackage(encoded)
	if err != nil {
		return nil, err
	}
	suite, err := i.suites.Suite(k.Suite)
	if err != nil {
		return nil, err
	}
	return result{
		"keyPackage": k.Marshal(), "hashRef": k.Ref(suite), "ciphersuite": k.Suite,
		"valid": k.Validate(suite, time.Now()) == nil,
	}, nil
}

func addMembers(ctx context.Context, i *instance, r *request) (result, error) {
	packages, err := r.keyPackages()
	if err != nil {
		return nil, err
	}
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		return c.AddMembers(ctx, packages...)
	})
}

func removeMembers(ctx context.Context, i *instance, r *request) (result, error) {
	asked, err := r.clientIDs()
	if err != nil {
		return nil, err
	}
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		members, err := c.ClientIDs(ctx)
		if err != nil {
			return nil, err
		}
		remove := asked
		for _, m := range members {
			for _, id := range asked {
				if sameClient(id, m) {
					remove = append(remove, m) // as it stands in the group
				}
			}
		}
		return c.RemoveMembers(ctx, remove...)
	})
}

func updateKeys(ctx context.Context, i *instance, r *request) (result, error) {
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		return c.UpdateKeyMaterial(ctx)
	})
}

func commitPending(ctx context.Context, i *instance, r *request) (result, error) {
	return i.commit(ctx, r, func(ctx context.Context, c *client.Conversation) (*client.CommitResult, error) {
		return c.CommitPendingProposals(ctx)
	})
}

// commit runs what commits in a conversation. What it made readable is in the reply.
func (i *instance) commit(ctx context.Context, r *request, f func(context.Context, *client.Conversation) (*client.CommitResult, error)) (result, error) {
	var done *client.CommitResult
	err := i.in(ctx, r, func(ctx context.Context, c *client.Conversation) (err error) {
		done, err = f(ctx, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return i.withReplayed(ctx, r, result{}, done.Replayed), nil
}

// joinByExternalCommit joins as the GroupInfo says. An earlier join that waits for its
// answer is forgotten: this one replaces it, if it was accepted.
func joinByExternalCommit(ctx context.Context, i *instance, r *request) (result, error) {
	info, err := r.groupInfo()
	if err != nil {
		return nil, err
	}
	m, err := mls.UnmarshalMLSMessage(info)
	if err != nil {
		return nil, err
	}
	r.Conversation = m.GroupInfo.GroupContext.GroupID
	var done *client.CommitResult
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		err := tx.DiscardPendingJoin(ctx, core.ConversationID(r.Conversation))
		if err != nil && !errors.Is(err, core.ErrNotFound) {
			return err
		}
		_, done, err = tx.JoinByExternalCommit(ctx, info, client.JoinConfig{})
		return err
	})
	if err != nil {
		return nil, err
	}
	return i.withReplayed(ctx, r, result{"conversation": r.Conversation}, done.Replayed), nil
}

func processWelcome(ctx context.Context, i *instance, r *request) (result, error) {
	welcome, err := need("welcome", r.Welcome)
	if err != nil {
		return nil, err
	}
	var id core.ConversationID
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		c, err := tx.ProcessWelcome(ctx, welcome, client.JoinConfig{})
		if err == nil {
			id = c.ID()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return result{"conversation": []byte(id)}, nil
}

func wipe(ctx context.Context, i *instance, r *request) (result, error) {
	return nil, i.in(ctx, r, func(ctx context.Context, c *client.Conversation) error { return c.Wipe(ctx) })
}

// ask reads something of the conversation of a request, as it durably is.
func ask[T any](ctx context.Context, i *instance, r *request, name string, f func(client.View, context.Context) (T, error)) (result, error) {
	id, err := r.conversation()
	if err != nil {
		return nil, err
	}
	answer, err := f(i.client.View(id), ctx)
	if err != nil {
		return nil, err
	}
	return result{name: answer}, nil
}

func epoch(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "epoch", client.View.Epoch)
}

func ciphersuite(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "ciphersuite", client.View.Suite)
}

func exists(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "exists", client.View.Exists)
}

func externalSender(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "key", client.View.ExternalSender)
}

func members(ctx context.Context, i *instance, r *request) (result, error) {
	return ask(ctx, i, r, "members", func(v client.View, ctx context.Context) ([]result, error) {
		ids, err := v.ClientIDs(ctx)
		list := []result{}
		for _, id := range ids {
			if !client.IsHistoryClient(id) {
				list = append(list, showClientID(id))
			}
		}
		return list, err
	})
}

func exportSecret(ctx context.Context, i *instance, r *request) (result, error) {
	length, err := upTo("length", r.Length, 32, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	return ask(ctx, i, r, "secret", func(v client.View, ctx context.Context) ([]byte, error) {
		s, err := v.ExportSecret(ctx, length)
		return append([]byte{}, s.Bytes()...), err
	})
}

// identities tells of those who are members.
func identities(ctx context.Context, i *instance, r *request) (result, error) {
	id, err := r.conversation()
	if err != nil {
		return nil, err
	}
	asked, err := r.clientIDs()
	if err != nil {
		return nil, err
	}
	all, err := i.roster(ctx, id)
	if err != nil {
		return nil, err
	}
	list := []result{}
	for _, asked := range asked {
		for _, m := range all.members {
			if sameClient(asked, m.ClientID) {
				list = append(list, all.identity(m.ClientID))
			}
		}
	}
	return result{"identities": list}, nil
}
