// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/conclave-mls/conclave/core"
)

// maxURI is how long a URI may be; a label has 32 bytes.
const maxURI = 8192

// How a key encryption key is used; values of x-kek-method.
const (
	kekGCM     = "aes-gcm"
	kekKeyWrap = "aes-kw"
	kekCBCHMAC = "aes-cbc-hmac"
)

// A uriAttribute is one of the path or of the query.
type uriAttribute struct {
	name string
	get  func(*URI) (value string, given bool)
	set  func(*URI, string) error // the value is decoded; the error does not show it
}

// A uriPart is the path or the query; its attributes are in their canonical order.
type uriPart struct {
	list      []uriAttribute
	separator string
	plain     string // what stands without an escape, besides letters and digits
	vendors   bool   // unknown ones that begin with x- may be there
}

// RFC 7512 section 2.3: pk11-res-avail and what is unreserved.
const uriAvailable = "-._~:[]@!$'()*+,="

var uriPath = uriPart{separator: ";", plain: uriAvailable + "&", list: []uriAttribute{
	labelAttribute("token", 0),
	labelAttribute("manufacturer", 1),
	labelAttribute("model", 2),
	labelAttribute("serial", 3),
	{
		"slot-id",
		func(u *URI) (string, bool) {
			if u.SlotID == nil {
				return "", false
			}
			return strconv.FormatUint(uint64(*u.SlotID), 10), true
		},
		func(u *URI, value string) error {
			n, err := strconv.ParseUint(value, 10, strconv.IntSize)
			slot := uint(n)
			u.SlotID = &slot
			return unless(err == nil, "it is not a number")
		},
	},
	{
		"id",
		func(u *URI) (string, bool) { return string(u.ID), len(u.ID) > 0 },
		func(u *URI, value string) error {
			u.ID = []byte(value)
			return unless(value != "", "it is empty")
		},
	},
	textAttribute("object", func(u *URI) *string { return &u.Object }, nil),
	textAttribute("type", func(u *URI) *string { return &u.Type }, oneOf("public", "private", "cert", "secret-key", "data")),
}}

var uriQuery = uriPart{separator: "&", plain: uriAvailable + "/?|", vendors: true, list: []uriAttribute{
	textAttribute("module-path", func(u *URI) *string { return &u.ModulePath }, func(value string) error {
		return unless(filepath.IsAbs(value), "it is not an absolute path")
	}),
	textAttribute("module-name", func(u *URI) *string { return &u.ModuleName }, func(value string) error {
		return unless(moduleName.MatchString(value), "it is not a name without folders")
	}),
	textAttribute("pin-source", func(u *URI) *string { return &u.PINSource }, func(value string) error {
		_, err := parsePINSource(value)
		return err
	}),
	{
		"pin-value",
		func(u *URI) (string, bool) { return uriRedacted, !u.PINValue.IsZero() },
		func(u *URI, value string) error {
			u.PINValue = core.NewSecret([]byte(value))
			return nil
		},
	},
	{
		"x-max-sessions",
		func(u *URI) (string, bool) { return strconv.Itoa(u.MaxSessions), u.MaxSessions != 0 },
		func(u *URI, value string) error {
			n, err := strconv.ParseUint(value, 10, 16)
			u.MaxSessions = int(n)
			return unless(err == nil && n > 0, "it is not a number from 1 to 65535")
		},
	},
	textAttribute("x-engine", func(u *URI) *string { return &u.Engine }, oneOf(enginePKCS11, engineCrypto11)),
	textAttribute("x-init-args", func(u *URI) *string { return &u.InitArgs }, nil),
	textAttribute("x-kek-method", func(u *URI) *string { return &u.KEKMethod }, oneOf(kekGCM, kekKeyWrap, kekCBCHMAC)),
	textAttribute("x-hmac-key", func(u *URI) *string { return &u.HMACKey }, nil),
	{
		"x-final-try",
		func(u *URI) (string, bool) { return "yes", u.FinalTry },
		func(u *URI, value string) error {
			u.FinalTry = value == "yes"
			return oneOf("yes", "no")(value)
		},
	},
}}

// uriRedacted stands for a PIN. Unescaped, < and > are in no URI, so that nobody takes it for
// one and spends a try.
const uriRedacted = "<redacted>"

var moduleName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// labelAttribute is an attribute of the token, for which empty differs from not given.
func labelAttribute(name string, i int) uriAttribute {
	return uriAttribute{
		name,
		func(u *URI) (string, bool) { v := *u.labels()[i]; return v, v != "" || u.blank[i] },
		func(u *URI, value string) error {
			*u.labels()[i], u.blank[i] = value, value == ""
			return isText(value)
		},
	}
}

// textAttribute is an attribute that is not empty.
func textAttribute(name string, field func(*URI) *string, check func(string) error) uriAttribute {
	return uriAttribute{
		name,
		func(u *URI) (string, bool) { return *field(u), *field(u) != "" },
		func(u *URI, value string) error {
			*field(u) = value
			if value == "" {
				return errors.New("it is empty")
			}
			if err := isText(value); err != nil || check == nil {
				return err
			}
			return check(value)
		},
	}
}

// isText refuses what would be cut off in C, or break a line of a log.
func isText(value string) error {
	return unless(utf8.ValidString(value) && !strings.ContainsFunc(value, unicode.IsControl), "it is not text in UTF-8")
}

func oneOf(values ...string) func(string) error {
	return func(value string) error {
		return unless(slices.Contains(values, value), "it is none of "+strings.Join(values, ", "))
	}
}

func unless(ok bool, why string) error {
	if ok {
		return nil
	}
	return errors.New(why)
}

func parseURI(text string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return u, badURI(`it does not begin with "pkcs11:"`)
	}
	if len(text) > maxURI {
		return u, badURI("it is too long")
	}
	path, query, _ := strings.Cut(rest, "?")
	if _, err := u.read(path, "path", uriPath); err != nil {
		return u, err
	}
	given, err := u.read(query, "query", uriQuery)
	switch {
	case err != nil:
		return u, err
	case given["pin-value"] && given["pin-source"]:
		return u, badURI("it has a pin-value and a pin-source") // RFC 7512 section 2.4
	case given["module-path"] && given["module-name"]:
		return u, badURI("it has a module-path and a module-name")
	}
	return u, nil
}

func badURI(why string) error {
	return &Error{Op: "read URI", Kind: ErrInvalidInput, Detail: why}
}

// read sets the attributes of a path or a query. Its errors show no value, nor a name that
// may be what follows an unescaped separator in a PIN.
func (u *URI) read(s, part string, as uriPart) (map[string]bool, error) {
	given := map[string]bool{}
	if s == "" {
		return given, nil
	}
	for i, pair := range strings.Split(s, as.separator) {
		name, value, ok := strings.Cut(pair, "=")
		at := slices.IndexFunc(as.list, func(a uriAttribute) bool { return a.name == name })
		vendor := as.vendors && vendorName.MatchString(name)
		switch {
		case !ok:
			return nil, badURI(fmt.Sprintf("attribute %d of the %s has no value", i+1, part))
		case at < 0 && !vendor:
			return nil, badURI(fmt.Sprintf("attribute %d of the %s", i+1, part) + as.unknown(name, !given["pin-value"]))
		case given[name]:
			return nil, badURI(fmt.Sprintf("attribute %d of the %s is there twice", i+1, part))
		}
		given[name] = true
		if at < 0 && !given["pin-value"] {
			u.unknown = append(u.unknown, name)
		}
		decoded, err := as.decode(value)
		if err == nil && at >= 0 {
			err = as.list[at].set(u, decoded)
		}
		if err != nil {
			return nil, badURI(fmt.Sprintf("attribute %d of the %s, %s: %s", i+1, part, name, err))
		}
	}
	return given, nil
}

// unknown says what is wrong with the name of an attribute.
func (as uriPart) unknown(name string, show bool) string {
	where, other, after := "before the ?", uriQuery, "after it"
	if as.vendors {
		where, other, after = "after the ?", uriPath, "before it"
	}
	has := func(p uriPart) bool {
		return slices.ContainsFunc(p.list, func(a uriAttribute) bool { return a.name == name })
	}
	switch {
	case has(other):
		return fmt.Sprintf(", %s, does not stand %s, but %s", name, where, after)
	case !show || !plainName.MatchString(name):
		name = ""
	default:
		name = ", " + name + ","
	}
	var known []string
	for _, a := range as.list {
		known = append(known, a.name)
	}
	return fmt.Sprintf("%s is not known; known %s are %s", name, where, strings.Join(known, ", "))
}

// plainName is what may be shown.
var plainName = regexp.MustCompile(`^[a-z][a-z-]{1,20}$`)

var vendorName = regexp.MustCompile(`^x-[A-Za-z0-9_-]+$`)

// write is the inverse of read.
func (u *URI) write(as uriPart) string {
	var pairs []string
	for _, a := range as.list {
		if value, given := a.get(u); given {
			if a.name != "pin-value" {
				value = as.encode(value, a.name == "id")
			}
			pairs = append(pairs, a.name+"="+value)
		}
	}
	return strings.Join(pairs, as.separator)
}

func (as uriPart) isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(as.plain, c) >= 0
}

func (as uriPart) decode(s string) (string, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) {
				return "", errors.New("bad percent escape")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("bad percent escape")
			}
			b = append(b, byte(n))
			i += 2
		case as.isPlain(c):
			b = append(b, c)
		default:
			return "", errors.New("a character wants a percent escape; between attributes stands ; before the ?, and & after it")
		}
	}
	return string(b), nil
}

// encode escapes what has to be; all of an id, as RFC 7512 (section 2.3) recommends.
func (as uriPart) encode(s string, all bool) string {
	var b strings.Builder
	for i := range len(s) {
		if !all && as.isPlain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}
