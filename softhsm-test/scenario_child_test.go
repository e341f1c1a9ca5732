// SPDX-License-Identifier: Apache-2.0

//go:build unix && cgo && !nohsm

package softhsmtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/seal"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/providers/pure"
	"github.com/conclave-mls/conclave/storage/sqlite"
)

// asMember is set in the environment of children: what they do instead of tests.
const asMember = "SOFTHSMTEST_MEMBER"

func TestMain(m *testing.M) {
	text := os.Getenv(asMember)
	if text == "" {
		os.Exit(m.Run())
	}
	var p part
	err := json.Unmarshal([]byte(text), &p)
	if err == nil {
		err = p.play(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A part is what a child of a test is.
type part struct {
	Token string // URI
	Latch string
	KEK   string // URI; empty: a key that everybody knows seals the store
	Store string // file
	ID    core.ClientID
	Suite core.SuiteID

	// Instead of a member: a client that does what clients do with keys, and dies at a
	// point (0: at none); or a process to look into, which uses a key.
	Dies   bool
	KillAt int
	Reopen int // not 0: the client exists
	Memory core.KeyRef

	Enroll *enrollee // or a client that gets a certificate, and dies on the way
}

func (p part) play(ctx context.Context) error {
	switch {
	case p.Memory != "":
		return p.holdKeys(ctx)
	case p.Enroll != nil:
		return p.enroll(ctx)
	case p.Dies:
		return p.live(ctx)
	}
	return p.serve(ctx)
}

// opened is the client of a part, with all that is below it.
type opened struct {
	*client.Client
	close func() error
}

// open makes a client with the keys of a token or, without one, with keys in memory.
func (p part) open(ctx context.Context, token *hsm.Token, points *points, link client.Transport) (o opened, err error) {
	ks, err := sqlite.Open(ctx, p.Store)
	if err != nil {
		return o, err
	}
	wrapper, err := seal.RawKey(core.NewSecret(make([]byte, 32)))
	if p.KEK != "" {
		wrapper, err = token.Wrapper(ctx, p.KEK)
	}
	if err != nil {
		return o, errors.Join(err, ks.Close())
	}
	store, err := seal.Open(ctx, &mortalStore{ks, points}, wrapper, "client")
	if err != nil {
		return o, errors.Join(err, ks.Close())
	}
	var keys core.CryptoProvider = pure.New()
	if token != nil {
		keys = &mortalKeys{token.Provider(), points}
	}
	c, err := client.Open(ctx, client.Config{Store: store, Suites: pure.New(), Keys: keys, Transport: link})
	if err != nil {
		return o, errors.Join(err, ks.Close())
	}
	return opened{c, func() error { return errors.Join(c.Close(ctx), ks.Close()) }}, nil
}

// serve answers requests, each a line of JSON, as the driver of Core Crypto does; see
// app/drive. One more rotates the signature key.
func (p part) serve(ctx context.Context) error {
	token, err := hsm.Open(ctx, hsm.Config{URI: p.Token, Latch: p.Latch})
	if err != nil {
		return err
	}
	m := &member{part: p, out: json.NewEncoder(os.Stdout)}
	o, err := p.open(ctx, token, &points{}, m)
	if err != nil {
		return err
	}
	m.client = o.Client
	if _, err := o.ClientID(ctx); errors.Is(err, client.ErrNotInitialized) {
		err = o.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error { return tx.InitMLS(ctx, p.ID, p.Suite) })
		if err != nil {
			return err
		}
	}
	if err := m.out.Encode(map[string]any{"ready": true}); err != nil {
		return err
	}
	for in := bufio.NewReader(os.Stdin); ; {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return errors.Join(o.close(), token.Close())
		}
		if err != nil {
			return err
		}
		m.asked, m.answer = request{}, answer{}
		if err := json.Unmarshal(line, &m.asked); err != nil {
			return err
		}
		r := reply{ID: m.asked.ID}
		if err := m.do(ctx); err != nil {
			r.Error = &failure{Message: err.Error()}
		} else {
			r.OK, r.Result = true, &m.answer
		}
		if err := m.out.Encode(r); err != nil {
			return err
		}
	}
}

// What goes over the pipe, in the words of Core Crypto's driver.
type (
	request struct {
		ID           int            `json:"id"`
		Command      string         `json:"cmd"`
		Instance     string         `json:"inst,omitempty"`
		ClientID     core.ClientID  `json:"clientId,omitempty"`
		Suites       []core.SuiteID `json:"ciphersuites,omitempty"`
		Suite        core.SuiteID   `json:"ciphersuite,omitempty"`
		Conversation []byte         `json:"conversation,omitempty"`
		KeyPackages  [][]byte       `json:"keyPackages,omitempty"` // without the header of an MLSMessage
		Welcome      []byte         `json:"welcome,omitempty"`
		Message      []byte         `json:"message,omitempty"`
		Plaintext    []byte         `json:"plaintext,omitempty"`
		Length       int            `json:"length,omitempty"`
		Transport    struct {
			Kind string `json:"kind,omitempty"`
		} `json:"transport"`
	}
	answer struct {
		Bundle      *bundle         `json:"bundle,omitempty"`
		KeyPackages [][]byte        `json:"keyPackages,omitempty"`
		Message     json.RawMessage `json:"message,omitempty"` // bytes, or a received
		Secret      []byte          `json:"secret,omitempty"`
		Epoch       uint64          `json:"epoch,omitempty"`
	}
	bundle struct {
		Commit  []byte `json:"commit"`
		Welcome []byte `json:"welcome,omitempty"`
	}
	received struct {
		Type      string `json:"type"`
		Plaintext []byte `json:"plaintext,omitempty"`
	}
	failure struct {
		Kind, Message string
		Detail        any
	}
	reply struct {
		ID     int      `json:"id"`
		OK     bool     `json:"ok"`
		Result *answer  `json:"result,omitempty"`
		Error  *failure `json:"error,omitempty"`
	}
)

func (f *failure) Error() string { return fmt.Sprintf("%s: %s %v", f.Kind, f.Message, f.Detail) }

// A member is a client of ours that does what it is asked.
type member struct {
	part
	out    *json.Encoder
	client *client.Client
	asked  request
	answer answer
}

// SubmitCommit implements [client.Transport]: who has asked hands the commit on.
func (m *member) SubmitCommit(_ context.Context, _ core.ConversationID, _ string, b client.CommitBundle) (client.Outcome, error) {
	m.answer.Bundle = &bundle{b.Commit, b.Welcome}
	if m.asked.Transport.Kind == "crash" {
		if err := m.out.Encode(reply{ID: m.asked.ID, OK: true, Result: &m.answer}); err != nil {
			return client.Outcome{}, err
		}
		die()
	}
	return client.Outcome{Kind: client.Accepted}, nil
}

// SendMessage implements [client.Transport]. Only proposals are sent so.
func (m *member) SendMessage(_ context.Context, _ core.ConversationID, _ string, message []byte) (client.Outcome, error) {
	return client.Outcome{Kind: client.Accepted}, m.gives(message)
}

// Drain implements [client.Transport].
func (m *member) Drain(context.Context, core.ConversationID) error { return nil }

// keyPackageHeader makes an MLSMessage of a key package.
var keyPackageHeader = []byte{0, 1, 0, 5}

func (m *member) do(ctx context.Context) error {
	r, id := m.asked, core.ConversationID(m.asked.Conversation)
	in := func(f func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error) error {
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			c, err := tx.Conversation(ctx, id)
			if err != nil {
				return err
			}
			return f(ctx, tx, c)
		})
	}
	switch r.Command {
	case "createConversation":
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.NewConversation(ctx, id, client.ConversationConfig{Suite: m.Suite})
			return err
		})
	case "keypackages":
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			made, err := tx.NewKeyPackages(ctx, m.Suite, core.CredentialBasic, 1)
			if err == nil {
				m.answer.KeyPackages = [][]byte{made[0].Message[len(keyPackageHeader):]}
			}
			return err
		})
	case "addMembers":
		for i, k := range r.KeyPackages {
			r.KeyPackages[i] = append(keyPackageHeader[:4:4], k...)
		}
		return in(func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
			_, err := c.AddMembers(ctx, r.KeyPackages...)
			return err
		})
	case "processWelcome":
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			_, err := tx.ProcessWelcome(ctx, r.Welcome, client.JoinConfig{})
			return err
		})
	case "updateKeys":
		return in(func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
			_, err := c.UpdateKeyMaterial(ctx)
			return err
		})
	case "rotate":
		return in(rotate(m.Suite))
	case "proposeRotation":
		return in(func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error {
			fresh, err := tx.NewCredential(ctx, m.Suite)
			if err == nil {
				_, err = c.ProposeUpdate(ctx, fresh.Ref)
			}
			return err
		})
	case "commitPending":
		return in(func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
			_, err := c.CommitPendingProposals(ctx)
			return err
		})
	case "removeOld":
		return in(func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error {
			own, err := tx.Credentials(ctx, client.CredentialFilter{})
			if err != nil {
				return err
			}
			return tx.RemoveCredential(ctx, own[0].Ref) // refused while it is in use
		})
	case "encrypt":
		return in(func(ctx context.Context, _ *client.Transaction, c *client.Conversation) error {
			message, err := c.Encrypt(ctx, r.Plaintext, nil)
			return errors.Join(err, m.gives(message))
		})
	case "decrypt":
		return m.client.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
			got, err := tx.DecryptMessage(ctx, id, r.Message)
			switch got := got.(type) {
			case *client.Text:
				return errors.Join(err, m.gives(received{"Text", got.Data}))
			case *client.CommitResult:
				return errors.Join(err, m.gives(received{"Commit", nil}))
			case *client.ProposalResult:
				return errors.Join(err, m.gives(received{"Proposal", nil}))
			}
			return err
		})
	case "exportSecret":
		s, err := m.client.ExportSecret(ctx, id, r.Length)
		m.answer.Secret = s.Bytes()
		return err
	case "epoch":
		info, err := m.client.Info(ctx, id)
		m.answer.Epoch = info.Epoch
		return err
	}
	return fmt.Errorf("unknown command %s", r.Command)
}

func (m *member) gives(v any) (err error) {
	m.answer.Message, err = json.Marshal(v)
	return err
}

// rotate takes a new signature key into use and deletes the old one.
func rotate(suite core.SuiteID) func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error {
	return func(ctx context.Context, tx *client.Transaction, c *client.Conversation) error {
		old, err := c.Credential(ctx)
		if err != nil {
			return err
		}
		fresh, err := tx.NewCredential(ctx, suite)
		if err != nil {
			return err
		}
		if _, err := c.SetCredential(ctx, fresh.Ref); err != nil {
			return err
		}
		return tx.RemoveCredential(ctx, old.Ref)
	}
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// points counts the places where a process may die, and dies at one.
type points struct {
	mu     sync.Mutex
	passed []string
	killAt int // 0: at none
	at     func(name string)
}

func (p *points) pass(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passed = append(p.passed, name)
	if len(p.passed) == p.killAt {
		die()
	}
	if p.at != nil {
		p.at(name)
	}
}

// mortalStore has a point before and after each write, mortalKeys around what changes the
// token.
type (
	mortalStore struct {
		core.Keystore
		points *points
	}
	mortalKeys struct {
		*hsm.Provider
		points *points
	}
)

func (m *mortalStore) Apply(ctx context.Context, b core.Batch) error {
	m.points.pass("before a write")
	err := m.Keystore.Apply(ctx, b)
	m.points.pass("after a write")
	return err
}

func (m *mortalKeys) GenerateKey(ctx context.Context, spec core.KeySpec) (core.PrivateKey, error) {
	m.points.pass("before a key is made")
	key, err := m.Provider.GenerateKey(ctx, spec)
	m.points.pass("after a key was made")
	return key, err
}

func (m *mortalKeys) DeleteKey(ctx context.Context, ref core.KeyRef) error {
	m.points.pass("before a key is deleted")
	err := m.Provider.DeleteKey(ctx, ref)
	m.points.pass("after a key was deleted")
	return err
}
