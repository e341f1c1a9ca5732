// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/record"
)

// A party is an implementation of Proteus that is a device with at most one session.
type party interface {
	preKey(lastResort bool) (proteus.PreKeyBundle, []byte, error)
	open(bundle []byte) error
	encrypt(plaintext []byte, n int) ([]byte, error) // n times; the last message
	decrypt(message []byte, inSession bool) ([]byte, error)
	drop() error
	restart() error
	fingerprints() (local, remote string, err error)
	says(err error) string             // why it refuses, in its own numbers
	saying(code proteus.Code) []string // how it may say this
}

// A proteusStore is a device as it moves from one implementation to another.
type proteusStore struct {
	Identity []byte            `json:"identity"`
	PreKeys  map[string][]byte `json:"prekeys"`
	Sessions map[string][]byte `json:"sessions"`
}

// An engine is our party: what it has is records, or serialised.
type engine struct {
	identity *proteus.IdentityKeyPair
	preKeys  map[uint16][]byte
	records  map[string][]byte // by kind and key
	session  *proteus.Session  // nil: not loaded
}

func newEngine() (*engine, error) {
	identity, err := proteus.GenerateIdentity(nil)
	return &engine{identity: identity, preKeys: map[uint16][]byte{}, records: map[string][]byte{}}, err
}

func (e *engine) fetch(_ context.Context, queries []record.Query) (answers [][]record.Record, _ error) {
	for _, q := range queries {
		var found []record.Record
		for _, key := range slices.Sorted(maps.Keys(e.records)) {
			k := []byte(key[1:])
			if record.Kind(key[0]) == q.Kind && bytes.HasPrefix(k, q.Prefix) && bytes.Compare(k, q.After) >= cmp.Compare(len(q.After), 0) {
				found = append(found, record.Record{Kind: q.Kind, Key: k, Value: slices.Clone(e.records[key])})
			}
		}
		if q.Limit > 0 {
			found = found[:min(q.Limit, len(found))]
		}
		answers = append(answers, found)
	}
	return answers, nil
}

func (e *engine) env() *proteus.Env {
	return &proteus.Env{Identity: e.identity, Fetch: e.fetch, PreKey: func(_ context.Context, id uint16) (*proteus.PreKey, error) {
		if e.preKeys[id] == nil {
			return nil, core.ErrNotFound
		}
		return proteus.UnmarshalPreKey(e.preKeys[id])
	}}
}

func (e *engine) load() (_ *proteus.Session, err error) {
	if e.session == nil {
		e.session, err = proteus.LoadSession(context.Background(), e.fetch)
	}
	return e.session, err
}

// store writes what changes from the session that is stored to this one.
func (e *engine) store(next *proteus.Session) error {
	before, err := e.load()
	if err != nil && !errors.Is(err, core.ErrNotFound) {
		return err
	}
	w := next.Changes(before)
	for _, d := range w.Dels {
		prefix := string(byte(d.Kind)) + string(d.Prefix)
		maps.DeleteFunc(e.records, func(key string, _ []byte) bool { return strings.HasPrefix(key, prefix) })
	}
	for _, p := range w.Puts {
		e.records[string(byte(p.Kind))+string(p.Key)] = slices.Clone(p.Value)
	}
	for _, s := range w.Retired {
		s.Wipe()
	}
	e.session = next
	return nil
}

func (e *engine) preKey(lastResort bool) (proteus.PreKeyBundle, []byte, error) {
	id := uint16(proteus.LastResortPreKeyID)
	if !lastResort {
		for id = 1; e.preKeys[id] != nil; id++ {
		}
	}
	if e.preKeys[id] == nil {
		k, err := proteus.GeneratePreKey(nil, id)
		if err != nil {
			return proteus.PreKeyBundle{}, nil, err
		}
		e.preKeys[id] = k.Marshal()
	}
	k, err := proteus.UnmarshalPreKey(e.preKeys[id])
	if err != nil {
		return proteus.PreKeyBundle{}, nil, err
	}
	b := k.Bundle(e.identity)
	return *b, b.Marshal(), nil
}

func (e *engine) open(bundle []byte) error {
	b, err := proteus.UnmarshalPreKeyBundle(bundle)
	if err != nil {
		return err
	}
	s, err := proteus.SessionFromPreKey(e.env(), b)
	if err != nil {
		return err
	}
	return e.store(s)
}

func (e *engine) encrypt(plaintext []byte, n int) (message []byte, err error) {
	s, err := e.load()
	for ; n > 0 && err == nil; n-- {
		s, message, err = s.Encrypt(plaintext)
	}
	if err != nil {
		return nil, err
	}
	return message, e.store(s)
}

// abandon is encrypt where the session is not stored afterwards: what is left is from where
// on its keys may be used, perhaps in another process.
func (e *engine) abandon(plaintext []byte, n int, restart bool) (message []byte, err error) {
	before, err := e.load()
	if err != nil {
		return nil, err
	}
	after := before
	for ; n > 0; n-- {
		if after, message, err = after.Encrypt(plaintext); err != nil {
			return nil, err
		}
	}
	floors := before.Burnt(after)
	if restart {
		e.session = nil
	}
	if before, err = e.load(); err != nil {
		return nil, err
	}
	above := before.Above(floors)
	if len(floors) != 1 || above == before {
		return nil, fmt.Errorf("the floors %v are not needed", floors)
	}
	return message, e.store(above)
}

func (e *engine) decrypt(message []byte, inSession bool) ([]byte, error) {
	var d *proteus.Decrypted
	s, err := e.load()
	switch {
	case !inSession && errors.Is(err, proteus.ErrSessionNotFound):
		d, err = proteus.SessionFromMessage(context.Background(), e.env(), message)
	case err == nil:
		d, err = s.Decrypt(context.Background(), e.env(), message)
	}
	if err != nil {
		return nil, err
	}
	if d.UsedPreKey != nil && *d.UsedPreKey != proteus.LastResortPreKeyID {
		delete(e.preKeys, *d.UsedPreKey)
	}
	return d.Plaintext, e.store(d.Session)
}

func (e *engine) drop() error {
	e.records, e.session = map[string][]byte{}, nil
	return nil
}

func (e *engine) restart() (err error) {
	e.session = nil
	e.identity, err = proteus.UnmarshalIdentity(e.identity.Marshal())
	return err
}

func (e *engine) fingerprints() (local, remote string, err error) {
	s, err := e.load()
	if err != nil {
		return "", "", err
	}
	return s.Local().Fingerprint(), s.Remote().Fingerprint(), nil
}

func (e *engine) says(err error) string {
	code := proteus.CodeOf(err)
	if errors.Is(err, proteus.ErrMalformed) && code != proteus.CodeMessageType {
		code = proteus.CodeMalformed
	}
	return fmt.Sprint(code)
}

func (e *engine) saying(code proteus.Code) []string { return []string{fmt.Sprint(code)} }

// leave gives the device away.
func (e *engine) leave() (proteusStore, error) {
	to := proteusStore{e.identity.Marshal(), map[string][]byte{}, map[string][]byte{}}
	for id, key := range e.preKeys {
		to.PreKeys[fmt.Sprint(id)] = key
	}
	switch s, err := e.load(); {
	case err == nil:
		if to.Sessions[peerSession], err = s.Marshal(context.Background(), e.env()); err != nil {
			return to, err
		}
	case !errors.Is(err, core.ErrNotFound):
		return to, err
	}
	return to, nil
}

// arrive is a device that was another implementation's.
func arrive(from proteusStore) (e *engine, err error) {
	e = &engine{preKeys: map[uint16][]byte{}, records: map[string][]byte{}}
	if e.identity, err = proteus.UnmarshalIdentity(from.Identity); err != nil {
		return nil, err
	}
	for id, key := range from.PreKeys {
		k, err := proteus.UnmarshalPreKey(key)
		if err != nil || fmt.Sprint(k.ID) != id {
			return nil, fmt.Errorf("prekey %s: %v, %w", id, k, err)
		}
		e.preKeys[k.ID] = k.Marshal()
	}
	stored := from.Sessions[peerSession]
	if stored == nil {
		return e, nil
	}
	s, err := proteus.UnmarshalSession(e.identity.Public(), stored)
	if err != nil {
		return nil, err
	}
	return e, e.store(s)
}

// A peer is one of the real ones, by its driver.
type peer struct {
	*driver
	inst    string
	session string
	db      string // of Core Crypto; empty: it is TypeScript, which gives its store away
}

// peerSession is the session's name where each history has devices of its own.
const peerSession = "session"

func (p *peer) ask(command string, a args) (answer, error) {
	if a == nil {
		a = args{}
	}
	a["session"] = p.session
	return p.call(p.inst, command, a)
}

// start has the device begin, anew or from a store.
func (p *peer) start(store any) error {
	if p.db == "" {
		_, err := p.ask("init", args{"store": store})
		return err
	}
	id := "00000000-0000-4000-8000-000000000001:0000000000000001@conclave.example"
	if _, err := p.ask("init", args{"clientId": id, "db": p.db, "mls": false}); err != nil {
		return err
	}
	_, err := p.ask("proteusInit", nil)
	return err
}

func (p *peer) leave() (store proteusStore, err error) {
	got, err := p.ask("close", nil)
	if err != nil || p.db != "" {
		return store, err
	}
	return store, json.Unmarshal(got.Store, &store)
}

func (p *peer) restart() error {
	store, err := p.leave()
	if err != nil {
		return err
	}
	return p.start(store)
}

func (p *peer) preKey(lastResort bool) (proteus.PreKeyBundle, []byte, error) {
	command := "proteusPrekeyAuto"
	if lastResort {
		command = "proteusLastResortPrekey"
	}
	got, err := p.ask(command, nil)
	if err != nil {
		return proteus.PreKeyBundle{}, nil, err
	}
	b, err := proteus.UnmarshalPreKeyBundle(got.Prekey)
	if err != nil {
		return proteus.PreKeyBundle{}, nil, err
	}
	return *b, got.Prekey, nil
}

func (p *peer) open(bundle []byte) error {
	_, err := p.ask("proteusSessionFromPrekey", args{"prekey": bundle})
	return err
}

// encrypt for a session that is named n times uses n keys of it.
func (p *peer) encrypt(plaintext []byte, n int) (message []byte, err error) {
	if n == 1 {
		got, err := p.ask("proteusEncrypt", args{"plaintext": plaintext})
		if err != nil {
			return nil, err
		}
		return message, json.Unmarshal(got.Message, &message)
	}
	got, err := p.ask("proteusEncryptBatched", args{"plaintext": plaintext, "sessions": slices.Repeat([]string{p.session}, n)})
	if err != nil {
		return nil, err
	}
	var messages map[string][]byte
	if err := json.Unmarshal(got.Messages, &messages); err != nil {
		return nil, err
	}
	return messages[p.session], nil
}

func (p *peer) decrypt(message []byte, inSession bool) ([]byte, error) {
	command := "proteusDecrypt"
	if !inSession {
		command = "proteusSessionFromMessage"
	}
	got, err := p.ask(command, args{"message": message})
	return got.Plaintext, err
}

func (p *peer) drop() error {
	_, err := p.ask("proteusSessionDelete", nil)
	return err
}

func (p *peer) fingerprints() (local, remote string, err error) {
	got, err := p.ask("proteusFingerprint", nil)
	return got.Local, got.Remote, err
}

// says gives the kind and the number of a refusal.
func (p *peer) says(err error) string {
	var f *failure
	if !errors.As(err, &f) {
		return err.Error()
	}
	said := f.Kind
	if number := f.Detail["errorCode"]; number != nil {
		said += fmt.Sprint(" ", number)
	}
	return said
}

func (p *peer) saying(code proteus.Code) []string {
	if p.db == "" {
		return typeScriptSays[code]
	}
	return coreCryptoSays[code]
}

// How each says what a refusal of ours has its number for; of what cannot be decoded it
// depends on where.
var typeScriptSays = map[proteus.Code][]string{
	proteus.CodePreKeyNotFound:        {"ProteusError 101"},
	proteus.CodeSessionNotFound:       {"SessionNotFound 102"}, // of the driver
	proteus.CodeNoPreKeyMessage:       {"InvalidMessage 201"},
	proteus.CodeRemoteIdentityChanged: {"RemoteIdentityChanged 204"},
	proteus.CodeNoState:               {"InvalidMessage 205"},
	proteus.CodeBadMACInSync:          {"InvalidSignature 206"},
	proteus.CodeBadMACAhead:           {"InvalidSignature 207"},
	proteus.CodeOutdated:              {"OutdatedMessage 208"},
	proteus.CodeDuplicate:             {"DuplicateMessage 209"},
	proteus.CodeBadMACBehind:          {"InvalidSignature 210"},
	proteus.CodeTooDistantUnused:      {"TooDistantFuture 211"},
	proteus.CodeTooDistant:            {"TooDistantFuture 212"},
	proteus.CodeMalformed:             {"DecodeError"},
	proteus.CodeMessageType:           {"InvalidType 302"},
	proteus.CodeBadPoint:              {"ConversionError 409"},
}

var coreCryptoSays = map[proteus.Code][]string{
	proteus.CodePreKeyNotFound:        {"Proteus.Other 101"},
	proteus.CodeSessionNotFound:       {"Proteus.SessionNotFound"},
	proteus.CodeNoPreKeyMessage:       {"Proteus.Other 202"},
	proteus.CodeRemoteIdentityChanged: {"Proteus.RemoteIdentityChanged"},
	proteus.CodeNoState:               {"Proteus.Other 202"},
	proteus.CodeBadMACInSync:          {"Proteus.Other 406"},
	proteus.CodeBadMACAhead:           {"Proteus.Other 406"},
	proteus.CodeOutdated:              {"Proteus.Other 208"},
	proteus.CodeDuplicate:             {"Proteus.DuplicateMessage"},
	proteus.CodeBadMACBehind:          {"Proteus.Other 406"},
	proteus.CodeTooDistantUnused:      {"Proteus.Other 212"},
	proteus.CodeTooDistant:            {"Proteus.Other 212"},
	proteus.CodeMalformed:             {"Proteus.Other 3", "Proteus.Other 501"},
	proteus.CodeMessageType:           {"Proteus.Other 200"},
	proteus.CodeBadPoint:              {"Proteus.Other 502"},
}
