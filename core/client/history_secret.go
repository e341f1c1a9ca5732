// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
)

// historyPrefix begins the id of every history client; no other client's does.
const historyPrefix = "history-client"

// IsHistoryClient says whether an id is that of a history client: a passive member
// of a conversation, whose secret lets its holder read the conversation for as long
// as it is one.
func IsHistoryClient(id core.ClientID) bool { return strings.HasPrefix(string(id), historyPrefix) }

// errHistoryID: an id that means something else than who has it.
var errHistoryID = fmt.Errorf("client: an id that begins with %q is a history client's: %w", historyPrefix, core.ErrInvalid)

// A HistorySecret is what it takes to be a history client: who holds it can read the
// conversation from the epoch in which that client was added to the one in which it
// was removed; see [OpenHistory]. It cannot send: the key that signed for the client
// was thrown away.
type HistorySecret struct {
	ClientID core.ClientID
	// Data is the secret, up to 64 KiB. Its form is Core Crypto's, so that its members
	// can read ours and the other way round.
	Data core.Secret
}

// ParseHistorySecret checks a history secret that came from another member, and takes
// a copy. ErrInvalid: it is malformed, a signature in it does not hold, or a private
// key is not that of its public key. core.ErrUnsupported: its suite is not at hand.
// That it belongs to a conversation is for [View.CheckHistorySecret] to say. How a
// secret is told from another text: see [Conversation.EnableHistorySharing].
func ParseHistorySecret(suites core.SuiteSource, data []byte) (HistorySecret, error) {
	b, err := openHistory(suites, data)
	if err != nil {
		return HistorySecret{}, err
	}
	wipeBundle(b)
	id := core.ClientID(b.KeyPackage.LeafNode.Credential.Identity)
	return HistorySecret{ClientID: id, Data: core.NewSecret(bytes.Clone(data))}, nil
}

// openHistory is ParseHistorySecret; the result is the key package with its keys.
func openHistory(suites core.SuiteSource, data []byte) (*mls.KeyPackageBundle, error) {
	f, err := unpackHistory(data)
	if err != nil {
		return nil, err
	}
	defer f.wipe()
	bad := func(err error) (*mls.KeyPackageBundle, error) { return nil, fmt.Errorf("history secret: %w", err) }
	suite, err := suiteNamed(suites, f.suite)
	if err != nil {
		return bad(err)
	}
	k := &f.k
	k.Suite = suite.ID()
	id := k.LeafNode.Credential.Identity
	if !bytes.Equal(f.client, id) || !IsHistoryClient(core.ClientID(id)) {
		return bad(fmt.Errorf("of a client that is none: %w", core.ErrInvalid))
	}
	// What was signed then counts; the lifetime is that of the invitation, long over
	// when somebody looks back.
	if err := k.Validate(suite, time.Time{}); err != nil {
		return bad(err)
	}
	b := &mls.KeyPackageBundle{KeyPackage: k}
	if b.InitKey, err = suite.OpenKeyPair(core.NewSecret(bytes.Clone(f.private.init))); err != nil {
		return bad(err)
	}
	if b.LeafKey, err = suite.OpenKeyPair(core.NewSecret(bytes.Clone(f.private.leaf))); err != nil {
		return bad(err)
	}
	if !bytes.Equal(b.InitKey.Public(), k.InitKey) || !bytes.Equal(b.LeafKey.Public(), k.LeafNode.EncryptionKey) ||
		!bytes.Equal(f.leafKey, k.LeafNode.EncryptionKey) {
		return bad(fmt.Errorf("a private key is not that of its public key: %w", core.ErrInvalid))
	}
	return b, nil
}

func suiteNamed(suites core.SuiteSource, name string) (core.Suite, error) {
	for _, id := range suites.Suites() {
		suite, err := suites.Suite(id)
		if err != nil {
			return nil, err
		}
		if suite.Parameters().Name == name {
			return suite, nil
		}
	}
	return nil, fmt.Errorf("suite %.80q: %w", name, core.ErrUnsupported)
}

func wipeBundle(b *mls.KeyPackageBundle) {
	b.InitKey.Material().Wipe()
	b.LeafKey.Material().Wipe()
}

// historyClient makes a history client that can be what another member is.
func (c *Client) historyClient(ctx context.Context, suite core.Suite, id core.ClientID, like mls.Capabilities) (HistorySecret, *mls.KeyPackage, error) {
	fail := func(err error) (HistorySecret, *mls.KeyPackage, error) { return HistorySecret{}, nil, err }
	lifetime, err := c.lifetime(0)
	if err != nil {
		return fail(err)
	}
	key, err := c.passingKey(ctx, suite.Parameters().Signature)
	if err != nil {
		return fail(err)
	}
	b, err := mls.NewKeyPackage(ctx, mls.KeyPackageParams{
		Suite: suite, Signer: key.(core.Signer), Credential: core.BasicCredential(id), Capabilities: like,
		Lifetime: lifetime, Now: c.now(), MaxLifetime: c.cfg.MaxLifetime,
	})
	key.Material().Wipe()
	if err != nil {
		return fail(err)
	}
	defer wipeBundle(b)
	return HistorySecret{ClientID: id, Data: packHistory(suite, b)}, b.KeyPackage, nil
}

// passingKey makes a signature key that is gone after use. It is made in software
// whatever keeps our own keys: nobody could ever tell that it was not.
func (c *Client) passingKey(ctx context.Context, algorithm core.KeyAlgorithm) (core.SoftwareKey, error) {
	provider, ok := c.suites.(core.CryptoProvider)
	if !ok {
		if c.deleter("") != nil {
			return nil, fmt.Errorf("history client: no provider of keys in software: %w", core.ErrUnsupported)
		}
		provider = c.keys
	}
	key, err := provider.GenerateKey(ctx, keySpec(newKeyID(), algorithm))
	if err != nil {
		return nil, err
	}
	software, ok := key.(core.SoftwareKey)
	if _, signs := key.(core.Signer); !ok || !signs {
		return nil, fmt.Errorf("history client: key %s: %w", key.Ref(), core.ErrUnsupported)
	}
	return software, nil
}

// newHistoryID has a random UUID, version 4, in it.
func newHistoryID() core.ClientID {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails, see crypto/rand
	u[6], u[8] = u[6]&0x0F|0x40, u[8]&0x3F|0x80
	return core.ClientID(fmt.Sprintf(historyPrefix+":%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}
