// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/spf13/cobra"
	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/app/messenger"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// A process of the demonstration takes orders, one JSON value a line, runs each as
// the command line that it is, and answers with replies until one is Done. When its
// input ends, it ends.
type (
	order struct {
		Args    []string `json:"args,omitempty"`
		Hold    string   `json:"hold,omitempty"`    // holdBefore or holdAfter
		Release bool     `json:"release,omitempty"` // go on from where it was held
	}
	reply struct {
		Out     string `json:"out,omitempty"`
		Err     string `json:"err,omitempty"`
		Holding bool   `json:"holding,omitempty"`
		Commit  int    `json:"commit,omitempty"` // HTTP status that a commit got
		Done    bool   `json:"done,omitempty"`
		Code    int    `json:"code,omitempty"`
		Kind    string `json:"kind,omitempty"` // of the error, as --json has it, or kindKept
	}
)

// kindKept is that of messenger.ErrKept.
const kindKept = "kept"

// Where a process stops and waits, so that the demonstration can choose what
// happens at the same time.
const (
	holdBefore = "before" // a commit is durable here and was not sent
	holdAfter  = "after"  // the service has accepted it and we have not heard
)

func (p *program) demoMember() *cobra.Command {
	return &cobra.Command{
		Use:    "demo-member",
		Short:  "Be a process of the demonstration",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			m := &demoMember{home: p.home, orders: make(chan order), replies: json.NewEncoder(p.out)}
			go func() {
				defer cancel()
				m.listen(p.in)
			}()
			for {
				select {
				case o := <-m.orders:
					m.obey(ctx, o)
				case <-ctx.Done():
					return nil
				}
			}
		},
	}
}

type demoMember struct {
	home   string
	orders chan order

	mu      sync.Mutex
	replies *json.Encoder
}

func (m *demoMember) listen(in io.Reader) {
	d := json.NewDecoder(in)
	for {
		var o order
		if d.Decode(&o) != nil {
			return
		}
		m.orders <- o
	}
}

func (m *demoMember) say(r reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.replies.Encode(r) // if nobody listens, the input has ended as well
}

// speaker makes replies of what a command prints.
type speaker func(string)

func (s speaker) Write(b []byte) (int, error) {
	s(string(b))
	return len(b), nil
}

func (m *demoMember) obey(ctx context.Context, o order) {
	p := &program{
		in:  http.NoBody,
		out: speaker(func(s string) { m.say(reply{Out: s}) }),
		err: speaker(func(s string) { m.say(reply{Err: s}) }),
		options: []fx.Option{fx.Replace(delivery.ClientOptions{
			Wrap: func(t http.RoundTripper) http.RoundTripper { return &holding{RoundTripper: t, member: m, hold: o.Hold} },
		})},
	}
	end := reply{Done: true}
	if err := p.execute(ctx, append([]string{"--home", m.home}, o.Args...)); err != nil {
		p.complain(err)
		end.Code, end.Kind = 1, kindOf(err)
		if errors.Is(err, messenger.ErrKept) {
			end.Kind = kindKept
		}
	}
	m.say(end)
}

// holding stands between a client and the network. It is what a slow network would
// be, and tells the demonstration what became of commits.
type holding struct {
	http.RoundTripper
	member *demoMember
	hold   string
}

func (h *holding) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/commits" {
		return h.RoundTripper.RoundTrip(r)
	}
	if err := h.wait(r.Context(), holdBefore); err != nil {
		return nil, err
	}
	response, err := h.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	h.member.say(reply{Commit: response.StatusCode})
	if err := h.wait(r.Context(), holdAfter); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// wait holds the first commit there, until the order to go on.
func (h *holding) wait(ctx context.Context, where string) error {
	if h.hold != where {
		return nil
	}
	h.hold = ""
	h.member.say(reply{Holding: true})
	select {
	case <-h.member.orders:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// demoCiphertext prints the last message of a conversation as the service has it.
func (p *program) demoCiphertext() *cobra.Command {
	return &cobra.Command{
		Use: "demo-ciphertext ID", Args: cobra.ExactArgs(1), Hidden: true,
		Short: "Print the last message of a conversation, encrypted, in base64",
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.withClient(cmd.Context(), func(ctx context.Context, _ *client.Client, s *delivery.Client) error {
				var last []byte
				for after, more := uint64(0), true; more; {
					var entries []delivery.Entry
					var err error
					if entries, more, err = s.History(ctx, core.ConversationID(args[0]), after); err != nil {
						return err
					}
					for _, e := range entries {
						after, last = e.Seq, e.Message
					}
				}
				p.printf("%s\n", base64.StdEncoding.EncodeToString(last))
				return nil
			})
		},
	}
}

// errNotKept undoes a transaction.
var errNotKept = errors.New("not kept")

// demoOpen tries to decrypt a message with the keys that are here, and keeps
// nothing of it.
func (p *program) demoOpen() *cobra.Command {
	return &cobra.Command{
		Use: "demo-open ID BASE64", Args: cobra.ExactArgs(2), Hidden: true,
		Short: "Try to decrypt a message of a conversation",
		RunE: func(cmd *cobra.Command, args []string) error {
			message, err := base64.StdEncoding.DecodeString(args[1])
			if err != nil {
				return fmt.Errorf("message: %w: %w", core.ErrInvalid, err)
			}
			id := core.ConversationID(args[0])
			return p.withClient(cmd.Context(), func(ctx context.Context, c *client.Client, _ *delivery.Client) error {
				info, err := c.Info(ctx, id)
				if err != nil {
					return err
				}
				var got client.Received
				err = c.Transaction(ctx, func(ctx context.Context, tx *client.Transaction) error {
					if got, err = tx.DecryptMessage(ctx, id, message); err != nil {
						return err
					}
					return errNotKept
				})
				if !errors.Is(err, errNotKept) {
					return err
				}
				switch got := got.(type) {
				case *client.Text:
					p.printf("%s\n", got.Data)
					return nil
				case *client.Buffered:
					return fmt.Errorf("the message is of epoch %d and the keys here end with epoch %d: %w", got.Epoch, info.Epoch, core.ErrDenied)
				}
				return fmt.Errorf("not a text: %w", core.ErrInvalid)
			})
		},
	}
}

// withClient runs f with the parts below the messenger, signed in.
func (p *program) withClient(ctx context.Context, f func(context.Context, *client.Client, *delivery.Client) error) error {
	var c *client.Client
	var s *delivery.Client
	p.options = append(p.options, fx.Populate(&c, &s))
	return p.open(ctx, func(ctx context.Context, m *messenger.Messenger) error {
		if err := m.SignIn(ctx); err != nil {
			return err
		}
		return f(ctx, c, s)
	})
}
