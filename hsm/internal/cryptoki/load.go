// SPDX-License-Identifier: Apache-2.0

//go:build cgo && !nohsm

package cryptoki

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// Built says whether modules can be loaded.
const Built = true

// Load opens a module. The path is executed: it must come from the operator.
func Load(path string) (Module, error) {
	if _, err := os.Stat(path); err != nil { // the loader says nothing about why
		return nil, err
	}
	c := pkcs11.New(path)
	if c == nil {
		return nil, fmt.Errorf("%s cannot be loaded: not a PKCS#11 module of this machine's architecture, or a library that it needs is missing", path)
	}
	return &module{c}, nil
}

// A module is one of miekg/pkcs11. It is never unloaded: a module that has started
// threads of its own does not survive that, and is small.
type module struct{ c *pkcs11.Ctx }

// failed makes the error that the interface promises.
func failed(err error) error {
	var rv pkcs11.Error
	if errors.As(err, &rv) {
		return Error(rv)
	}
	return err
}

func give[T any](v T, err error) (T, error) { return v, failed(err) }

func (m *module) Initialize(args string) error {
	var options []pkcs11.InitializeOption
	if args != "" {
		reserved := append([]byte(args), 0)
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(&reserved[0])))
	}
	return failed(Alone(func() error { return m.c.Initialize(options...) }))
}

func (m *module) Finalize() error { return failed(m.c.Finalize()) }

func (m *module) Info() (Info, error) {
	i, err := m.c.GetInfo()
	return Info{
		Library: i.LibraryDescription, Manufacturer: i.ManufacturerID,
		Version: version(i.LibraryVersion), Cryptoki: version(i.CryptokiVersion),
	}, failed(err)
}

func version(v pkcs11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func (m *module) Slots() ([]Slot, error) {
	list, err := m.c.GetSlotList(true)
	// A token was put in between the question how many there are and the one which.
	for try := 0; try < 3 && errors.Is(err, pkcs11.Error(pkcs11.CKR_BUFFER_TOO_SMALL)); try++ {
		list, err = m.c.GetSlotList(true)
	}
	slots := make([]Slot, len(list))
	for i, s := range list {
		slots[i] = Slot(s)
	}
	return slots, failed(err)
}

func (m *module) TokenInfo(s Slot) (TokenInfo, error) {
	i, err := m.c.GetTokenInfo(uint(s))
	t := TokenInfo{
		Label: unpadded(i.Label), Manufacturer: unpadded(i.ManufacturerID),
		Model: unpadded(i.Model), Serial: unpadded(i.SerialNumber),
		Firmware: version(i.FirmwareVersion), Flags: Flags(i.Flags), MaxSessions: i.MaxSessionCount,
	}
	if t.MaxSessions >= ^uint(0)-1 { // CK_UNAVAILABLE_INFORMATION, or all that opencryptoki can count
		t.MaxSessions = 0
	}
	return t, failed(err)
}

func (m *module) Mechanisms(s Slot) (map[Mechanism]MechanismInfo, error) {
	list, err := m.c.GetMechanismList(uint(s))
	if err != nil {
		return nil, failed(err)
	}
	all := make(map[Mechanism]MechanismInfo, len(list))
	for _, mechanism := range list {
		i, err := m.c.GetMechanismInfo(uint(s), []*pkcs11.Mechanism{mechanism})
		if err != nil { // listed, and not known: as if it were not
			continue
		}
		all[Mechanism(mechanism.Mechanism)] = MechanismInfo{Min: i.MinKeySize, Max: i.MaxKeySize, Flags: i.Flags}
	}
	return all, nil
}

func (m *module) OpenSession(slot Slot, readWrite bool) (Session, error) {
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if readWrite {
		flags |= pkcs11.CKF_RW_SESSION
	}
	s, err := m.c.OpenSession(uint(slot), flags)
	return Session(s), failed(err)
}

func (m *module) CloseSession(s Session) error { return failed(m.c.CloseSession(handle(s))) }

func (m *module) Login(s Session, pin []byte) error {
	return failed(m.c.Login(handle(s), pkcs11.CKU_USER, string(pin)))
}

func (m *module) LoggedIn(s Session) (bool, error) {
	i, err := m.c.GetSessionInfo(handle(s))
	return i.State == pkcs11.CKS_RO_USER_FUNCTIONS || i.State == pkcs11.CKS_RW_USER_FUNCTIONS, failed(err)
}

func (m *module) Find(s Session, t Template, limit int) ([]Object, error) {
	if err := m.c.FindObjectsInit(handle(s), attributes(t)); err != nil {
		return nil, failed(err)
	}
	var found []Object
	var err error
	for len(found) < limit {
		var list []pkcs11.ObjectHandle
		if list, _, err = m.c.FindObjects(handle(s), limit-len(found)); err != nil || len(list) == 0 {
			break
		}
		for _, o := range list {
			found = append(found, Object(o))
		}
	}
	if final := m.c.FindObjectsFinal(handle(s)); err == nil {
		err = final
	}
	return give(found, err)
}

func (m *module) Attribute(s Session, o Object, a Attribute) ([]byte, error) {
	list, err := m.c.GetAttributeValue(handle(s), pkcs11.ObjectHandle(o), []*pkcs11.Attribute{pkcs11.NewAttribute(uint(a), nil)})
	if err != nil {
		return nil, failed(err)
	}
	if len(list) != 1 {
		return nil, ErrAttributeTypeInvalid
	}
	return list[0].Value, nil
}

func (m *module) GenerateKey(s Session, k Mechanism, t Template) (Object, error) {
	o, err := m.c.GenerateKey(handle(s), mechanism(k, nil), attributes(t))
	return Object(o), failed(err)
}

func (m *module) GenerateKeyPair(s Session, k Mechanism, public, private Template) (Object, Object, error) {
	a, b, err := m.c.GenerateKeyPair(handle(s), mechanism(k, nil), attributes(public), attributes(private))
	return Object(a), Object(b), failed(err)
}

func (m *module) Create(s Session, t Template) (Object, error) {
	list := attributes(t)
	o, err := m.c.CreateObject(handle(s), list)
	for _, a := range list { // copies, one of which may be a key
		clear(a.Value)
	}
	return Object(o), failed(err)
}

func (m *module) Destroy(s Session, o Object) error {
	return failed(m.c.DestroyObject(handle(s), pkcs11.ObjectHandle(o)))
}

func (m *module) Sign(s Session, k Mechanism, key Object, data []byte) ([]byte, error) {
	if err := m.c.SignInit(handle(s), mechanism(k, nil), pkcs11.ObjectHandle(key)); err != nil {
		return nil, failed(err)
	}
	return give(m.c.Sign(handle(s), data))
}

func (m *module) Verify(s Session, k Mechanism, key Object, data, signature []byte) error {
	if err := m.c.VerifyInit(handle(s), mechanism(k, nil), pkcs11.ObjectHandle(key)); err != nil {
		return failed(err)
	}
	return failed(m.c.Verify(handle(s), data, signature))
}

func (m *module) Encrypt(s Session, k Mechanism, p Parameters, key Object, data []byte) ([]byte, []byte, error) {
	params, iv := parameters(p)
	defer params.free()
	if err := m.c.EncryptInit(handle(s), mechanism(k, params.value), pkcs11.ObjectHandle(key)); err != nil {
		return nil, nil, failed(err)
	}
	out, err := m.c.Encrypt(handle(s), data)
	return out, iv(), failed(err)
}

func (m *module) Decrypt(s Session, k Mechanism, p Parameters, key Object, data []byte) ([]byte, error) {
	params, _ := parameters(p)
	defer params.free()
	if err := m.c.DecryptInit(handle(s), mechanism(k, params.value), pkcs11.ObjectHandle(key)); err != nil {
		return nil, failed(err)
	}
	return give(m.c.Decrypt(handle(s), data))
}

func (m *module) Derive(s Session, key Object, peer []byte, t Template) (Object, error) {
	const withoutKDF = 1 // CKD_NULL
	o, err := m.c.DeriveKey(handle(s),
		mechanism(ECDH1Derive, pkcs11.NewECDH1DeriveParams(withoutKDF, nil, peer)), pkcs11.ObjectHandle(key), attributes(t))
	return Object(o), failed(err)
}

func (m *module) Wrap(s Session, k Mechanism, wrapping, key Object) ([]byte, error) {
	return give(m.c.WrapKey(handle(s), mechanism(k, nil), pkcs11.ObjectHandle(wrapping), pkcs11.ObjectHandle(key)))
}

func (m *module) Unwrap(s Session, k Mechanism, wrapping Object, blob []byte, t Template) (Object, error) {
	if len(blob) == 0 { // the binding would panic
		return 0, ErrWrappedKeyLenRange
	}
	o, err := m.c.UnwrapKey(handle(s), mechanism(k, nil), pkcs11.ObjectHandle(wrapping), blob, attributes(t))
	return Object(o), failed(err)
}

func (m *module) Random(s Session, n int) ([]byte, error) {
	return give(m.c.GenerateRandom(handle(s), n))
}

func handle(s Session) pkcs11.SessionHandle { return pkcs11.SessionHandle(s) }

func mechanism(k Mechanism, parameter any) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(uint(k), parameter)}
}

// encryption is the parameter of a mechanism, which may be memory of C.
type encryption struct {
	value any
	gcm   *pkcs11.GCMParams
}

func (e encryption) free() {
	if e.gcm != nil {
		e.gcm.Free()
	}
}

func parameters(p Parameters) (e encryption, iv func() []byte) {
	if p.TagBits == 0 {
		if p.IV != nil {
			e.value = p.IV
		}
		return e, func() []byte { return p.IV }
	}
	e.gcm = pkcs11.NewGCMParams(p.IV, p.AAD, p.TagBits)
	e.value = e.gcm
	return e, e.gcm.IV
}

func attributes(t Template) []*pkcs11.Attribute {
	list := make([]*pkcs11.Attribute, len(t))
	for i, v := range t {
		list[i] = pkcs11.NewAttribute(uint(v.Attribute), v.Value)
	}
	return list
}
