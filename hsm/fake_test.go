// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A fake is a module with one token in memory, which computes with Go's own cryptography.
// Every call can be told what to answer; see [fake.next]. It fails the test where a real
// module would end the process: two calls on one session, a call beside C_Finalize, a call
// into a module that its owner has finalised.
type fake struct {
	t    *testing.T
	path string

	mu       sync.Mutex
	info     cryptoki.TokenInfo
	pin      string
	script   map[string][]answer
	always   map[string]error
	calls    map[string]int
	sessions map[cryptoki.Session]bool   // whether it is for writing
	opened   []cryptoki.Session          // all that ever were, in order
	used     []cryptoki.Session          // by C_Sign, in order
	busy     map[cryptoki.Session]string // what is under way
	inside   int
	most     int // sessions at the same time
	last     uint
	objects  []*object
	gone     error // what everything returns; nil: the token is there

	initialized, finalizing, foreign, loggedIn bool
	left                                       int // sessions that were open at the last C_Finalize

	// What the token is like.
	sessionLimit int  // 0: none
	shows        bool // private keys
	extractable  bool // all keys are
	eachTime     bool // private keys want the PIN
	stays        bool // has no keys of a session
	crosses      bool // once the first object is deleted, new ones get the handle of the next
	crossed      bool // that has happened since the start
	withoutAAD   bool // GCM leaves it out
	printable    bool // takes no object identifier for a curve
	montgomery   bool // has the generator of its own for X25519
	derPeers     bool // wants the peer of a derivation as an OCTET STRING
	slow         time.Duration
	point        func([]byte) []byte                   // form of CKA_EC_POINT
	sign         func(signature []byte) []byte         // what it makes of a signature
	agree        func(secret []byte) []byte            // and of a shared secret
	seen         func(call string, s cryptoki.Session) // is called before the work
}

// An answer is what one call does instead of its work, or before it.
type answer struct {
	err     error
	begun   chan<- struct{} // closed when the call is there
	release <-chan struct{} // the call hangs until it is closed
	do      func()          // with the lock, after that
}

// An object is a key on the token.
type object struct {
	handle     cryptoki.Object
	attributes map[cryptoki.Attribute][]byte
	secret     any
	session    cryptoki.Session // with which it ends; 0: it stays
}

const fakePIN = "7345-tulip"

var _ cryptoki.Module = (*fake)(nil)

// newFake makes a module that [Open] finds by fake.uri.
func newFake(t *testing.T) *fake {
	f := &fake{
		t: t, path: filepath.Join(t.TempDir(), "module.so"), pin: fakePIN,
		info: cryptoki.TokenInfo{
			Label: "acme", Serial: t.Name() + rand.Text(), Manufacturer: "fake", Model: "one",
			Flags: cryptoki.FlagInitialized | cryptoki.FlagLoginRequired | cryptoki.FlagUserPINSet,
		},
		script: map[string][]answer{}, always: map[string]error{}, calls: map[string]int{},
		sessions: map[cryptoki.Session]bool{}, busy: map[cryptoki.Session]string{}, montgomery: true, point: wrapped,
	}
	if err := os.WriteFile(f.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.EvalSymlinks(f.path)
	if err != nil {
		t.Fatal(err)
	}
	before := load
	load = func(p string) (cryptoki.Module, error) {
		if p != path {
			return before(p)
		}
		return f, nil
	}
	t.Cleanup(func() { load = before })
	return f
}

func (f *fake) uri(more string) string {
	return "pkcs11:token=acme?module-path=" + f.path + "&pin-value=" + fakePIN + more
}

// open opens the token until the test ends.
func (f *fake) open() *Token {
	f.t.Helper()
	t, err := Open(context.Background(), Config{URI: f.uri("")})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if !t.closed.Load() {
			if err := t.Close(); err != nil {
				f.t.Errorf("Close: %v", err)
			}
		}
	})
	return t
}

// next scripts the calls of a name that come, one answer each.
func (f *fake) next(call string, answers ...answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script[call] = append(f.script[call], answers...)
}

// fails has every call of a name return an error; nil: none does.
func (f *fake) fails(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always[call] = err
}

// hang has the next call of a name hang until release is called; begun is closed then.
func (f *fake) hang(call string) (begun <-chan struct{}, release func()) {
	b, r := make(chan struct{}), make(chan struct{})
	f.next(call, answer{begun: b, release: r})
	return b, func() { close(r) }
}

// count says how many calls of a name there were.
func (f *fake) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

// is compares the number of calls since before was taken.
func (f *fake) is(before map[string]int, want map[string]int) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for call, n := range want {
		if got := f.calls[call] - before[call]; got != n {
			f.t.Errorf("%d calls of %s, want %d", got, call, n)
		}
	}
}

func (f *fake) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// vanish has everything return an error, even after C_Initialize, until comeBack.
func (f *fake) vanish(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = err
}

func (f *fake) comeBack() { f.vanish(nil) }

// foreignFinalize is other code of the process that finalises the module.
func (f *fake) foreignFinalize() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign = true
	f.end()
}

// foreignLogout is other code of the process that logs out: old handles are dead.
func (f *fake) foreignLogout() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loggedIn = false
	f.renumber()
}

func (f *fake) renumber() {
	f.crossed = false
	for _, o := range f.objects {
		f.last++
		o.handle = cryptoki.Object(f.last)
	}
}

func (f *fake) end() {
	f.initialized, f.loggedIn, f.left = false, false, len(f.sessions)
	clear(f.sessions)
	f.objects = slices.DeleteFunc(f.objects, func(o *object) bool { return o.session != 0 })
	f.renumber()
}

// call is around all calls. Work has the lock.
func (f *fake) call(name string, s cryptoki.Session, work func() error) error {
	f.mu.Lock()
	f.calls[name]++
	if f.finalizing || name == "Finalize" && f.inside > 0 {
		f.t.Errorf("%s beside C_Finalize or the other way round: %v", name, f.busy)
	}
	owned := name == "Initialize" || name == "Finalize"
	if !f.initialized && !owned && !f.foreign {
		f.t.Errorf("%s in a module that is not initialised", name)
	}
	if other := f.busy[s]; s != 0 && other != "" {
		f.t.Errorf("%s and %s on one session", name, other)
	}
	if s != 0 {
		f.busy[s] = name
	}
	f.inside++
	f.finalizing = name == "Finalize"
	var a answer
	if list := f.script[name]; len(list) > 0 {
		a, f.script[name] = list[0], list[1:]
	} else {
		a.err = f.always[name]
	}
	seen, slow := f.seen, f.slow
	f.mu.Unlock()
	if a.begun != nil {
		close(a.begun)
	}
	if seen != nil {
		seen(name, s)
	}
	if a.release != nil {
		<-a.release
	}
	if slow > 0 && name == "Sign" {
		time.Sleep(slow)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() {
		delete(f.busy, s)
		f.inside--
		f.finalizing = false
	}()
	if a.do != nil {
		a.do()
	}
	_, open := f.sessions[s]
	switch {
	case a.err != nil:
		return a.err
	case !f.initialized && name != "Initialize":
		return cryptoki.ErrCryptokiNotInitialized
	case owned:
		return work()
	case f.gone != nil && name == "Slots": // as p11-kit: there are none
		return nil
	case f.gone != nil:
		return f.gone
	case s != 0 && !open:
		return cryptoki.ErrSessionHandleInvalid
	}
	return work()
}

func (f *fake) Initialize(string) error {
	return f.call("Initialize", 0, func() error {
		if f.initialized {
			return cryptoki.ErrCryptokiAlreadyInitialized
		}
		f.initialized, f.foreign = true, false
		return nil
	})
}

func (f *fake) Finalize() error {
	return f.call("Finalize", 0, func() error {
		f.end()
		return nil
	})
}

func (f *fake) Info() (i cryptoki.Info, err error) {
	return cryptoki.Info{Library: "fake", Manufacturer: "nobody"}, f.call("Info", 0, func() error { return nil })
}

const fakeSlot = 5

func (f *fake) Slots() (all []cryptoki.Slot, err error) {
	err = f.call("Slots", 0, func() error {
		all = []cryptoki.Slot{fakeSlot}
		return nil
	})
	return all, err
}

func (f *fake) TokenInfo(slot cryptoki.Slot) (i cryptoki.TokenInfo, err error) {
	return i, f.call("TokenInfo", 0, func() error {
		if slot != fakeSlot {
			return cryptoki.ErrSlotIDInvalid
		}
		i = f.info
		return nil
	})
}

func (f *fake) Mechanisms(cryptoki.Slot) (map[cryptoki.Mechanism]cryptoki.MechanismInfo, error) {
	return nil, cryptoki.ErrFunctionNotSupported
}

func (f *fake) OpenSession(slot cryptoki.Slot, readWrite bool) (s cryptoki.Session, err error) {
	return s, f.call("OpenSession", 0, func() error {
		if f.sessionLimit > 0 && len(f.sessions) >= f.sessionLimit {
			return cryptoki.ErrSessionCount
		}
		f.last++
		s = cryptoki.Session(f.last)
		f.sessions[s] = readWrite
		f.opened = append(f.opened, s)
		f.most = max(f.most, len(f.sessions))
		return nil
	})
}

func (f *fake) CloseSession(s cryptoki.Session) error {
	return f.call("CloseSession", s, func() error {
		delete(f.sessions, s)
		f.objects = slices.DeleteFunc(f.objects, func(o *object) bool { return o.session == s })
		f.loggedIn = f.loggedIn && len(f.sessions) > 0
		return nil
	})
}

func (f *fake) Login(s cryptoki.Session, pin []byte) error {
	pin = bytes.Clone(pin)
	return f.call("Login", s, func() error {
		switch {
		case f.loggedIn:
			return cryptoki.ErrUserAlreadyLoggedIn
		case string(pin) != f.pin:
			return cryptoki.ErrPINIncorrect
		}
		f.loggedIn = true
		return nil
	})
}

func (f *fake) LoggedIn(s cryptoki.Session) (yes bool, err error) {
	return yes, f.call("LoggedIn", s, func() error {
		yes = f.loggedIn
		return nil
	})
}

func attributesOf(t cryptoki.Template) map[cryptoki.Attribute][]byte {
	all := map[cryptoki.Attribute][]byte{}
	for _, v := range t {
		switch x := v.Value.(type) {
		case bool:
			all[v.Attribute] = []byte{0}
			if x {
				all[v.Attribute] = []byte{1}
			}
		case uint:
			all[v.Attribute] = binary.NativeEndian.AppendUint64(nil, uint64(x))
		case string:
			all[v.Attribute] = []byte(x)
		case []byte:
			all[v.Attribute] = bytes.Clone(x)
		}
	}
	return all
}

func (o *object) is(a cryptoki.Attribute) bool { return bytes.Equal(o.attributes[a], []byte{1}) }

func (o *object) class() uint {
	return uint(binary.NativeEndian.Uint64(o.attributes[cryptoki.CKAClass]))
}

func (f *fake) Find(s cryptoki.Session, t cryptoki.Template, limit int) (found []cryptoki.Object, err error) {
	return found, f.call("Find", s, func() error {
		for _, o := range f.objects {
			match := !o.is(cryptoki.CKAPrivate) || f.loggedIn
			for a, v := range attributesOf(t) {
				match = match && bytes.Equal(o.attributes[a], v)
			}
			if match && len(found) < limit {
				found = append(found, o.handle)
			}
		}
		return nil
	})
}

func (f *fake) get(h cryptoki.Object) (*object, error) {
	for _, o := range f.objects {
		if o.handle == h && (f.loggedIn || !o.is(cryptoki.CKAPrivate)) {
			return o, nil
		}
	}
	return nil, cryptoki.ErrObjectHandleInvalid
}

func (f *fake) Attribute(s cryptoki.Session, h cryptoki.Object, a cryptoki.Attribute) (v []byte, err error) {
	return v, f.call("Attribute", s, func() error {
		o, err := f.get(h)
		if err != nil {
			return err
		}
		if a == cryptoki.CKAValue && o.is(cryptoki.CKASensitive) {
			if f.shows {
				v = []byte("the key")
				return nil
			}
			return cryptoki.ErrAttributeSensitive
		}
		if v = bytes.Clone(o.attributes[a]); v == nil {
			return cryptoki.ErrAttributeTypeInvalid
		}
		return nil
	})
}

// key makes a key with the provider.
func (f *fake) key(t *Token, a core.KeyAlgorithm) core.PrivateKey {
	f.t.Helper()
	spec := core.KeySpec{Algorithm: a, Use: useOf(a), Label: "a key"}
	_, _ = rand.Read(spec.ID[:])
	k, err := t.Provider().GenerateKey(context.Background(), spec)
	if err != nil {
		f.t.Fatal(err)
	}
	return k
}

func (f *fake) signer(t *Token) core.Signer {
	f.t.Helper()
	return f.key(t, core.Ed25519).(core.Signer)
}

// signs says that a key works.
func (f *fake) signs(k core.Signer) {
	f.t.Helper()
	if out, err := k.Sign(context.Background(), []byte("m")); err != nil || k.Algorithm() == core.Ed25519 && !ed25519.Verify(k.Public(), []byte("m"), out) {
		f.t.Errorf("signature %x, %v", out, err)
	}
}
