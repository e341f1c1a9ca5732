// SPDX-License-Identifier: Apache-2.0

package cryptobox_test

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/proteus"
	"github.com/conclave-mls/conclave/core/proteus/cryptobox"
)

// What is in the place of a file is not waited for, nor read into memory whatever its size.
func TestNoFile(t *testing.T) {
	t.Parallel()
	identity, err := proteus.GenerateIdentity(nil)
	if err != nil {
		t.Fatal(err)
	}
	preKey, err := proteus.GeneratePreKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	pipe := &fstest.MapFile{Data: preKey.Marshal(), Mode: fs.ModeNamedPipe}
	large := &fstest.MapFile{Data: append(preKey.Marshal(), bytes.Repeat([]byte{0}, core.MaxBatch)...)}
	box, err := cryptobox.Folder(fstest.MapFS{
		"identities/local_identity": {Data: identity.Marshal(), Mode: fs.ModeDevice},
		"prekeys/1":                 pipe,
		"prekeys/2":                 large,
		"sessions/pipe":             pipe,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := box.Identity(); !errors.Is(err, core.ErrInvalid) || errors.Is(err, cryptobox.ErrNoIdentity) {
		t.Errorf("the identity is a device: %v", err)
	}
	if _, err := box.PreKeys[0].Read(); !errors.Is(err, core.ErrInvalid) {
		t.Errorf("a prekey is a pipe: %v", err)
	}
	if _, err := box.PreKeys[1].Read(); !errors.Is(err, core.ErrTooLarge) {
		t.Errorf("a prekey is large: %v", err)
	}
	if _, err := box.Sessions[0].Read(identity.Public()); !errors.Is(err, core.ErrInvalid) || errors.Is(err, proteus.ErrMalformed) {
		t.Errorf("a session is a pipe: %v", err)
	}
}
