// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
)

// An Answer is the service's word on a commit or a message. With an error there is
// none: it may have been accepted, so drain, look, and send the same again.
type Answer struct {
	client.Outcome
	Seq     uint64 // in the log of the group, if Accepted
	Refusal *Error // unless Accepted
}

// Register makes the client known and returns its token, which the Client uses
// from now on. The key, 32 random bytes or more, makes the call repeatable: the
// same id with the same key gets the same token. ErrDenied: the id belongs to
// another key.
func (c *Client) Register(ctx context.Context, id core.ClientID, key core.Secret) (core.Secret, error) {
	var out registerAnswer
	err := c.do(ctx, http.MethodPost, "/v1/clients", registerRequest{Client: []byte(id), Key: key.Bytes()}, &out)
	if err != nil {
		return core.Secret{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = core.NewSecret([]byte(out.Token))
	return c.token.Clone(), nil
}

// Upload adds key packages, each to be handed out once, and replaces the
// last-resort one if it is not empty. It returns how many can be handed out; what
// was uploaded before does not count again.
func (c *Client) Upload(ctx context.Context, keyPackages [][]byte, lastResort []byte) (int, error) {
	return c.upload(ctx, uploadRequest{KeyPackages: keyPackages, LastResort: lastResort})
}

// Replace is Upload after throwing away all that wait, the last-resort one
// included: for key packages that should be used no more.
func (c *Client) Replace(ctx context.Context, keyPackages [][]byte, lastResort []byte) (int, error) {
	return c.upload(ctx, uploadRequest{KeyPackages: keyPackages, LastResort: lastResort, Replace: true})
}

func (c *Client) upload(ctx context.Context, in uploadRequest) (int, error) {
	var out countAnswer
	err := c.do(ctx, http.MethodPost, "/v1/key-packages", in, &out)
	return out.Count, err
}

// Count returns how many key packages of this client can be handed out once more.
func (c *Client) Count(ctx context.Context) (int, error) {
	var out countAnswer
	err := c.do(ctx, http.MethodGet, "/v1/key-packages", nil, &out)
	return out.Count, err
}

// Claim takes a key package of a client. ErrNotFound: there is none.
func (c *Client) Claim(ctx context.Context, id core.ClientID) ([]byte, error) {
	var out claimAnswer
	err := c.do(ctx, http.MethodPost, "/v1/key-packages/claim", claimRequest{Client: []byte(id)}, &out)
	return out.KeyPackage, err
}

// SubmitCommit publishes a commit with what belongs to it. The group and the
// epoch are those in its header. The same bytes may be submitted again.
func (c *Client) SubmitCommit(ctx context.Context, commit client.CommitBundle) (Answer, error) {
	in := commitRequest{Commit: commit.Commit, Welcome: commit.Welcome, GroupInfo: commit.GroupInfo}
	for _, id := range commit.Added {
		in.Added = append(in.Added, []byte(id))
	}
	for _, id := range commit.Removed {
		in.Removed = append(in.Removed, []byte(id))
	}
	return c.submit(ctx, "/v1/commits", in)
}

// SendMessage publishes an application message or a proposal. The key, up to 256
// bytes, names the message: with the same key it is published once, even if it
// was encrypted again meanwhile.
func (c *Client) SendMessage(ctx context.Context, key, message []byte) (Answer, error) {
	return c.submit(ctx, "/v1/messages", messageRequest{Key: key, Message: message})
}

func (c *Client) submit(ctx context.Context, path string, in any) (Answer, error) {
	var out acceptedAnswer
	err := c.do(ctx, http.MethodPost, path, in, &out)
	if err == nil {
		return Answer{Outcome: client.Outcome{Kind: client.Accepted}, Seq: out.Seq}, nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return Answer{}, err
	}
	answer := Answer{Refusal: e}
	switch e.Code {
	case CodeCompeting:
		answer.Kind = client.Competing
	case CodeStale:
		answer.Kind = client.Stale
	case CodeInvalid, CodeDenied, CodeNotFound, CodeWrongEpoch, CodeTooLarge:
		// A commit or message from the future shows that the service lost its state;
		// like every other refusal, that is for a person to hear.
		answer.Outcome = client.Outcome{Kind: client.Refused, Reason: e.Message}
	default: // no word on the message: not signed in, out of order, a code of another release
		return Answer{}, err
	}
	return answer, nil
}

func groupPath(group core.ConversationID, rest string) string {
	return "/v1/groups/" + base64.RawURLEncoding.EncodeToString([]byte(group)) + rest
}

// Log returns what the group's log has beyond what was confirmed with Ack, oldest
// first, and waits if there is nothing: up to the given time, a minute at most.
// ErrNotFound: nobody wrote to the group yet. ErrDenied: not a member, now or ever.
func (c *Client) Log(ctx context.Context, group core.ConversationID, wait time.Duration) ([]Entry, error) {
	var out logAnswer
	err := c.do(ctx, http.MethodGet, groupPath(group, "/log?wait="+seconds(wait)), nil, &out)
	return out.Entries, err
}

// History returns a page of the log after a sequence number, confirmed or not; more
// says that it ended before the log.
func (c *Client) History(ctx context.Context, group core.ConversationID, after uint64) (entries []Entry, more bool, err error) {
	var out logAnswer
	err = c.do(ctx, http.MethodGet, groupPath(group, fmt.Sprintf("/log?after=%d", after)), nil, &out)
	return out.Entries, out.More, err
}

// Ack confirms the log up to a sequence number: Log goes on after it.
func (c *Client) Ack(ctx context.Context, group core.ConversationID, through uint64) error {
	return c.do(ctx, http.MethodPost, groupPath(group, "/ack"), ackRequest{Through: through}, &struct{}{})
}

// Drain gives every entry that waits in the group's log to handle, in order, and
// confirms those that handle took. It returns when nothing waits, or with the
// first error. An entry may be given again after a crash or an error. A group that
// nobody wrote to has nothing waiting. ErrUnavailable: the service does not go on
// after what was confirmed.
func (c *Client) Drain(ctx context.Context, group core.ConversationID, handle func(context.Context, Entry) error) error {
	var done uint64
	for {
		entries, err := c.Log(ctx, group, 0)
		if errors.Is(err, core.ErrNotFound) || err == nil && len(entries) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		before := done
		for _, e := range entries {
			if e.Seq <= done {
				err = fmt.Errorf("delivery service: entry %d after entry %d: %w", e.Seq, done, core.ErrUnavailable)
			} else {
				err = handle(ctx, e)
			}
			if err != nil {
				break
			}
			done = e.Seq
		}
		if done != before {
			if ackErr := c.Ack(ctx, group, done); err == nil {
				err = ackErr
			}
		}
		if err != nil {
			return err
		}
	}
}

// Welcomes returns what commits have put into this client's inbox, a few at a
// time, and waits as Log does. Confirm each with AckWelcome to see the next.
func (c *Client) Welcomes(ctx context.Context, wait time.Duration) ([]Welcome, error) {
	var out welcomesAnswer
	err := c.do(ctx, http.MethodGet, "/v1/welcomes?wait="+seconds(wait), nil, &out)
	return out.Welcomes, err
}

// AckWelcome takes a Welcome out of the inbox; doing it again is no error.
func (c *Client) AckWelcome(ctx context.Context, w Welcome) error {
	path := fmt.Sprintf("/v1/welcomes/%s/%d", base64.RawURLEncoding.EncodeToString(w.Group), w.Seq)
	return c.do(ctx, http.MethodDelete, path, nil, &struct{}{})
}

// GroupInfo returns the GroupInfo of the group's newest commit. ErrNotFound: it
// had none.
func (c *Client) GroupInfo(ctx context.Context, group core.ConversationID) ([]byte, error) {
	var out groupInfoAnswer
	err := c.do(ctx, http.MethodGet, groupPath(group, "/info"), nil, &out)
	return out.GroupInfo, err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", max(d, 0).Seconds()) }
