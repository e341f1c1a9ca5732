// SPDX-License-Identifier: Apache-2.0

package drive_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/conclave-mls/conclave/core/proteus"
)

// A party is an implementation of Proteus that is a device with at most one session.
type party interface {
	preKey(lastResort bool) (*proteus.PreKeyBundle, []byte, error)
	openSession(bundle []byte) error
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

// A peer is one of the real ones, by its driver.
type peer struct {
	*driver
	inst    string
	session string
	db      string // of Core Crypto; empty: it is TypeScript, which gives its store away
}

// peerSession is the session's name where each history has devices of its own, as ours has.
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

func (p *peer) preKey(lastResort bool) (*proteus.PreKeyBundle, []byte, error) {
	command := "proteusPrekeyAuto"
	if lastResort {
		command = "proteusLastResortPrekey"
	}
	got, err := p.ask(command, nil)
	if err != nil {
		return nil, nil, err
	}
	b, err := proteus.UnmarshalPreKeyBundle(got.Prekey)
	return b, got.Prekey, err
}

func (p *peer) openSession(bundle []byte) error {
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
