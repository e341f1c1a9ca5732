// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/memory"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// A clientParty is our party: a client on a store.
type clientParty struct {
	*rand.Rand
	folder string // of the store; empty: it is in memory
	file   string
	ks     core.Keystore
	store  *seal.Store
	client *client.Client
	tx     *client.Transaction // open; nil: each operation has one of its own
}

// newClient makes a device; from is where it was before, nil: nowhere.
func newClient(rng *rand.Rand, folder string, from *proteusStore) (*clientParty, error) {
	c := &clientParty{Rand: rng, folder: folder, ks: memory.New()}
	if folder != "" {
		c.file = filepath.Join(folder, fmt.Sprintf("%x.db", rng.Uint64()))
	}
	if err := c.open(); err != nil {
		return nil, err
	}
	if from != nil {
		if err := c.arrive(from); err != nil {
			return nil, err
		}
	}
	return c, c.do(func(ctx context.Context, p client.Proteus) error {
		if err := p.Init(ctx); err != nil {
			return err
		}
		ours, err := p.LastResortPreKey(ctx)
		if err != nil {
			return err
		}
		return p.SessionFromPreKey(ctx, another, ours)
	})
}

// arrive takes what the device was elsewhere, as a browser's cryptobox exports it.
func (c *clientParty) arrive(from *proteusStore) error {
	exported, err := json.Marshal(from)
	if err != nil {
		return err
	}
	box, err := cryptobox.Browser(exported)
	if err != nil {
		return err
	}
	var left error
	err = c.client.MigrateCryptobox(context.Background(), box, func(m client.Migrated, _, _ int) { left = errors.Join(left, m.Err) })
	return errors.Join(err, left)
}

func (c *clientParty) open() (err error) {
	ctx := context.Background()
	if c.file != "" {
		if c.ks, err = sqlite.Open(ctx, c.file); err != nil {
			return err
		}
	}
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if err != nil {
		return err
	}
	if c.store, err = seal.Open(ctx, c.ks, wrapper, "device"); err != nil {
		return err
	}
	provider := pure.New()
	c.client, err = client.Open(ctx, client.Config{Store: c.store, Suites: provider, Keys: provider})
	return err
}

// end closes the client; a transaction that is open is lost as it is by a process that dies.
func (c *clientParty) end() error {
	ctx, cancel := context.WithCancel(context.Background())
	if c.tx != nil {
		cancel() // nobody waits for it
	}
	defer cancel()
	err := c.client.Close(ctx)
	if c.tx != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	c.tx = nil
	if c.file != "" {
		err = errors.Join(err, c.ks.Close())
	}
	return err
}

// goAway ends the client for good.
func (c *clientParty) goAway() error {
	err := c.end()
	if c.file != "" {
		err = errors.Join(err, os.Remove(c.file))
	}
	return err
}

func (c *clientParty) restart() error { return errors.Join(c.end(), c.open()) }

// do is for one operation or several.
func (c *clientParty) do(f func(ctx context.Context, p client.Proteus) error) error {
	ctx := context.Background()
	if c.tx != nil {
		return f(ctx, c.tx.Proteus())
	}
	return c.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return f(ctx, tx.Proteus()) })
}

func (c *clientParty) begin() (err error) {
	c.tx, err = c.client.Begin(context.Background())
	return err
}

func (c *clientParty) finish(abort bool) error {
	tx := c.tx
	c.tx = nil
	if abort {
		return tx.Abort(context.Background())
	}
	return tx.Finish(context.Background())
}

func (c *clientParty) preKey(lastResort bool) (*proteus.PreKeyBundle, []byte, error) {
	var encoded []byte
	err := c.do(func(ctx context.Context, p client.Proteus) (err error) {
		if lastResort {
			encoded, err = p.LastResortPreKey(ctx)
		} else {
			_, encoded, err = p.NewPreKeyAuto(ctx)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	b, err := proteus.UnmarshalPreKeyBundle(encoded)
	return b, encoded, err
}

func (c *clientParty) openSession(bundle []byte) error {
	return c.do(func(ctx context.Context, p client.Proteus) error {
		return p.SessionFromPreKey(ctx, peerSession, bundle)
	})
}

// another is a session with ourselves, for batches.
const another = "another"

func (c *clientParty) encrypt(plaintext []byte, n int) (message []byte, err error) {
	err = c.do(func(ctx context.Context, p client.Proteus) error {
		message = nil
		if c.IntN(4) == 0 {
			batch, err := p.EncryptBatched(ctx, []string{another, peerSession, "nobody"}, plaintext)
			if err != nil {
				return err
			}
			if batch[another] == nil || batch["nobody"] != nil {
				return fmt.Errorf("in the batch: %x", batch)
			}
			if message = batch[peerSession]; message != nil {
				n--
			}
		}
		for ; n > 0 || message == nil; n-- {
			if message, err = p.Encrypt(ctx, peerSession, plaintext); err != nil {
				return err
			}
		}
		return nil
	})
	return message, err
}

func (c *clientParty) decrypt(message []byte, inSession bool) (plaintext []byte, err error) {
	err = c.do(func(ctx context.Context, p client.Proteus) (err error) {
		switch {
		case c.IntN(2) == 0:
			plaintext, err = p.DecryptSafe(ctx, peerSession, message)
		case inSession:
			plaintext, err = p.Decrypt(ctx, peerSession, message)
		default:
			plaintext, err = p.SessionFromMessage(ctx, peerSession, message)
		}
		return err
	})
	return plaintext, err
}

func (c *clientParty) drop() error {
	return c.do(func(ctx context.Context, p client.Proteus) error { return p.Delete(ctx, peerSession) })
}

func (c *clientParty) fingerprints() (local, remote string, err error) {
	err = c.do(func(ctx context.Context, p client.Proteus) (err error) {
		local, remote, err = p.Fingerprints(ctx, peerSession)
		return err
	})
	return local, remote, err
}

func (c *clientParty) says(err error) string {
	code := proteus.CodeOf(err)
	if errors.Is(err, proteus.ErrMalformed) && code != proteus.CodeMessageType {
		code = proteus.CodeMalformed
	}
	return fmt.Sprint(code)
}

func (c *clientParty) saying(code proteus.Code) []string { return []string{fmt.Sprint(code)} }

// Where a client has its Proteus records: the table, and the key of what is alone in a
// place. Each begins with a byte for its format.
const (
	tableIdentity core.Table = 40
	tablePreKeys  core.Table = 41
	tableSession  core.Table = 43 // a scope for each; our head, then a byte for the kind before the engine's keys
)

// leave gives the device away: a client has no operation for that.
func (c *clientParty) leave() (proteusStore, error) {
	ctx := context.Background()
	to := proteusStore{PreKeys: map[string][]byte{}, Sessions: map[string][]byte{}}
	stored, err := c.store.Read(ctx, []seal.Query{
		{Table: tableIdentity}, {Table: tablePreKeys}, {Table: tableSession, Scope: []byte(peerSession), Prefix: []byte{0}},
	})
	if err != nil {
		return to, err
	}
	to.Identity = stored[0][0].Value[1:]
	for _, r := range stored[1] {
		to.PreKeys[fmt.Sprint(binary.BigEndian.Uint16(r.Key[1:]))] = r.Value[1:]
	}
	if len(stored[2]) == 0 {
		return to, nil
	}
	s, err := proteus.LoadSession(ctx, c.fetch)
	if err != nil {
		return to, err
	}
	var floors []proteus.Floor // after a sequence, a count of accidents and how many there are
	for b := stored[2][0].Value[1+8+4+4:]; len(b) > 0; b = b[40:] {
		floors = append(floors, proteus.Floor{Ratchet: proteus.PublicKey(b), Index: binary.BigEndian.Uint64(b[32:])})
	}
	to.Sessions[peerSession], err = s.Above(floors).Marshal(ctx, &proteus.Env{Fetch: c.fetch})
	return to, err
}

// fetch reads the engine's records of the session.
func (c *clientParty) fetch(ctx context.Context, queries []record.Query) ([][]record.Record, error) {
	out := make([][]record.Record, len(queries))
	for i, q := range queries {
		kind := []byte{byte(q.Kind)}
		found, err := c.store.Read(ctx, []seal.Query{{Table: tableSession, Scope: []byte(peerSession), Prefix: append(kind, q.Prefix...)}})
		if err != nil {
			return nil, err
		}
		for _, r := range found[0] {
			out[i] = append(out[i], record.Record{Kind: q.Kind, Key: r.Key[1:], Value: r.Value})
		}
	}
	return out, nil
}

// wholeRecords compares how many records there are of a session with how many there should be.
func (c *clientParty) wholeRecords(should *modelSession) error {
	stored, err := c.store.Read(context.Background(), []seal.Query{{Table: tableSession, Scope: []byte(peerSession)}})
	if err != nil {
		return err
	}
	want := 2 + len(should.states)
	for _, s := range should.states {
		for _, c := range s.receive {
			pages := slices.Clone(c.kept)
			for i := range pages {
				pages[i] /= 32
			}
			want += len(slices.Compact(pages))
		}
	}
	if len(stored[0]) != want {
		return fmt.Errorf("%d records, wanted %d", len(stored[0]), want)
	}
	return nil
}
