// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/vectors"
)

// A recorded conversation is replayed with the recorded randomness, so that each message
// and each stored session has to come out byte for byte. Between two steps a session exists
// as the records that we would store only, and each step writes what it changes.
type conversationVector struct {
	Name    string
	Parties map[string]struct {
		Identity []byte
		PreKeys  map[string][]byte
	}
	Steps []stepVector
}

type stepVector struct {
	Op, Party, Session         string
	Bundle, Message, Plaintext []byte
	Count                      int
	Random                     []struct{ Seed, Bytes []byte }
	Error                      *struct {
		Name string
		TS   struct{ Code Code }
	}
	PreKeysAfter []int `json:"prekeys_after"`
	storedVector
	Rust struct {
		Order string
		storedVector
	}
}

type storedVector struct {
	Session []byte `json:"session_after"`
	SHA256  string `json:"session_after_sha256"`
}

func (v storedVector) check(order string, got []byte) error {
	if v.SHA256 != "" {
		sum := sha256.Sum256(got)
		return want("the hash of the session, "+order, []byte(hex.EncodeToString(sum[:])), []byte(v.SHA256))
	}
	return want("the session, "+order, got, v.Session)
}

func (v storedVector) isZero() bool { return v.Session == nil && v.SHA256 == "" }

// A party is one device of a conversation.
type party struct {
	identity *IdentityKeyPair
	preKeys  preKeys
	sessions map[string]*records
}

// records are a session as a store has it.
type records struct{ list []record.Record }

func runConversationVectors(ctx context.Context, file []byte, report *vectors.Report) error {
	var v struct{ Conversations []conversationVector }
	if err := decodeVectors(file, &v); err != nil {
		return err
	}
	for _, c := range v.Conversations {
		err := c.run(ctx)
		if err != nil {
			err = fmt.Errorf("%s, %w", c.Name, err)
		}
		report.Add(err)
	}
	return ctx.Err()
}

func (v conversationVector) run(ctx context.Context) error {
	parties := map[string]*party{}
	for name, p := range v.Parties {
		identity, err := UnmarshalIdentity(p.Identity)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		parties[name] = &party{identity, preKeysOf(p.PreKeys), map[string]*records{}}
	}
	for i, step := range v.Steps {
		p := parties[step.Party]
		if p == nil {
			return fmt.Errorf("step %d: no party %q", i, step.Party)
		}
		if err := p.take(ctx, step); err != nil {
			return fmt.Errorf("step %d, %s: %w", i, step.Op, err)
		}
	}
	return nil
}

// take does a step, with the session as the records have it.
func (p *party) take(ctx context.Context, v stepVector) error {
	if v.Op == "delete" {
		delete(p.sessions, v.Session)
		return nil
	}
	stored := p.sessions[v.Session]
	var random bytes.Buffer
	for _, r := range v.Random {
		random.Write(r.Seed)
		random.Write(r.Bytes)
	}
	// A step that fails may draw what was not recorded.
	env := &Env{Identity: p.identity, PreKey: p.preKeys.find, Random: io.MultiReader(&random, rand.Reader)}
	var before *Session
	if stored != nil {
		env.Fetch = stored.fetch
		var err error
		if before, err = LoadSession(ctx, stored.fetch); err != nil {
			return err
		}
	}
	after, err := p.step(ctx, env, v, before)
	if v.Error != nil {
		return errors.Join(v.checkError(err), p.checkPreKeys(v))
	}
	if err != nil {
		return err
	}
	if random.Len() > 0 {
		return fmt.Errorf("%d random bytes are left", random.Len())
	}
	if stored == nil {
		stored = new(records)
		p.sessions[v.Session] = stored
	}
	stored.apply(after.Changes(before))
	return errors.Join(p.checkPreKeys(v), p.checkSession(ctx, v, stored))
}

// step gives the session after the step.
func (p *party) step(ctx context.Context, env *Env, v stepVector, s *Session) (*Session, error) {
	switch {
	case v.Op == "init_from_prekey":
		bundle, err := UnmarshalPreKeyBundle(v.Bundle)
		if err != nil {
			return nil, err
		}
		if v.Random == nil { // what it drew was not to be had
			return UnmarshalSession(p.identity.Public(), v.storedVector.Session)
		}
		return SessionFromPreKey(env, bundle)
	case v.Op == "init_from_message":
		return p.read(v)(SessionFromMessage(ctx, env, v.Message))
	case s == nil:
		return nil, fmt.Errorf("no session %q", v.Session)
	case v.Op == "encrypt":
		next, message, err := s.Encrypt(v.Plaintext)
		if err == nil {
			err = sameMessage(message, v.Message)
		}
		return next, err
	case v.Op == "decrypt":
		return p.read(v)(s.Decrypt(ctx, env, v.Message))
	case v.Op == "advance":
		for range v.Count {
			var err error
			if s, _, err = s.Encrypt(nil); err != nil {
				return nil, err
			}
		}
		return s, nil
	case v.Op == "reload": // as they store it
		b, err := s.marshal(ctx, env, s.states)
		if err != nil {
			return nil, err
		}
		return UnmarshalSession(p.identity.Public(), b)
	}
	return nil, fmt.Errorf("unknown operation: %w", core.ErrUnsupported)
}

// sameMessage compares messages. Rust writes the lengths of large ones in another way, which
// the MAC covers.
func sameMessage(got, wanted []byte) error {
	if bytes.Equal(got, wanted) {
		return nil
	}
	e, err := parseEnvelope(wanted)
	if err != nil || len(e.cipher.ciphertext) <= 0xffff {
		return errors.Join(err, want("message", got, wanted))
	}
	ours, err := parseEnvelope(got)
	if err != nil {
		return err
	}
	var pending *pendingPreKey
	var identity PublicKey
	if e.preKey != nil {
		pending, identity = &e.preKey.pendingPreKey, e.preKey.identity
	}
	return want("message", ours.message, newMessage(pending, identity, &e.cipher))
}

// read takes what a reading step gives.
func (p *party) read(v stepVector) func(*Decrypted, error) (*Session, error) {
	return func(d *Decrypted, err error) (*Session, error) {
		if err != nil {
			return nil, err
		}
		if id := d.UsedPreKey; id != nil && *id != LastResortPreKeyID {
			delete(p.preKeys, strconv.Itoa(int(*id)))
		}
		return d.Session, want("plaintext", d.Plaintext, v.Plaintext)
	}
}

// checkError compares the class and the code of a refusal.
func (v stepVector) checkError(err error) error {
	class := map[string]error{
		"DuplicateMessage": ErrDuplicateMessage, "OutdatedMessage": ErrOutdatedMessage, "TooDistantFuture": ErrTooDistantFuture,
		"InvalidSignature": ErrInvalidSignature, "InvalidMessage": ErrInvalidMessage, "PreKeyNotFound": ErrPreKeyNotFound,
		"RemoteIdentityChanged": ErrRemoteIdentityChanged,
	}[v.Error.Name]
	if class == nil || !errors.Is(err, class) || CodeOf(err) != v.Error.TS.Code {
		return fmt.Errorf("got error %v, want %s (%d)", err, v.Error.Name, v.Error.TS.Code)
	}
	return nil
}

func (p *party) checkPreKeys(v stepVector) error {
	if v.PreKeysAfter == nil {
		return nil
	}
	var ids []int
	for id := range maps.Keys(p.preKeys) {
		n, err := strconv.Atoi(id)
		if err != nil {
			return err
		}
		ids = append(ids, n)
	}
	if slices.Sort(ids); !slices.Equal(ids, v.PreKeysAfter) {
		return fmt.Errorf("prekeys %d are left, want %d", ids, v.PreKeysAfter)
	}
	return nil
}

// checkSession compares the session as both implementations store it.
func (p *party) checkSession(ctx context.Context, v stepVector, stored *records) error {
	env := &Env{Identity: p.identity, Fetch: stored.fetch}
	s, err := LoadSession(ctx, stored.fetch)
	if err != nil {
		return err
	}
	byAge, err := s.marshal(ctx, env, s.states)
	if err != nil {
		return err
	}
	sorted, err := s.Marshal(ctx, env)
	if err != nil {
		return err
	}
	if err := errors.Join(stored.whole(s), sameSession(ctx, p.identity.Public(), sorted)); err != nil {
		return err
	}
	switch {
	case v.storedVector.isZero():
		return nil
	case v.Rust.isZero() && v.check("by tag", sorted) == nil: // it is Rust's own
		return nil
	case v.Rust.isZero():
		return v.check("by age", byAge)
	}
	return errors.Join(v.check("by age", byAge), v.Rust.check("by tag", sorted))
}

// sameSession reads a stored session and writes it again.
func sameSession(ctx context.Context, identity PublicKey, stored []byte) error {
	s, err := UnmarshalSession(identity, stored)
	if err != nil {
		return err
	}
	again, err := s.Marshal(ctx, nil)
	return errors.Join(err, want("read and written again", again, stored))
}

// whole checks that there are the records of s and no others.
func (r *records) whole(s *Session) error {
	n := 1
	for _, t := range s.states {
		n++
		for _, c := range t.state.receive {
			n += len(c.kept)
		}
	}
	if n != len(r.list) {
		return fmt.Errorf("%d records, want %d", len(r.list), n)
	}
	return nil
}

// apply changes the records as a store does.
func (r *records) apply(w *record.WriteSet) {
	r.list = slices.DeleteFunc(r.list, func(old record.Record) bool {
		return slices.ContainsFunc(w.Dels, func(d record.Range) bool { return d.Kind == old.Kind && bytes.HasPrefix(old.Key, d.Prefix) }) ||
			slices.ContainsFunc(w.Puts, func(p record.Record) bool { return p.Kind == old.Kind && bytes.Equal(old.Key, p.Key) })
	})
	r.list = append(r.list, w.Puts...)
	for _, s := range w.Retired {
		s.Wipe()
	}
}

// fetch is a [Fetch].
func (r *records) fetch(_ context.Context, queries []record.Query) ([][]record.Record, error) {
	answers := make([][]record.Record, len(queries))
	for i, q := range queries {
		for _, one := range r.list {
			if one.Kind == q.Kind && bytes.HasPrefix(one.Key, q.Prefix) {
				one.Value = bytes.Clone(one.Value)
				answers[i] = append(answers[i], one)
			}
		}
		slices.SortFunc(answers[i], func(a, b record.Record) int { return bytes.Compare(a.Key, b.Key) })
	}
	return answers, nil
}
