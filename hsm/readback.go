// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A ReadBack is what a token answers when it is asked for a private or secret key, which it
// was told to keep. What it says of its own attributes is advice: some say what is not so.
type ReadBack struct {
	Key   core.KeyRef // of the key
	Value string      // what it returned for CKA_VALUE: the name of an error, or "nothing"

	// What it says: "yes", "no", or "" for nothing.
	Sensitive, AlwaysSensitive, Extractable, NeverExtractable, Local string
}

// String has all of it on a line.
func (r ReadBack) String() string {
	text := "asked for the key, the token returns " + r.Value
	for _, a := range []struct{ name, says string }{
		{"sensitive", r.Sensitive}, {"always sensitive", r.AlwaysSensitive}, {"extractable", r.Extractable},
		{"never extractable", r.NeverExtractable}, {"made in the token", r.Local},
	} {
		if a.says != "" {
			text += "; " + a.name + ": " + a.says
		}
	}
	return text
}

// ReadBack tries to read the one private or secret key of a URI, or of these the one of its
// type, out of the token.
// ErrUnsupported: the token gives it out.
func (t *Token) ReadBack(ctx context.Context, uri string) (ReadBack, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return ReadBack{}, err
	}
	if len(u.ID) == 0 && u.Object == "" {
		return ReadBack{}, t.fail("read back", ErrInvalidInput, "the URI names no key")
	}
	result := make(chan ReadBack, 2) // one of each try
	err = t.use(ctx, "read back", false, retryOnce, func(s *session) error {
		var found []cryptoki.Object
		for class, name := range map[uint]string{cryptoki.ClassPrivateKey: "private", cryptoki.ClassSecretKey: "secret-key"} {
			if u.Type != "" && u.Type != name {
				continue
			}
			all, err := t.find(s, named(class, u.ID, u.Object))
			if err != nil {
				return err
			}
			found = append(found, all...)
		}
		name := URI{ID: u.ID, Object: u.Object}.String()
		switch len(found) {
		case 0:
			return t.absent(s, name)
		case 1:
		default:
			return t.fail("read back", ErrKeyAmbiguous, fmt.Sprintf("%d keys match %s", len(found), name))
		}
		r, err := t.readBack(s, found[0])
		if err == nil {
			result <- r
		}
		return err
	})
	if err != nil {
		return ReadBack{}, err
	}
	info := t.in.Load().info
	r := <-result
	r.Key = URI{Token: info.Label, Serial: info.Serial, ID: u.ID, Object: u.Object, Type: u.Type}.Reference()
	return r, nil
}

func (t *Token) readBack(s *session, o cryptoki.Object) (r ReadBack, err error) {
	value, err := s.p.Attribute(s.handle, o, cryptoki.CKAValue)
	clear(value)
	switch result := resultOf(err); {
	case err == nil && len(value) == 0:
		r.Value = "nothing"
	case result == cryptoki.ErrAttributeSensitive, result == cryptoki.ErrAttributeTypeInvalid:
		r.Value = result.Name()
	case err != nil:
		return r, err
	default:
		return r, t.fail("read back", ErrUnsupported, "the token gives out the key")
	}
	for _, a := range []struct {
		attribute cryptoki.Attribute
		says      *string
	}{
		{cryptoki.CKASensitive, &r.Sensitive}, {cryptoki.CKAAlwaysSensitive, &r.AlwaysSensitive}, {cryptoki.CKAExtractable, &r.Extractable},
		{cryptoki.CKANeverExtractable, &r.NeverExtractable}, {cryptoki.CKALocal, &r.Local},
	} {
		v, err := s.p.Attribute(s.handle, o, a.attribute)
		switch {
		case err != nil && kindOf(resultOf(err)) == nil:
			return r, err
		case err != nil || len(v) != 1:
		case v[0] != 0:
			*a.says = "yes"
		default:
			*a.says = "no"
		}
	}
	return r, nil
}
