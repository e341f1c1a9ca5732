// SPDX-License-Identifier: Apache-2.0

package mls_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/mls"
	"github.com/conclave-mls/conclave/core/record"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// A recorder stands before a member's suites and keeps a copy of every secret that
// the member ever had in its hands.
type recorder struct {
	core.SuiteSource
	mu    sync.Mutex
	known []knownSecret
	infos [][]byte // of what was encrypted by HPKE
}

type knownSecret struct {
	label string      // of the KDF, or what it is
	value []byte      // a copy
	live  core.Secret // what the engine has; zero if it is not the engine's
}

// recorded is a member whose secrets are recorded.
func recorded(t testing.TB, suite core.SuiteID, name string, config mls.Config) (*member, *recorder) {
	m := newMember(t, suite, name, config)
	r := &recorder{SuiteSource: provider}
	m.suites = r
	s, err := r.Suite(suite)
	if err != nil {
		t.Fatal(err)
	}
	m.suite = s
	return m, r
}

func (r *recorder) note(label string, s core.Secret) core.Secret {
	r.add(label, s.Bytes(), s)
	return s
}

func (r *recorder) add(label string, value []byte, live core.Secret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.Equal(value, make([]byte, len(value))) { // the zeros that stand for no secret
		r.known = append(r.known, knownSecret{label, bytes.Clone(value), live})
	}
}

// all are the secrets with one of the labels.
func (r *recorder) all(labels ...string) (list []knownSecret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.known {
		if slices.Contains(labels, k.label) {
			list = append(list, k)
		}
	}
	return list
}

func (r *recorder) Suite(id core.SuiteID) (core.Suite, error) {
	s, err := r.SuiteSource.Suite(id)
	return recordingSuite{s, func() *recorder { return r }}, err
}

type recordingSuite struct {
	core.Suite
	to func() *recorder // a function, of which formatting shows nothing
}

func (s recordingSuite) Extract(salt, ikm core.Secret) core.Secret {
	return s.to().note("extracted", s.Suite.Extract(salt, ikm))
}

func (s recordingSuite) Expand(prk core.Secret, info []byte, length int) (core.Secret, error) {
	secret, err := s.Suite.Expand(prk, info, length)
	if err != nil {
		return secret, err
	}
	var label []byte
	rest := cryptobyte.String(info[2:]) // behind the length
	vlbytes.ReadBytes(&rest, &label)
	return s.to().note(strings.TrimPrefix(string(label), "MLS 1.0 "), secret), nil
}

func (s recordingSuite) GenerateKeyPair() (core.SoftwareKey, error) {
	return s.key(s.Suite.GenerateKeyPair())
}

func (s recordingSuite) DeriveKeyPair(ikm core.Secret) (core.SoftwareKey, error) {
	return s.key(s.Suite.DeriveKeyPair(ikm))
}

func (s recordingSuite) key(k core.SoftwareKey, err error) (core.SoftwareKey, error) {
	if err == nil {
		s.to().add("private key", k.Material().Bytes(), core.Secret{})
	}
	return k, err
}

func (s recordingSuite) Sealer(info []byte) core.Sealer {
	return recordingSealer{s.Suite.Sealer(info), bytes.Clone(info), s.to}
}

func (s recordingSealer) Seal(public, aad, plaintext []byte) (core.HPKECiphertext, error) {
	s.to().add("sealed", plaintext, core.Secret{})
	r := s.to()
	r.mu.Lock()
	r.infos = append(r.infos, s.info)
	r.mu.Unlock()
	return s.Sealer.Seal(public, aad, plaintext)
}

func (s recordingSuite) SetupSender(public, info []byte) ([]byte, core.Exporter, error) {
	enc, e, err := s.Suite.SetupSender(public, info)
	return enc, recordingExporter{e, s.to}, err
}

func (s recordingSuite) Recipient(key core.PrivateKey) (core.Recipient, error) {
	r, err := s.Suite.Recipient(key)
	return recordingRecipient{r, s.to}, err
}

type recordingRecipient struct {
	core.Recipient
	to func() *recorder
}

func (r recordingRecipient) Open(ctx context.Context, info, aad []byte, ct core.HPKECiphertext) ([]byte, error) {
	plaintext, err := r.Recipient.Open(ctx, info, aad, ct)
	r.to().add("opened", plaintext, core.Secret{})
	return plaintext, err
}

func (r recordingRecipient) Setup(ctx context.Context, enc, info []byte) (core.Exporter, error) {
	e, err := r.Recipient.Setup(ctx, enc, info)
	return recordingExporter{e, r.to}, err
}

type recordingSealer struct {
	core.Sealer
	info []byte
	to   func() *recorder
}

type recordingExporter struct {
	core.Exporter
	to func() *recorder
}

func (e recordingExporter) Export(exporterContext []byte, length int) (core.Secret, error) {
	s, err := e.Exporter.Export(exporterContext, length)
	if err != nil {
		return s, err
	}
	return e.to().note("external init", s), nil
}

// holds lists the kinds of records in which a secret is.
func (r records) holds(secret []byte) (kinds []record.Kind) {
	for kind, list := range r {
		for _, rec := range list {
			if bytes.Contains(rec.Value, secret) || bytes.Contains(rec.Key, secret) {
				kinds = append(kinds, kind)
			}
		}
	}
	return kinds
}
