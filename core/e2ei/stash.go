// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/vlbytes"
)

// stashVersion is the first byte of a stash: one for each layout there was.
const stashVersion = 1

// Stash writes the enrolment down, for Pop after a login that outlives the process. It has
// the account key and the refresh token in it and must be sealed; of the MLS key it has the
// public half and the reference. ErrClosed: the enrolment is over.
func (e *Enrollment) Stash() (core.Secret, error) {
	if e.account.IsZero() {
		return core.Secret{}, fmt.Errorf("e2ei: the enrolment is over: %w", core.ErrClosed)
	}
	size := 1
	e.fields(func(v []byte) ([]byte, bool) {
		size += vlbytes.Size(len(v))
		return v, true
	})
	b := append(make([]byte, 0, size), stashVersion) // one copy of the key
	e.fields(func(v []byte) ([]byte, bool) {
		b = vlbytes.Append(b, v)
		return v, true
	})
	return core.NewSecret(b), nil
}

// Pop reads what Stash wrote, which it does not keep. ErrMalformed: it is no stash, or of a
// later version.
func Pop(stash []byte) (*Enrollment, error) {
	e := &Enrollment{}
	if err := e.pop(stash); err != nil {
		e.Wipe()
		return nil, err
	}
	return e, nil
}

func (e *Enrollment) pop(stash []byte) error {
	s := cryptobyte.String(stash)
	var version uint8
	if len(stash) > MaxReply || !s.ReadUint8(&version) || version != stashVersion {
		return fmt.Errorf("%w: stash of %d bytes", ErrMalformed, len(stash))
	}
	ok := e.fields(func([]byte) ([]byte, bool) {
		var v []byte
		ok := vlbytes.ReadBytes(&s, &v)
		return v, ok
	})
	if !ok || !s.Empty() {
		return fmt.Errorf("%w: stash of %d bytes", ErrMalformed, len(stash))
	}
	if err := e.check(); err != nil {
		return fmt.Errorf("%w: stash: %w", ErrMalformed, err)
	}
	if _, err := e.accountKey(); err != nil {
		return err
	}
	for _, known := range []string{
		e.directory.NewNonce, e.directory.NewAccount, e.directory.NewOrder, e.directory.RevokeCert, e.accountURL,
		e.order.url, e.order.finalize, e.order.authorizations[0], e.order.authorizations[1], e.device.url, e.user.url, e.chainURL,
	} {
		if known == "" {
			continue
		}
		if err := e.ownURLs(known); err != nil {
			return fmt.Errorf("%w: stash: %w", ErrMalformed, err)
		}
	}
	return nil
}

// fields hands each field to visit and sets it to what that returns: writing and reading are
// one list. It stops where visit, or the form of a number, says no.
func (e *Enrollment) fields(visit func([]byte) ([]byte, bool)) bool {
	ok := true
	text := func(fields ...*string) {
		for _, f := range fields {
			if v, more := visit([]byte(*f)); ok && more {
				*f = string(v)
			} else {
				ok = false
			}
		}
	}
	number := func(fields ...*int64) {
		for _, f := range fields {
			if v, more := visit(binary.BigEndian.AppendUint64(nil, uint64(*f))); ok && more && len(v) == 8 {
				*f = int64(binary.BigEndian.Uint64(v))
			} else {
				ok = false
			}
		}
	}
	flag := func(fields ...*bool) {
		for _, f := range fields {
			n := []byte{0}
			if *f {
				n[0] = 1
			}
			if v, more := visit(n); ok && more && len(v) == 1 && v[0] < 2 {
				*f = v[0] == 1
			} else {
				ok = false
			}
		}
	}

	c := &e.cfg
	id, algorithm, public, ref := c.ClientID.Qualified(), string(c.Algorithm), string(c.PublicKey), string(c.KeyRef)
	seconds := int64(c.Validity / time.Second)
	text(&id, &c.DisplayName, &c.Handle, &c.Team, &algorithm, &public, &ref, &c.Directory)
	number(&seconds)
	flag(&c.AllowHTTP)
	secret := func(f *core.Secret) {
		if v, more := visit(f.Bytes()); ok && more {
			*f = core.NewSecret(v)
		} else {
			ok = false
		}
	}
	secret(&c.RefreshToken)
	secret(&e.account)

	d, o := &e.directory, &e.order
	text(&d.NewNonce, &d.NewAccount, &d.NewOrder, &d.RevokeCert, &e.accountURL)
	text(&o.url, &o.finalize, &o.authorizations[0], &o.authorizations[1], &e.chainURL)
	number(&o.expires, &o.notBefore, &o.notAfter)
	flag(&e.ready)
	for _, a := range []*authorization{&e.device, &e.user} {
		text(&a.from, &a.url, &a.token, &a.target)
		flag(&a.valid)
	}
	if !ok || seconds < 1 || seconds > int64(maxValidity/time.Second) {
		return false
	}
	client, err := ParseQualifiedClientID(id)
	if err != nil || client.Qualified() != id {
		return false
	}
	c.ClientID, c.Algorithm, c.PublicKey, c.KeyRef = client, core.KeyAlgorithm(algorithm), []byte(public), core.KeyRef(ref)
	c.Validity = time.Duration(seconds) * time.Second
	return true
}
