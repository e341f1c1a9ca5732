// SPDX-License-Identifier: Apache-2.0

// Package clienttest helps to test applications of core/client without a network:
// an in-memory delivery [Service], and [Device], a client with its connection to
// it. Start with [NewConversation], which puts as many devices as you name into a
// conversation; or with [NewService], [NewDevice] and [Group] to choose more.
//
// The service keeps the order, accepts one commit for each epoch and gives every
// member each message with a cursor of its own. A [Link], the connection of one
// device, can be told to be offline, to refuse a commit, to lose an answer or to
// hold a message back; [Options] have the service forget that it has seen a commit.
//
// It is for tests only: the service trusts whoever speaks to it, and the devices'
// stores are sealed with a key that everybody knows.
package clienttest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/core/mls"
)

// Options of a [Service].
type Options struct {
	// RefuseRepeats answers a commit that was accepted before with Competing, as
	// most delivery services do.
	RefuseRepeats bool
}

// A Service is a delivery service in memory. It is safe for concurrent use.
type Service struct {
	options  Options
	mu       sync.Mutex
	groups   map[core.ConversationID]*group
	welcomes map[core.ClientID][]Welcome
}

type group struct {
	epoch   uint64
	log     [][]byte
	info    []byte
	commits map[uint64]string // by epoch: the bytes that were accepted
	sent    map[string]bool   // idempotency keys
	members map[core.ClientID]*member
}

// A member reads the log in spans: who is added again reads its removal first. The
// last span is open while it is a member.
type member struct {
	spans []span
	joins int
}

// A span is what comes after read, up to end; -1: no end yet.
type span struct{ read, end int }

func (m *member) in() bool { return m != nil && m.spans[len(m.spans)-1].end < 0 }

func (m *member) last() *span { return &m.spans[len(m.spans)-1] }

// A Welcome waits for a client.
type Welcome struct {
	Conversation core.ConversationID
	Message      []byte
}

// NewService returns an empty service.
func NewService(options Options) *Service {
	return &Service{options: options, groups: map[core.ConversationID]*group{}, welcomes: map[core.ClientID][]Welcome{}}
}

// header reads what a delivery service may know of a message.
func header(message []byte) (epoch uint64, content mls.ContentType, external bool, err error) {
	m, err := mls.UnmarshalMLSMessage(message)
	if err != nil {
		return 0, 0, false, err
	}
	switch {
	case m.PublicMessage != nil:
		c := m.PublicMessage.Content
		return c.Epoch, c.ContentType, c.Sender.Type != mls.SenderMember, nil
	case m.PrivateMessage != nil:
		return m.PrivateMessage.Epoch, m.PrivateMessage.ContentType, false, nil
	}
	return 0, 0, false, errors.New("not a message of a group")
}

func refused(reason string, args ...any) client.Outcome {
	return client.Outcome{Kind: client.Refused, Reason: fmt.Sprintf(reason, args...)}
}

// group finds a group; whoever posts first makes it.
func (s *Service) group(id core.ConversationID, by core.ClientID, create bool) *group {
	g := s.groups[id]
	if g == nil && create {
		g = &group{commits: map[uint64]string{}, sent: map[string]bool{}, members: map[core.ClientID]*member{}}
		g.join(by, 0)
		s.groups[id] = g
	}
	return g
}

func (g *group) has(id core.ClientID) bool { return g.members[id].in() }

// join lets a client read what comes after a number.
func (g *group) join(id core.ClientID, after int) {
	m := g.members[id]
	if m == nil {
		m = &member{}
		g.members[id] = m
	} else if m.in() {
		return
	}
	m.spans = append(m.spans, span{read: after, end: -1})
	m.joins++
}

// SubmitCommit accepts the first commit for the epoch of its group.
func (s *Service) SubmitCommit(by core.ClientID, conversation core.ConversationID, b client.CommitBundle) client.Outcome {
	epoch, content, external, err := header(b.Commit)
	if err != nil || content != mls.ContentCommit {
		return refused("not a commit: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.group(conversation, by, !external)
	switch {
	case g == nil:
		return refused("no such group")
	case g.commits[epoch] == string(b.Commit) && !s.options.RefuseRepeats:
		return client.Outcome{Kind: client.Accepted}
	case !external && g.members[by] == nil:
		return refused("not a member")
	case epoch < g.epoch:
		return client.Outcome{Kind: client.Competing}
	case epoch > g.epoch:
		return refused("the group is in epoch %d", g.epoch)
	case !external && !g.has(by):
		return refused("no longer a member")
	}
	g.commits[epoch] = string(b.Commit)
	g.epoch++
	g.log = append(g.log, slices.Clone(b.Commit))
	if len(b.GroupInfo) > 0 {
		g.info = slices.Clone(b.GroupInfo)
	}
	stale := func(id core.ClientID) { // a Welcome to an epoch that the client is past
		if client.IsHistoryClient(id) {
			return // it is for those who read what was
		}
		s.welcomes[id] = slices.DeleteFunc(s.welcomes[id], func(w Welcome) bool { return w.Conversation == conversation })
	}
	seen := len(g.log)
	if len(b.EncryptedMessage) > 0 {
		g.log = append(g.log, slices.Clone(b.EncryptedMessage))
	}
	for _, out := range b.Removed {
		if g.has(out) {
			g.members[out].last().end = seen
			stale(out)
		}
	}
	for _, in := range b.Added {
		g.join(in, seen)
		s.welcomes[in] = append(s.welcomes[in], Welcome{conversation, slices.Clone(b.Welcome)})
	}
	if external {
		g.join(by, seen-1)
		stale(by)
	}
	return client.Outcome{Kind: client.Accepted}
}

// SendMessage appends a message to the log of its group, once for each key.
func (s *Service) SendMessage(by core.ClientID, id core.ConversationID, key string, message []byte) client.Outcome {
	epoch, content, external, err := header(message)
	if err != nil || content == mls.ContentCommit {
		return refused("not a message to send: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.group(id, by, !external)
	switch {
	case g == nil:
		return refused("no such group")
	case g.sent[string(by)+" "+key]:
		return client.Outcome{Kind: client.Accepted}
	case !external && g.members[by] == nil:
		return refused("not a member")
	case epoch < g.epoch:
		return client.Outcome{Kind: client.Stale}
	case epoch > g.epoch:
		return refused("the group is in epoch %d", g.epoch)
	case !external && !g.has(by):
		return refused("no longer a member")
	}
	g.sent[string(by)+" "+key] = true
	g.log = append(g.log, slices.Clone(message))
	return client.Outcome{Kind: client.Accepted}
}

// Next returns the next message for a member and its number; none is left if the
// number is 0. core.ErrDenied: it is not a member and never was.
func (s *Service) Next(to core.ClientID, id core.ConversationID) (number int, message []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[id]
	if g == nil {
		return 0, nil, nil
	}
	m := g.members[to]
	if m == nil {
		return 0, nil, fmt.Errorf("not a member: %w", core.ErrDenied)
	}
	for len(m.spans) > 1 && m.spans[0].read == m.spans[0].end {
		m.spans = m.spans[1:]
	}
	first := m.spans[0]
	if first.end < 0 {
		first.end = len(g.log)
	}
	if first.read >= first.end {
		return 0, nil, nil
	}
	return first.read + 1, g.log[first.read], nil
}

// Ack confirms the messages up to a number.
func (s *Service) Ack(to core.ClientID, id core.ConversationID, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil && g.members[to] != nil {
		first := &g.members[to].spans[0]
		first.read = max(first.read, number)
	}
}

// Welcome returns the oldest Welcome for a client, and TakeWelcome removes it.
func (s *Service) Welcome(to core.ClientID) (Welcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.welcomes[to]) == 0 {
		return Welcome{}, false
	}
	return s.welcomes[to][0], true
}

// TakeWelcome removes the oldest Welcome for a client.
func (s *Service) TakeWelcome(to core.ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.welcomes[to]) > 0 {
		s.welcomes[to] = s.welcomes[to][1:]
	}
}

// GroupInfo returns that of the newest commit; core.ErrNotFound.
func (s *Service) GroupInfo(id core.ConversationID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil && g.info != nil {
		return slices.Clone(g.info), nil
	}
	return nil, fmt.Errorf("group info: %w", core.ErrNotFound)
}

// Delivered says whether a message was accepted under a key.
func (s *Service) Delivered(by core.ClientID, id core.ConversationID, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[id]
	return g != nil && g.sent[string(by)+" "+key]
}

// Joins tells how often a client came into a group.
func (s *Service) Joins(id core.ConversationID, who core.ClientID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil && g.members[who] != nil {
		return g.members[who].joins
	}
	return 0
}

// Log returns all that was ever accepted for a group.
func (s *Service) Log(id core.ConversationID) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil {
		return slices.Clone(g.log)
	}
	return nil
}
