// SPDX-License-Identifier: Apache-2.0

package coretest

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// boxWrapper is a small key wrapper that is right, or wrong in one named way.
type boxWrapper struct {
	wrong string
	key   byte
}

func TestKeyWrapperAcceptsRight(t *testing.T) {
	TestKeyWrapper(t, func(_ *testing.T, key int) core.KeyWrapper { return &boxWrapper{key: byte(key)} })
}

func TestKeyWrapperCatchesWrong(t *testing.T) {
	for wrong, check := range map[string]string{
		"no encryption":         "nothing shows",
		"no nonce":              "nothing shows",
		"no authentication":     "changed blobs",
		"forgets the aad":       "other associated data",
		"one key for all":       "another key",
		"gives what it wrapped": "another key",
		"wipes the key":         "slices are neither kept nor changed",
		"opens in place":        "slices are neither kept nor changed",
		"another id each time":  "round trip",
		"panics on short":       "changed blobs",
		"not its error":         "changed blobs",
		"ignores contexts":      "cancellation",
	} {
		t.Run(wrong, func(t *testing.T) {
			catchesWrong(t, wrapperChecks, func(testing.TB) openWrapper {
				return func(key int) core.KeyWrapper { return &boxWrapper{wrong: wrong, key: byte(key)} }
			}, check)
		})
	}
}

func (w *boxWrapper) is(wrong string) bool { return w.wrong == wrong }

func (w *boxWrapper) ID() string {
	if w.is("another id each time") {
		return rand.Text()
	}
	return "box"
}

func (w *boxWrapper) aead() cipher.AEAD {
	key := w.key
	if w.is("one key for all") {
		key = 0
	}
	block, _ := aes.NewCipher(bytes.Repeat([]byte{key}, 16))
	aead, _ := cipher.NewGCM(block)
	return aead
}

func (w *boxWrapper) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	if ctx.Err() != nil && !w.is("ignores contexts") {
		return nil, ctx.Err()
	}
	nonce := make([]byte, 12)
	if !w.is("no nonce") {
		_, _ = rand.Read(nonce)
	}
	if w.is("forgets the aad") {
		aad = nil
	}
	blob := w.aead().Seal(nonce, nonce, dek.Bytes(), aad)
	switch w.wrong {
	case "no encryption":
		copy(blob[12:], dek.Bytes())
	case "wipes the key":
		dek.Wipe()
	case "gives what it wrapped":
		lastWrapped = dek.Clone()
	}
	return blob, nil
}

var lastWrapped core.Secret

func (w *boxWrapper) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	if ctx.Err() != nil && !w.is("ignores contexts") {
		return core.Secret{}, ctx.Err()
	}
	if w.is("gives what it wrapped") {
		return lastWrapped.Clone(), nil
	}
	if len(blob) < 28 && !w.is("panics on short") {
		return core.Secret{}, core.ErrWrongKey
	}
	if w.is("forgets the aad") {
		aad = nil
	}
	var dst []byte
	if w.is("opens in place") {
		dst = blob[12:12]
	}
	dek, err := w.aead().Open(dst, blob[:12], blob[12:], aad)
	switch {
	case w.is("no encryption"):
		return core.NewSecret(bytes.Clone(blob[12 : len(blob)-16])), nil
	case err != nil && w.is("no authentication"):
		return core.NewSecret(bytes.Clone(blob[12:])), nil
	case err != nil && w.is("not its error"):
		return core.Secret{}, err
	case err != nil:
		return core.Secret{}, core.ErrWrongKey
	}
	return core.NewSecret(dek), nil
}
