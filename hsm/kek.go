// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// Why a key encryption key does not unwrap. Both are core.ErrWrongKey, which is all that a
// KeyWrapper promises.
var (
	// ErrOtherKEK: another key encryption key has wrapped it, or this one by another method.
	ErrOtherKEK = kind("wrapped by another key encryption key", core.ErrWrongKey)
	// ErrWrapDamaged: what was wrapped, or what it was bound to, has changed since.
	ErrWrapDamaged = kind("damaged, or wrapped for something else", core.ErrWrongKey)
)

// What is wrapped is written as
//
//	uint8  format = 3
//	uint8  method: 1 aes-gcm, 2 aes-kw, 3 aes-cbc-hmac
//	opaque key<V>     the reference of the key: token, serial number, id, label
//	uint8  check[8]   its check value
//	...               what the method makes of it; all before is authenticated with it
//	uint8  sum[4]     SHA-256 of all before, cut
//
// The sum is for accidents: what is damaged is not mistaken for what another key has
// wrapped, and does not reach the token. Who means harm can make one; then the method
// refuses.
const (
	kekFormat  = 3 // those of package seal are 1 and 2
	checkLen   = 8
	sumLen     = 4
	keyLen     = 32 // of the keys of every method
	maxDEK     = 256
	maxBody    = maxDEK + 64 // of every method
	maxWrapped = 4096
)

// A kek wraps keys in the token, with a key that is there and stays there.
type kek struct {
	t      *Token
	method *kekMethod
	uri    URI    // of the key; all that is known of it
	head   []byte // of what it wraps
	check  [checkLen]byte

	mu         sync.Mutex
	keys       kekKeys
	generation uint64 // of the module, in which the handles are worth something; 0: none
}

var _ core.KeyWrapper = (*kek)(nil)

// Wrapper opens the key encryption key that a URI names by object or id; what else the URI
// says of token and module must be so. x-kek-method says how the key is used. Without it
// it is aes-gcm, or aes-kw where that does not work; aes-cbc-hmac is only used when it is
// named, with the label of the second key in x-hmac-key. A key is wrapped and unwrapped to
// see that it works.
//
// A wrapper's ID has the check value of the key, which it has on each token that it is on,
// and which no other key has, whatever its label. It ends with the token.
func (t *Token) Wrapper(ctx context.Context, uri string) (core.KeyWrapper, error) {
	u, err := t.ownKEK(uri)
	if err != nil {
		return nil, err
	}
	tried := kekMethods[:2]
	if u.KEKMethod == "" && u.HMACKey != "" {
		u.KEKMethod = kekCBCHMAC
	}
	if m := methodOf(u.KEKMethod); m != nil {
		tried = []*kekMethod{m}
	}
	var failed error
	for _, m := range tried {
		k, err := t.openKEK(ctx, u, m)
		if err == nil {
			return k, nil
		}
		if !errors.Is(err, core.ErrUnsupported) || !lasting(err) {
			return nil, err
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// lasting says of what a token does not do that it will not do it another time either:
// what a module returns may also mean that something was wrong just then.
func lasting(err error) bool {
	r := resultOf(err)
	if r == 0 {
		r = resultIn(err)
	}
	return lastingResult(r)
}

func lastingResult(r cryptoki.Error) bool {
	const keyTypeInconsistent = cryptoki.Error(0x63) // NSS, of a key that was made for something else
	return r == 0 || r == keyTypeInconsistent || kindOf(r) != nil
}

// ownKEK reads the URI of a key encryption key on this token.
func (t *Token) ownKEK(uri string) (URI, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return u, err
	}
	in := t.in.Load()
	here := u.Matches(in.info) && (u.SlotID == nil || *u.SlotID == uint(in.slot))
	if here && (u.ModulePath != "" || u.ModuleName != "") {
		path, err := u.Module()
		if err != nil {
			return u, err
		}
		if path, err = resolved(path); err != nil {
			return u, err
		}
		here = path == t.m.path
	}
	switch {
	case !here:
		return u, t.fail("open kek", core.ErrDenied, "not a key of this token: "+u.String())
	case len(u.ID) == 0 && u.Object == "":
		return u, t.fail("open kek", ErrInvalidInput, "neither object nor id says which key: "+u.String())
	case u.Type != "" && u.Type != "secret-key":
		return u, t.fail("open kek", ErrInvalidInput, "not of the type secret-key: "+u.String())
	case u.KEKMethod == kekCBCHMAC && u.HMACKey == "":
		return u, t.fail("open kek", ErrInvalidInput, kekCBCHMAC+" wants a second key, x-hmac-key: "+u.String())
	case u.KEKMethod != "" && u.KEKMethod != kekCBCHMAC && u.HMACKey != "":
		return u, t.fail("open kek", ErrInvalidInput, u.KEKMethod+" has no second key, x-hmac-key: "+u.String())
	}
	return u, nil
}

// openKEK finds the key and tries it.
func (t *Token) openKEK(ctx context.Context, u URI, m *kekMethod) (*kek, error) {
	opened := make(chan *kek, 2) // one of each try
	err := t.use(ctx, "open kek", false, retryInput, func(s *session) error {
		k := &kek{t: t, method: m, uri: u}
		keys, check, err := k.find(s)
		if err != nil {
			return err
		}
		k.keys, k.generation, k.check = keys, s.generation, check
		name, err := k.name(s)
		if err != nil {
			return err
		}
		k.head = vlbytes.Append([]byte{kekFormat, m.code}, []byte(name))
		k.head = append(k.head, k.check[:]...)
		if len(k.head)+maxBody+sumLen > maxWrapped { // it would wrap for good
			return t.fail("open kek", ErrInvalidInput, "the label or the id of the key is too long")
		}
		if err := k.proves(s); err != nil {
			return err
		}
		shows := t.refusesToShow(s, keys.aes)
		if shows != nil && !errors.Is(shows, ErrUnsupported) {
			return shows
		}
		extractable, err := t.says(s, keys.aes, cryptoki.CKAExtractable)
		if err != nil {
			return err
		}
		if shows != nil || extractable {
			t.log.Warn("the key encryption key can leave the token: who has the PIN can copy it", "key", string(name))
		}
		opened <- k
		return nil
	})
	// What a token cannot do is an invalid input to some.
	var e *Error
	if errors.As(err, &e) && e.Result != 0 && (errors.Is(err, ErrInvalidInput) || errors.Is(err, ErrUnsupported)) {
		return nil, &Error{Op: "open kek", Token: t.name, Kind: ErrUnsupported, Result: e.Result, Detail: m.name}
	}
	if err != nil {
		return nil, err
	}
	return <-opened, nil
}

// find looks for the keys, and has them say which they are.
func (k *kek) find(s *session) (keys kekKeys, check [checkLen]byte, err error) {
	keyType := cryptoki.KeyAES
	if keys.aes, err = k.t.findSecret(s, k.uri.ID, k.uri.Object, &keyType); err != nil {
		return keys, check, err
	}
	if k.method.hmac {
		if keys.hmac, err = k.t.findSecret(s, nil, k.uri.HMACKey, nil); err != nil {
			return keys, check, err
		}
	}
	out, err := k.method.check(s, keys)
	if err != nil {
		return keys, check, err
	}
	// A function of the key that nobody else can compute, by a hash that shows neither
	// the key nor what the method would need to be kept. Other constants are encrypted
	// than what is ever wrapped.
	sum := sha256.Sum256(append([]byte("conclave kek check value\x00"+k.method.name+"\x00"), out...))
	copy(check[:], sum[:])
	return keys, check, nil
}

// findSecret looks for the one secret key of an id, a label and a type, as far as given.
func (t *Token) findSecret(s *session, id []byte, label string, keyType *uint) (cryptoki.Object, error) {
	template := named(cryptoki.ClassSecretKey, id, label)
	if keyType != nil {
		template = append(template, cryptoki.Value{Attribute: cryptoki.CKAKeyType, Value: *keyType})
	}
	name := URI{ID: id, Object: label, Type: "secret-key"}.String()
	all, err := t.find(s, template)
	switch {
	case err != nil:
		return 0, err
	case len(all) == 0:
		err := t.absent(s, name)
		if errors.Is(err, ErrKeyNotFound) {
			err = t.fail("find key", ErrKeyNotFound, name+"; "+t.secretKeys(s))
		}
		return 0, err
	case len(all) > 1:
		return 0, t.fail("find key", ErrKeyAmbiguous, fmt.Sprintf("%d secret keys match %s", len(all), name))
	}
	size, err := s.p.Attribute(s.handle, all[0], cryptoki.CKAValueLen)
	if err != nil && resultOf(err) != cryptoki.ErrAttributeTypeInvalid { // some do not say
		return 0, err
	}
	if len(size) == 8 && binary.NativeEndian.Uint64(size) != keyLen || len(size) == 4 && binary.NativeEndian.Uint32(size) != keyLen {
		return 0, t.fail("find key", ErrUnsupported, name+" is not a key of 256 bits")
	}
	return all[0], nil
}

// secretKeys says which the token has, for who has named one that it does not have.
func (t *Token) secretKeys(s *session) string {
	all, err := t.find(s, named(cryptoki.ClassSecretKey, nil, ""))
	if err != nil {
		return "which it has cannot be listed"
	}
	var names []string
	for _, o := range all {
		label, err := t.text(s, o, cryptoki.CKALabel)
		if err != nil {
			continue // deleted meanwhile
		}
		names = append(names, strconv.Quote(string(label)))
	}
	switch slices.Sort(names); {
	case len(names) == 0:
		return "it has no secret key"
	case len(all) == maxListed:
		names = append(names, "perhaps more")
	}
	return "it has " + strings.Join(names, ", ")
}

// name is the reference of the key as it is now.
func (k *kek) name(s *session) (core.KeyRef, error) {
	info := k.t.in.Load().info
	u := URI{Token: info.Label, Serial: info.Serial, Type: "secret-key"}
	for a, set := range map[cryptoki.Attribute]func([]byte){
		cryptoki.CKAID:    func(v []byte) { u.ID = v },
		cryptoki.CKALabel: func(v []byte) { u.Object = string(v) },
	} {
		v, err := s.p.Attribute(s.handle, k.keys.aes, a)
		if err != nil && resultOf(err) != cryptoki.ErrAttributeTypeInvalid {
			return "", err
		}
		set(v)
	}
	return u.Reference(), nil
}

// proves wraps and unwraps a key that is not used, and has it refused for something else.
func (k *kek) proves(s *session) error {
	dek := make([]byte, keyLen)
	_, _ = rand.Read(dek)
	body, err := k.method.wrap(s, k.keys, dek, k.head)
	if err != nil {
		return err
	}
	again, err := k.method.unwrap(s, k.keys, body, k.head)
	defer clear(again)
	if errors.Is(err, errNotAuthentic) || err == nil && !bytes.Equal(dek, again) {
		return k.t.fail("open kek", ErrUnsupported, "the token does not unwrap what it wraps by "+k.method.name)
	}
	if err != nil {
		return err
	}
	other, err := k.method.unwrap(s, k.keys, body, append([]byte("not "), k.head...))
	clear(other)
	if err == nil { // whatever it is: tokens do not agree on how they refuse
		return k.t.fail("open kek", ErrUnsupported, "the token does not authenticate the associated data of "+k.method.name)
	}
	return nil
}

// ID implements core.KeyWrapper.
func (k *kek) ID() string {
	return Scheme + ":" + k.method.name + ":" + hex.EncodeToString(k.check[:])
}

// with runs f with the keys, which it finds unless that was done since the module was
// initialised: they must be those of before.
func (k *kek) with(s *session, f func(keys kekKeys) error) error {
	keys, err := k.found(s)
	if err != nil {
		return err
	}
	if err = f(keys); resultOf(err) != 0 { // perhaps of an old handle
		k.mu.Lock()
		k.generation = 0
		k.mu.Unlock()
	}
	return err
}

func (k *kek) found(s *session) (kekKeys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.generation == s.generation {
		return k.keys, nil
	}
	keys, check, err := k.find(s)
	if err != nil {
		return keys, err
	}
	if check != k.check {
		return keys, k.t.fail("find key", ErrKeyMismatch, k.uri.String())
	}
	k.keys, k.generation = keys, s.generation
	return keys, nil
}

// Wrap implements core.KeyWrapper, for keys of 1 to 256 bytes.
func (k *kek) Wrap(ctx context.Context, dek core.Secret, aad []byte) ([]byte, error) {
	if dek.Len() == 0 || dek.Len() > maxDEK {
		return nil, k.t.fail("wrap", ErrInvalidInput, fmt.Sprintf("a key of %d bytes", dek.Len()))
	}
	bound := append(bytes.Clone(k.head), aad...)
	c := &custody{in: dek.Clone()}
	defer c.end()
	wrapped := make(chan []byte, 2) // one of each try
	err := k.t.use(ctx, "wrap", false, retryOnce, c.work(func(s *session) error {
		return k.with(s, func(keys kekKeys) error {
			body, err := k.method.wrap(s, keys, c.in.Bytes(), bound)
			if err == nil {
				wrapped <- body
			}
			return err
		})
	}))
	if err != nil {
		return nil, err
	}
	blob := append(bytes.Clone(k.head), <-wrapped...)
	sum := sha256.Sum256(blob)
	return append(blob, sum[:sumLen]...), nil
}

// Unwrap implements core.KeyWrapper. What fails is [ErrOtherKEK] or [ErrWrapDamaged].
func (k *kek) Unwrap(ctx context.Context, blob, aad []byte) (core.Secret, error) {
	if err := ctx.Err(); err != nil {
		return core.Secret{}, err
	}
	head, body, err := k.split(blob)
	if err != nil {
		return core.Secret{}, err
	}
	bound := append(bytes.Clone(head), aad...)
	c := &custody{}
	defer c.end()
	err = k.t.use(ctx, "unwrap", false, retryInput, c.work(func(s *session) error {
		return k.with(s, func(keys kekKeys) error {
			dek, err := k.method.unwrap(s, keys, body, bound)
			if err == nil {
				c.give(dek)
			}
			return err
		})
	}))
	if refusedWrapped(err) {
		return core.Secret{}, &Error{Op: "unwrap", Token: k.t.name, Kind: ErrWrapDamaged, Result: resultIn(err)}
	}
	if err != nil {
		return core.Secret{}, err
	}
	return c.take(), nil
}

// refusedWrapped says of an error that the token is well, and does not like what it was
// given.
func refusedWrapped(err error) bool {
	return errors.Is(err, ErrInvalidInput) || errors.Is(err, ErrTooLarge) || errors.Is(err, errNotAuthentic)
}

// resultIn is the result of a module that an error tells of.
func resultIn(err error) cryptoki.Error {
	var e *Error
	if errors.As(err, &e) {
		return e.Result
	}
	return 0
}

// split takes apart what this key has wrapped, which may have had another label then, or
// have been a copy on another token.
func (k *kek) split(blob []byte) (head, body []byte, err error) {
	damaged := k.t.fail("unwrap", ErrWrapDamaged, "")
	if len(blob) < sumLen || len(blob) > maxWrapped {
		return nil, nil, damaged
	}
	blob, sum := bytes.Clone(blob[:len(blob)-sumLen]), blob[len(blob)-sumLen:]
	if want := sha256.Sum256(blob); !bytes.Equal(want[:sumLen], sum) {
		return nil, nil, damaged
	}
	var format, method uint8
	var name cryptobyte.String
	var check [checkLen]byte
	in := cryptobyte.String(blob)
	if !in.ReadUint8(&format) || format != kekFormat || !in.ReadUint8(&method) || !vlbytes.Read(&in, &name) || !in.CopyBytes(check[:]) {
		return nil, nil, damaged
	}
	if method != k.method.code || check != k.check {
		by := fmt.Sprintf("method %d", method)
		if m := methodOfCode(method); m != nil {
			by = m.name
		}
		return nil, nil, k.t.fail("unwrap", ErrOtherKEK, fmt.Sprintf("by %s with %q, check value %x; this is %s", by, string(name), check, k.ID()))
	}
	return blob[:len(blob)-len(in)], in, nil
}

// custody has the secrets of an operation, which may go on when its caller has left: they
// are wiped when nobody uses them.
type custody struct {
	in core.Secret

	mu   sync.Mutex
	out  core.Secret
	busy int
	over bool
}

// work runs f unless the caller has left.
func (c *custody) work(f work) work {
	return func(s *session) error {
		c.mu.Lock()
		if c.over {
			c.mu.Unlock()
			return context.Canceled
		}
		c.busy++
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.busy--
			c.wipe()
		}()
		return f(s)
	}
}

// give keeps the result, and take hands it out.
func (c *custody) give(secret []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Wipe()
	c.out = core.NewSecret(secret)
}

func (c *custody) take() (out core.Secret) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, c.out = c.out, core.Secret{}
	return out
}

// end is when the caller leaves.
func (c *custody) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.wipe()
}

func (c *custody) wipe() {
	if c.over && c.busy == 0 {
		c.in.Wipe()
		c.out.Wipe()
	}
}
