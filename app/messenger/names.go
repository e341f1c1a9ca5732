// SPDX-License-Identifier: Apache-2.0

package messenger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
)

var goodName = regexp.MustCompile(`^[\pL\pN][\pL\pN._-]{0,63}$`)

// newID makes an id that no other conversation of that name has.
func newID(name string) (core.ConversationID, error) {
	if !goodName.MatchString(name) {
		return "", fmt.Errorf("%q: a name has 1 to 64 letters, digits, dots, dashes and underscores: %w", name, core.ErrInvalid)
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return core.ConversationID(name + "-" + hex.EncodeToString(b[:])), nil
}

// Name is what the conversation was created with, if its id is one of ours.
func Name(id core.ConversationID) string {
	if at := strings.LastIndexByte(string(id), '-'); at > 0 && len(id)-at == 9 {
		return string(id[:at])
	}
	return string(id)
}

// ErrNoConversation: we are in no conversation of this name.
var ErrNoConversation = fmt.Errorf("%w", core.ErrNotFound)

// Find returns the conversation of a name that is known here, also one that we have
// left and have not read to its end. ErrNoConversation; core.ErrInvalid: several
// have the name.
func (m *Messenger) Find(ctx context.Context, name string) (core.ConversationID, error) {
	ids, err := m.client.Conversations(ctx)
	if err != nil {
		return "", err
	}
	n, err := parseNote(m.client.Data(ctx))
	if err != nil {
		return "", err
	}
	for _, u := range n.Unread {
		if id := core.ConversationID(u.Conversation); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	var found []core.ConversationID
	for _, id := range ids {
		if string(id) == name {
			return id, nil
		}
		if Name(id) == name {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("conversation %q: %w", name, ErrNoConversation)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%d conversations are called %q, say which: %q: %w", len(found), name, found, core.ErrInvalid)
}
