// SPDX-License-Identifier: Apache-2.0

// Package cryptobox reads what Wire's earlier clients have of Proteus, to move it: the
// folder of a native cryptobox, and the database of a browser's, exported as JSON. It
// changes nothing there. [Folder] or [Browser] give a [Box]; core/client stores what is in
// it.
package cryptobox

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
)

// ErrNoIdentity: there is no identity, or not the secret part of it.
var ErrNoIdentity = fmt.Errorf("cryptobox: no identity: %w", core.ErrNotFound)

// A Box is what a cryptobox has. Its records are read when they are asked for.
type Box struct {
	// Identity reads the identity: ErrNoIdentity if there is none.
	Identity func() (*proteus.IdentityKeyPair, error)
	PreKeys  []PreKey  // ascending by their ids
	Sessions []Session // ascending by their names
	// Ignored are files that are not part of it: temporary ones that were left.
	Ignored []string
}

// A PreKey is stored under an id, which counts, whatever the one within it is.
type PreKey struct {
	ID   uint16
	Read func() (*proteus.PreKey, error)
}

// A Session is stored under the name that the application has given it. Read wants our
// identity: proteus.ErrLocalIdentityChanged if it is of another.
type Session struct {
	Name string
	Read func(identity proteus.PublicKey) (*proteus.Session, error)
}

// Folder reads the folder of a native cryptobox. core.ErrNotFound if it has not the folders
// that it should have, core.ErrInvalid if a prekey's file has another name than its id.
func Folder(root fs.FS) (*Box, error) {
	b := &Box{Identity: func() (*proteus.IdentityKeyPair, error) { return folderIdentity(root) }}
	preKeys, err := b.files(root, "prekeys")
	if err != nil {
		return nil, err
	}
	for _, name := range preKeys {
		if err := b.addPreKey(name, func() ([]byte, error) { return readFile(root, "prekeys/"+name) }); err != nil {
			return nil, err
		}
	}
	sessions, err := b.files(root, "sessions")
	if err != nil {
		return nil, err
	}
	for _, name := range sessions {
		b.addSession(name, func() ([]byte, error) { return readFile(root, "sessions/"+name) })
	}
	b.sort()
	return b, nil
}

// files lists the files of a folder. Those that were to be renamed when they were complete
// never were.
func (b *Box) files(root fs.FS, folder string) (names []string, err error) {
	entries, err := fs.ReadDir(root, folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cryptobox: folder %s: %w", folder, core.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cryptobox: folder %s: %w", folder, err)
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			b.Ignored = append(b.Ignored, folder+"/"+e.Name())
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// readFile reads a file: core.ErrInvalid for what is none, as a pipe, where nothing may ever
// come; core.ErrTooLarge for what no store takes in one write.
func readFile(root fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(root, name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file: %w", name, core.ErrInvalid)
	case info.Size() > core.MaxBatch:
		return nil, fmt.Errorf("%s has %d bytes: %w", name, info.Size(), core.ErrTooLarge)
	}
	return fs.ReadFile(root, name)
}

func folderIdentity(root fs.FS) (*proteus.IdentityKeyPair, error) {
	for _, f := range []struct {
		name string
		read func([]byte) (*proteus.IdentityKeyPair, error)
	}{{"identities/local_identity", proteus.UnmarshalIdentity}, {"identities/local", proteus.UnmarshalIdentityFile}} {
		data, err := readFile(root, f.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cryptobox: %w", err)
		}
		defer clear(data)
		i, err := f.read(data)
		if errors.Is(err, core.ErrNotFound) {
			return nil, fmt.Errorf("%s: %w", f.name, ErrNoIdentity)
		}
		return i, err
	}
	return nil, ErrNoIdentity
}

// Browser reads the JSON of a browser's cryptobox: either its database, whose object stores
// keys, prekeys and sessions have records with a field serialised, or what the cryptobox
// exports itself, identity, prekeys and sessions. core.ErrNotFound if one of the three is
// missing, core.ErrInvalid if a record's content is no base64 or a prekey's name no id.
func Browser(data []byte) (*Box, error) {
	var stores struct {
		Identity, Keys, PreKeys, Sessions json.RawMessage
	}
	if err := json.Unmarshal(data, &stores); err != nil {
		return nil, fmt.Errorf("cryptobox: %w: %v", core.ErrInvalid, err)
	}
	if stores.Identity != nil {
		stores.Keys = slices.Concat([]byte(`{"local_identity":`), stores.Identity, []byte("}"))
	}
	keys, err := contents("keys", stores.Keys)
	if err != nil {
		return nil, err
	}
	b := &Box{Identity: func() (*proteus.IdentityKeyPair, error) {
		identity, ok := keys["local_identity"]
		if !ok {
			return nil, ErrNoIdentity
		}
		return proteus.UnmarshalIdentity(identity)
	}}
	preKeys, err := contents("prekeys", stores.PreKeys)
	if err != nil {
		return nil, err
	}
	for name, content := range preKeys {
		if err := b.addPreKey(name, func() ([]byte, error) { return slices.Clone(content), nil }); err != nil {
			return nil, err
		}
	}
	sessions, err := contents("sessions", stores.Sessions)
	if err != nil {
		return nil, err
	}
	for name, content := range sessions {
		b.addSession(name, func() ([]byte, error) { return slices.Clone(content), nil })
	}
	b.sort()
	return b, nil
}

// contents reads an object store: base64 text, or records that have it as serialised.
func contents(name string, store json.RawMessage) (map[string][]byte, error) {
	if store == nil {
		return nil, fmt.Errorf("cryptobox: object store %s: %w", name, core.ErrNotFound)
	}
	var records map[string]json.RawMessage
	if err := json.Unmarshal(store, &records); err != nil {
		return nil, fmt.Errorf("cryptobox: object store %s: %w: %v", name, core.ErrInvalid, err)
	}
	out := make(map[string][]byte, len(records))
	for key, r := range records {
		content := r
		if bytes.HasPrefix(bytes.TrimSpace(r), []byte("{")) {
			var record struct{ Serialised json.RawMessage }
			if err := json.Unmarshal(r, &record); err != nil {
				return nil, fmt.Errorf("cryptobox: %s/%s: %w: %v", name, key, core.ErrInvalid, err)
			}
			content = record.Serialised
		}
		var value []byte
		if err := json.Unmarshal(content, &value); err != nil || value == nil {
			return nil, fmt.Errorf("cryptobox: %s/%s has no content in base64: %w", name, key, core.ErrInvalid)
		}
		out[key] = value
	}
	return out, nil
}

func (b *Box) addPreKey(name string, read func() ([]byte, error)) error {
	id, err := strconv.ParseUint(name, 10, 16)
	if err != nil {
		return fmt.Errorf("cryptobox: prekey %q: the name is no id: %w", name, core.ErrInvalid)
	}
	b.PreKeys = append(b.PreKeys, PreKey{uint16(id), func() (*proteus.PreKey, error) {
		data, err := read()
		if err != nil {
			return nil, err
		}
		defer clear(data)
		k, err := proteus.UnmarshalPreKey(data)
		if err == nil {
			k.ID = uint16(id)
		}
		return k, err
	}})
	return nil
}

func (b *Box) addSession(name string, read func() ([]byte, error)) {
	b.Sessions = append(b.Sessions, Session{name, func(identity proteus.PublicKey) (*proteus.Session, error) {
		data, err := read()
		if err != nil {
			return nil, err
		}
		defer clear(data)
		return proteus.UnmarshalSession(identity, data)
	}})
}

func (b *Box) sort() {
	slices.SortFunc(b.PreKeys, func(x, y PreKey) int { return cmp.Compare(x.ID, y.ID) })
	slices.SortFunc(b.Sessions, func(x, y Session) int { return cmp.Compare(x.Name, y.Name) })
}
