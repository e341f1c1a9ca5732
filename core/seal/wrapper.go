// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/conclave-mls/conclave/core"
)

// RawKey wraps with a key of 32 random bytes that the caller keeps somewhere
// safe. The key is used where it is, not copied: wipe it when the wrapper is no
// longer needed. ErrInvalid: another length.
func RawKey(key core.Secret) (core.KeyWrapper, error) {
	if key.Len() != keyLen {
		return nil, fmt.Errorf("seal: raw key of %d bytes, want %d: %w", key.Len(), keyLen, core.ErrInvalid)
	}
	id, err := hkdf.Expand(sha256.New, key.Bytes(), "conclave raw key id", 8)
	if err != nil {
		return nil, err
	}
	return &rawKey{key: key, id: "raw:" + hex.EncodeToString(id)}, nil
}

type rawKey struct {
	key core.Secret
	id  string // of the key, not from it alone: it tells nothing about it
}

func (k *rawKey) ID() string { return k.id }

// Wrap gives: format 1, nonce, ciphertext.
func (k *rawKey) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := k.wrappingKey()
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return sealBlob(key, []byte{wrapRaw}, dek, aad)
}

func (k *rawKey) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	if err := ctx.Err(); err != nil {
		return core.Secret{}, err
	}
	if len(blob) < 1 || blob[0] != wrapRaw {
		return core.Secret{}, core.ErrWrongKey
	}
	key, err := k.wrappingKey()
	if err != nil {
		return core.Secret{}, err
	}
	defer key.Wipe()
	return openBlob(key, blob, 1, aad)
}

func (k *rawKey) wrappingKey() (core.Secret, error) {
	key, err := hkdf.Expand(sha256.New, k.key.Bytes(), "conclave raw key wrap", keyLen)
	return core.NewSecret(key), err
}

// Passphrase wraps with a key that Argon2id derives from a passphrase, with the
// second recommendation of RFC 9106 section 4: 3 passes over 64 MiB in 4 lanes,
// about a tenth of a second. Salt and parameters are in the blob. The passphrase
// is used where it is, not copied: wipe it when the wrapper is no longer needed.
// ErrInvalid: it is empty.
func Passphrase(pw core.Secret) (core.KeyWrapper, error) {
	if pw.IsZero() {
		return nil, fmt.Errorf("seal: empty passphrase: %w", core.ErrInvalid)
	}
	return &passphrase{pw: pw, passes: 3, kib: 64 << 10, lanes: 4}, nil
}

type passphrase struct {
	pw          core.Secret
	passes, kib uint32 // of what it wraps; a blob says its own
	lanes       uint8
}

const (
	argonSaltLen = 16

	// What a blob may ask for: it comes from the store, and is believed only
	// after the work is done.
	argonMaxPasses = 16
	argonMaxKiB    = 256 << 10
	argonMaxLanes  = 16

	argonHeaderLen = 1 + 4 + 4 + 1 + argonSaltLen
)

// The first byte of a blob.
const (
	wrapRaw        = 1
	wrapPassphrase = 2
)

// ID is the same for every passphrase: anything else could be tested against guesses.
func (p *passphrase) ID() string { return "passphrase" }

// Wrap gives: format 2, passes (4 bytes), KiB (4), lanes (1), salt, nonce, ciphertext.
func (p *passphrase) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	header := []byte{wrapPassphrase}
	header = binary.BigEndian.AppendUint32(header, p.passes)
	header = binary.BigEndian.AppendUint32(header, p.kib)
	header = append(header, p.lanes)
	header = append(header, random(argonSaltLen)...)
	key := p.wrappingKey(header)
	defer key.Wipe()
	return sealBlob(key, header, dek, aad)
}

func (p *passphrase) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	if err := ctx.Err(); err != nil {
		return core.Secret{}, err
	}
	if len(blob) < argonHeaderLen || blob[0] != wrapPassphrase {
		return core.Secret{}, core.ErrWrongKey
	}
	passes, kib, lanes := binary.BigEndian.Uint32(blob[1:]), binary.BigEndian.Uint32(blob[5:]), blob[9]
	if passes < 1 || passes > argonMaxPasses || kib > argonMaxKiB || lanes < 1 || lanes > argonMaxLanes {
		return core.Secret{}, core.ErrWrongKey
	}
	key := p.wrappingKey(blob[:argonHeaderLen])
	defer key.Wipe()
	return openBlob(key, blob, argonHeaderLen, aad)
}

func (p *passphrase) wrappingKey(header []byte) core.Secret {
	return core.NewSecret(argon2.IDKey(p.pw.Bytes(), header[10:argonHeaderLen],
		binary.BigEndian.Uint32(header[1:]), binary.BigEndian.Uint32(header[5:]), header[9], keyLen))
}

// sealBlob appends nonce and ciphertext to a header and authenticates the header.
func sealBlob(key core.Secret, header []byte, dek core.Secret, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key.Bytes())
	if err != nil {
		return nil, err
	}
	n := random(chacha20poly1305.NonceSizeX)
	return aead.Seal(append(header, n...), n, dek.Bytes(), join(header, aad)), nil
}

// openBlob is the reverse of sealBlob. It does not say why it fails.
func openBlob(key core.Secret, blob []byte, headerLen int, aad []byte) (core.Secret, error) {
	header, rest := blob[:headerLen], blob[headerLen:]
	if len(rest) < chacha20poly1305.NonceSizeX {
		return core.Secret{}, core.ErrWrongKey
	}
	aead, err := chacha20poly1305.NewX(key.Bytes())
	if err != nil {
		return core.Secret{}, err
	}
	n, ciphertext := rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:]
	dek, err := aead.Open(nil, n, ciphertext, join(header, aad))
	if err != nil {
		return core.Secret{}, core.ErrWrongKey
	}
	return core.NewSecret(dek), nil
}
