// SPDX-License-Identifier: Apache-2.0

package cryptobox

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/vectors"
)

// A storeVector is a recorded store, what of it can be moved, and what then can be read.
type storeVector struct {
	Name       string
	IndexedDB  json.RawMessage
	Serialised json.RawMessage `json:"serialised_cryptobox"`
	Files      map[string][]byte
	Error      string
	Expected   struct {
		Fingerprint string
		PreKeys     []uint16
		Sessions    map[string]struct{ Serialised []byte }
		LeftOut     []string `json:"left_out"`
	}
	After []struct {
		Session            string
		Message, Plaintext []byte
		Error              string
		NewSession         bool `json:"new_session"`
	}
}

// RunVectors runs a JSON file of recorded stores; a file of another kind is
// core.ErrUnsupported, one that is no JSON core.ErrInvalid.
func RunVectors(ctx context.Context, file []byte) (*vectors.Report, error) {
	var v struct{ Stores []storeVector }
	var unfit *json.UnmarshalTypeError
	if err := json.Unmarshal(file, &v); err != nil && !errors.As(err, &unfit) {
		return nil, fmt.Errorf("cryptobox test vectors: %w: %v", core.ErrInvalid, err)
	}
	if len(v.Stores) == 0 {
		return nil, fmt.Errorf("cryptobox test vectors: no stores: %w", core.ErrUnsupported)
	}
	report := &vectors.Report{Type: "cryptobox stores"}
	for _, store := range v.Stores {
		for _, open := range store.forms() {
			err := store.run(ctx, open)
			if err != nil {
				err = fmt.Errorf("%s: %w", store.Name, err)
			}
			report.Add(err)
		}
	}
	return report, ctx.Err()
}

// forms are the ways in which the store is there.
func (v storeVector) forms() (open []func() (*Box, error)) {
	for _, data := range []json.RawMessage{v.IndexedDB, v.Serialised} {
		if data != nil {
			open = append(open, func() (*Box, error) { return Browser(data) })
		}
	}
	if v.Files != nil {
		open = append(open, func() (*Box, error) {
			root, err := folderOf(v.Files)
			if err != nil {
				return nil, err
			}
			return Folder(root)
		})
	}
	return open
}

// folderOf has the files in memory.
func folderOf(files map[string][]byte) (fs.FS, error) {
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, content := range files {
		f, err := w.Create(name)
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
}

func (v storeVector) run(ctx context.Context, open func() (*Box, error)) error {
	m, err := move(open)
	switch {
	case v.Error != "" && err == nil:
		return fmt.Errorf("moved, want the error %q", v.Error)
	case v.Error != "":
		return nil
	case err != nil:
		return err
	}
	ids := slices.Sorted(maps.Keys(m.preKeys))
	slices.Sort(v.Expected.LeftOut)
	switch {
	case m.identity.Public().Fingerprint() != v.Expected.Fingerprint:
		return fmt.Errorf("the identity is %s", m.identity.Public().Fingerprint())
	case !slices.Equal(ids, v.Expected.PreKeys):
		return fmt.Errorf("the prekeys are %d, want %d", ids, v.Expected.PreKeys)
	case !slices.Equal(m.leftOut, v.Expected.LeftOut):
		return fmt.Errorf("%q is left out, want %q", m.leftOut, v.Expected.LeftOut)
	case len(m.sessions) != len(v.Expected.Sessions):
		return fmt.Errorf("%d sessions, want %d", len(m.sessions), len(v.Expected.Sessions))
	}
	for name, want := range v.Expected.Sessions {
		if err := m.sameSession(ctx, name, want.Serialised); err != nil {
			return fmt.Errorf("session %s: %w", name, err)
		}
	}
	for i, step := range v.After {
		d, err := m.read(ctx, step.Session, step.NewSession, step.Message)
		switch {
		case step.Error == "DuplicateMessage" && errors.Is(err, proteus.ErrDuplicateMessage):
		case step.Error != "" || err != nil:
			return fmt.Errorf("message %d: error %v, want %q", i, err, step.Error)
		case !bytes.Equal(d.Plaintext, step.Plaintext):
			return fmt.Errorf("message %d is %q, want %q", i, d.Plaintext, step.Plaintext)
		default:
			m.sessions[step.Session] = d.Session
		}
	}
	return nil
}

// A moved is what came of a box.
type moved struct {
	identity *proteus.IdentityKeyPair
	preKeys  map[uint16]*proteus.PreKey
	sessions map[string]*proteus.Session
	leftOut  []string
}

func move(open func() (*Box, error)) (*moved, error) {
	box, err := open()
	if err != nil {
		return nil, err
	}
	m := &moved{preKeys: map[uint16]*proteus.PreKey{}, sessions: map[string]*proteus.Session{}}
	if m.identity, err = box.Identity(); err != nil {
		return nil, err
	}
	for _, k := range box.PreKeys {
		if m.preKeys[k.ID], err = k.Read(); err != nil {
			delete(m.preKeys, k.ID)
			m.leftOut = append(m.leftOut, "prekeys/"+strconv.Itoa(int(k.ID)))
		}
	}
	for _, s := range box.Sessions {
		if m.sessions[s.Name], err = s.Read(m.identity.Public()); err != nil {
			delete(m.sessions, s.Name)
			m.leftOut = append(m.leftOut, "sessions/"+s.Name)
		}
	}
	slices.Sort(m.leftOut)
	return m, nil
}

// sameSession compares a session with a stored one, the order of whose states is free.
func (m *moved) sameSession(ctx context.Context, name string, stored []byte) error {
	if m.sessions[name] == nil {
		return core.ErrNotFound
	}
	got, err := m.sessions[name].Marshal(ctx, nil)
	if err != nil {
		return err
	}
	s, err := proteus.UnmarshalSession(m.identity.Public(), stored)
	if err != nil {
		return err
	}
	want, err := s.Marshal(ctx, nil)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("is %x, want %x", got, want)
	}
	return err
}

func (m *moved) read(ctx context.Context, name string, anew bool, message []byte) (*proteus.Decrypted, error) {
	env := &proteus.Env{Identity: m.identity, PreKey: func(_ context.Context, id uint16) (*proteus.PreKey, error) {
		if k := m.preKeys[id]; k != nil {
			return k, nil
		}
		return nil, core.ErrNotFound
	}}
	if anew {
		return proteus.SessionFromMessage(ctx, env, message)
	}
	s := m.sessions[name]
	if s == nil {
		return nil, core.ErrNotFound
	}
	return s.Decrypt(ctx, env, message)
}
