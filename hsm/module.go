// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A module is loaded once in a process, and has one owner: only here is it initialised
// and finalised. Others who do that in the same process take it from under us.
type module struct {
	path string // without symbolic links: another name would be the same module
	p    cryptoki.Module
	args string
	gate gate

	users int // under the lock of the path

	mu       sync.Mutex        // of what follows
	tokens   map[string]*Token // open ones, by serial number and label
	starting sync.Mutex        // of restarts

	generation atomic.Uint64 // counts initialisations; handles do not outlive one
	poisoned   atomic.Bool   // it cannot be finalised as long as a call hangs
	down       atomic.Bool   // it is finalised, and could not be initialised again
	released   bool          // under starting
}

// Engines that a module can belong to; see [ErrModuleOwned].
const (
	enginePKCS11   = "p11"
	engineCrypto11 = "crypto11"
)

// modules are those in use, by their path. An entry without a module belongs to the
// other engine.
var modules = struct {
	sync.Mutex
	byPath map[string]*module
	owner  map[string]string
}{byPath: map[string]*module{}, owner: map[string]string{}}

// load is replaced by tests, which have modules of their own.
var load = cryptoki.Load

// drainTime is how long calls under way may take until a module counts as hung.
const drainTime = 10 * time.Second

// resolved is the file of a module.
func resolved(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	switch {
	case err != nil && !cryptoki.Built:
		return "", ErrNotBuilt
	case err != nil:
		return "", &Error{Op: "load", Kind: ErrModuleLoad, Detail: err.Error()}
	}
	return real, nil
}

// claim gives a module's file to an engine.
func claim(path, engine string) error {
	modules.Lock()
	defer modules.Unlock()
	if owner := modules.owner[path]; owner != "" && owner != engine {
		return &Error{Op: "load", Token: path, Kind: ErrModuleOwned, Detail: "engine " + owner + " has it"}
	}
	modules.owner[path] = engine
	return nil
}

// starting are locks for each path: a module that hangs in C_Initialize or C_Finalize keeps
// nobody from others.
var starting = newKeyed()

func startAlone(path string) (unlock func()) {
	unlock, _ = starting.lock(context.Background(), path) // without a deadline there is no error
	return unlock
}

// known is the module of a path, if it is loaded.
func known(path string) *module {
	modules.Lock()
	defer modules.Unlock()
	return modules.byPath[path]
}

// register notes a module for its path, or with nil that there is none.
func register(path string, m *module) {
	modules.Lock()
	defer modules.Unlock()
	if m == nil {
		delete(modules.byPath, path)
		delete(modules.owner, path)
		return
	}
	modules.byPath[path] = m
}

// acquire loads and initialises a module, or takes the one that is. release must follow.
func acquire(path, args string) (*module, error) {
	path, err := resolved(path)
	if err != nil {
		return nil, err
	}
	defer startAlone(path)()
	if m := known(path); m != nil {
		if m.args != args {
			return nil, &Error{Op: "load", Token: path, Kind: ErrModuleOwned, Detail: "it is in use with other x-init-args"}
		}
		if m.released { // with a call that hangs
			return nil, &Error{Op: "load", Token: path, Kind: ErrPoisoned}
		}
		m.users++
		return m, nil
	}
	if err := claim(path, enginePKCS11); err != nil {
		return nil, err
	}
	p, err := load(path)
	if err != nil {
		register(path, nil)
		if errors.Is(err, cryptoki.ErrNotBuilt) {
			return nil, ErrNotBuilt
		}
		return nil, &Error{Op: "load", Kind: ErrModuleLoad, Detail: err.Error()}
	}
	m := &module{path: path, p: p, args: args, users: 1, tokens: map[string]*Token{}}
	if err := m.initialize(); err != nil {
		register(path, nil)
		return nil, err
	}
	register(path, m)
	return m, nil
}

func (m *module) initialize() error {
	err := m.p.Initialize(m.args)
	switch {
	case errors.Is(err, cryptoki.ErrCryptokiAlreadyInitialized):
		return &Error{Op: "initialize", Token: m.path, Kind: ErrModuleOwned, Result: cryptoki.ErrCryptokiAlreadyInitialized}
	case err != nil:
		return &Error{Op: "initialize", Token: m.path, Kind: ErrTokenUnavailable, Result: resultOf(err)}
	}
	m.generation.Add(1)
	m.down.Store(false)
	return nil
}

// enter passes the gate. leave must follow.
func (m *module) enter(ctx context.Context) error {
	if m.poisoned.Load() {
		return &Error{Op: "call", Token: m.path, Kind: ErrPoisoned}
	}
	if err := m.gate.enter(ctx); err != nil {
		return err
	}
	var kind error
	switch {
	case m.poisoned.Load():
		kind = ErrPoisoned
	case m.down.Load():
		kind = ErrTokenUnavailable
	default:
		return nil
	}
	m.gate.leave()
	return &Error{Op: "call", Token: m.path, Kind: kind}
}

// release finalises a module when nobody uses it any more.
func (m *module) release() error {
	defer startAlone(m.path)()
	if m.users--; m.users > 0 {
		return nil
	}
	m.starting.Lock()
	defer m.starting.Unlock()
	m.released = true
	emptied := m.gate.close(drainTime)
	defer m.gate.open()
	if !emptied { // it stays: nobody may initialise it again beside a call
		m.poisoned.Store(true)
		return &Error{Op: "finalize", Token: m.path, Kind: ErrPoisoned}
	}
	register(m.path, nil)
	if err := m.p.Finalize(); err != nil && !errors.Is(err, cryptoki.ErrCryptokiNotInitialized) {
		return &Error{Op: "finalize", Token: m.path, Kind: ErrTokenUnavailable, Result: resultOf(err)}
	}
	return nil
}

// restart finalises and initialises the module, unless somebody did so since the given
// generation. It waits for the calls under way.
func (m *module) restart(since uint64) error {
	m.starting.Lock()
	defer m.starting.Unlock()
	switch {
	case m.released:
		return &Error{Op: "restart", Token: m.path, Kind: core.ErrClosed}
	case m.generation.Load() != since:
		return nil
	}
	emptied := m.gate.close(drainTime)
	defer m.gate.open() // those who wait are told
	m.poisoned.Store(!emptied)
	if !emptied {
		return &Error{Op: "restart", Token: m.path, Kind: ErrPoisoned}
	}
	if err := m.p.Finalize(); err != nil && !errors.Is(err, cryptoki.ErrCryptokiNotInitialized) {
		return &Error{Op: "restart", Token: m.path, Kind: ErrTokenUnavailable, Result: resultOf(err)}
	}
	m.down.Store(true)
	return m.initialize()
}

// shared says whether several tokens of the module are open.
func (m *module) shared() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tokens) > 1
}

// A found token is in a slot.
type found struct {
	slot cryptoki.Slot
	info cryptoki.TokenInfo
}

func (f found) name() string { return fmt.Sprintf("%s, serial number %s", f.info.Label, f.info.Serial) }

// list asks the module for its tokens. The caller is inside the gate.
func (m *module) list() ([]found, error) {
	slots, err := m.p.Slots()
	if err != nil {
		return nil, &Error{Op: "list slots", Token: m.path, Kind: ErrTokenUnavailable, Result: resultOf(err)}
	}
	var all []found
	for _, s := range slots {
		info, err := m.p.TokenInfo(s)
		if err != nil { // gone since, or broken: not one that could be used
			continue
		}
		if info.Flags&cryptoki.FlagInitialized != 0 {
			all = append(all, found{s, info})
		}
	}
	return all, nil
}

// find looks for the one token of a URI.
func (m *module) find(u URI) (found, error) {
	all, err := m.list()
	if err != nil {
		return found{}, err
	}
	var matching []found
	there := ""
	for _, f := range all {
		if u.Matches(f.info) && (u.SlotID == nil || *u.SlotID == uint(f.slot)) {
			matching = append(matching, f)
		}
		there += "; there is " + f.name()
	}
	switch {
	case len(matching) == 1:
		return matching[0], nil
	case len(all) == 0:
		return found{}, &Error{Op: "find token", Token: m.path, Kind: ErrTokenNotFound, Detail: "the module shows no token at all"}
	case len(matching) == 0:
		return found{}, &Error{Op: "find token", Token: m.path, Kind: ErrTokenNotFound, Detail: "none is " + u.String() + there}
	}
	return found{}, &Error{Op: "find token", Token: m.path, Kind: ErrTokenAmbiguous, Detail: fmt.Sprintf("%d are %s%s", len(matching), u, there)}
}

// A TokenInfo describes a token of a module.
type TokenInfo struct {
	URI          string // what to name it by; without a PIN
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	Firmware     string
	MaxSessions  uint // 0: unknown or unlimited
	PIN          string
}

// Tokens lists the tokens of a module. It needs no PIN. initArgs is what NSS wants.
func Tokens(ctx context.Context, modulePath, initArgs string) ([]TokenInfo, error) {
	m, err := acquire(modulePath, initArgs)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.release() }()
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.gate.leave()
	all, err := m.list()
	if err != nil {
		return nil, err
	}
	var list []TokenInfo
	for _, f := range all {
		i := f.info
		u := URI{Token: i.Label, Serial: i.Serial, Manufacturer: i.Manufacturer, Model: i.Model, ModulePath: modulePath, InitArgs: initArgs}
		list = append(list, TokenInfo{
			URI: u.String(), Label: i.Label, Serial: i.Serial, Manufacturer: i.Manufacturer, Model: i.Model,
			Firmware: i.Firmware, MaxSessions: i.MaxSessions, PIN: pinState(i.Flags),
		})
	}
	return list, nil
}

// pinState is what the flags say of the PIN; some tokens never say anything.
func pinState(f cryptoki.Flags) string {
	switch {
	case f&cryptoki.FlagUserPINSet == 0:
		return "not set"
	case f&cryptoki.FlagUserPINLocked != 0:
		return "locked"
	case f&cryptoki.FlagUserPINFinal != 0:
		return "one try left"
	case f&cryptoki.FlagUserPINExpired != 0:
		return "expired"
	case f&cryptoki.FlagUserPINLow != 0:
		return "refused before"
	}
	return "set"
}

// Available is nil if modules can be loaded, or ErrNotBuilt.
func Available() error {
	if !cryptoki.Built {
		return ErrNotBuilt
	}
	return nil
}

// InitializeAlone calls f while this package initialises no module. Code of the same
// process that initialises a PKCS#11 module by itself does it in here: some modules, SoftHSM
// is one, disturb one another when they read their configurations at the same time. One that
// hangs keeps the others for ten seconds.
func InitializeAlone(f func() error) error { return cryptoki.Alone(f) }
