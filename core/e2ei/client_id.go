// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/conclave-mls/conclave/core"
)

var (
	// ErrClientID: the text is not a client id of the form that is asked for.
	ErrClientID = fmt.Errorf("e2ei: invalid client id: %w", core.ErrInvalid)
	// ErrHandle: the text is not a handle, or not one of the form that is asked for.
	ErrHandle = fmt.Errorf("e2ei: invalid handle: %w", core.ErrInvalid)
)

// The longest names that are read or written, in bytes.
const (
	maxDomain = 253
	maxHandle = 256
	maxID     = 2048 // of any spelling
)

// A ClientID names one device of one person, in one of three spellings:
//
//	4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com  the MLS credential: String
//	SvPfLlwBQi-6oddVRrkqpw:4c7@example.com                within an enrolment: Qualified
//	wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com      ACME, tokens, certificates: URI
//
// It is comparable: two spellings of one client id parse to the same value.
type ClientID struct {
	User   [16]byte // a UUID
	Device uint64
	Domain string // the host of the URI: no port, case is kept
}

// ParseClientID reads the spelling of the MLS credential, with a hyphenated UUID. Upper case
// and leading zeros are accepted in the numbers. ErrClientID: it is none.
func ParseClientID(s string) (ClientID, error) {
	return parseTexts(s, func(s string) (user []byte, ok bool) {
		if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return nil, false
		}
		user, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
		return user, err == nil
	})
}

// ParseQualifiedClientID reads the spelling within an enrolment, with a UUID in base64url.
// ErrClientID: it is none.
func ParseQualifiedClientID(s string) (ClientID, error) { return parseTexts(s, base64UUID) }

// ParseClientIDURI reads the spelling of certificates, whose "!" may be percent-encoded.
// ErrClientID: it is none.
func ParseClientIDURI(s string) (ClientID, error) {
	who, domain, ok := parseWireURI(s)
	if !ok {
		return ClientID{}, fmt.Errorf("%w: %.80q", ErrClientID, s)
	}
	user, device, ok := strings.Cut(who, "!")
	if !ok {
		return ClientID{}, fmt.Errorf("%w: %.80q", ErrClientID, s)
	}
	return newClientID(s, user, device, domain, base64UUID)
}

func parseTexts(s string, uuid func(string) ([]byte, bool)) (ClientID, error) {
	user, rest, ok := strings.Cut(s, ":")
	device, domain, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 || len(s) > maxID {
		return ClientID{}, fmt.Errorf("%w: %.80q", ErrClientID, s)
	}
	return newClientID(s, user, device, domain, uuid)
}

func newClientID(s, user, device, domain string, uuid func(string) ([]byte, bool)) (ClientID, error) {
	bytes, ok := uuid(user)
	if !ok || len(bytes) != 16 {
		return ClientID{}, fmt.Errorf("%w: user of %.80q", ErrClientID, s)
	}
	number, err := strconv.ParseUint(device, 16, 64)
	if err != nil {
		return ClientID{}, fmt.Errorf("%w: device of %.80q", ErrClientID, s)
	}
	if !validDomain(domain) {
		return ClientID{}, fmt.Errorf("%w: domain of %.80q", ErrClientID, s)
	}
	return ClientID{[16]byte(bytes), number, domain}, nil
}

// base64UUID reads 16 bytes in their one base64url spelling of 22 characters.
func base64UUID(s string) ([]byte, bool) {
	user, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return user, err == nil && len(s) == 22
}

// Validate says whether the value can be written. ErrClientID: its domain is none.
func (c ClientID) Validate() error {
	if !validDomain(c.Domain) {
		return fmt.Errorf("%w: domain %.80q", ErrClientID, c.Domain)
	}
	return nil
}

// LogValue shows a salted digest, never the id itself: the same within a process.
func (c ClientID) LogValue() slog.Value { return c.Core().LogValue() }

// String is the spelling of the MLS credential, hyphenated.
func (c ClientID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x:%x@%s", c.User[:4], c.User[4:6], c.User[6:8], c.User[8:10], c.User[10:], c.Device, c.Domain)
}

// Core is the client id as the MLS engine has it, the bytes of String.
func (c ClientID) Core() core.ClientID { return core.ClientID(c.String()) }

// Qualified is the spelling within an enrolment.
func (c ClientID) Qualified() string {
	return fmt.Sprintf("%s:%x@%s", base64.RawURLEncoding.EncodeToString(c.User[:]), c.Device, c.Domain)
}

// DeviceID is the device in hexadecimal, as the backend has it in its paths.
func (c ClientID) DeviceID() string { return strconv.FormatUint(c.Device, 16) }

// URI is the spelling of ACME identifiers, tokens and certificates. The backend compares
// it byte by byte, so the "!" is not encoded.
func (c ClientID) URI() string {
	return fmt.Sprintf("wireapp://%s!%x@%s", base64.RawURLEncoding.EncodeToString(c.User[:]), c.Device, c.Domain)
}

// A Handle is the name that a person is found by, such as alice_wire. It is kept with the
// URI it was read from: two with the same Name and Domain may still be spelt differently,
// and compare with ==, as certificates and tokens do, by the spelling too.
type Handle struct{ name, domain, uri string }

// NewHandle takes a bare handle. ErrHandle: it is empty, too long or no text, or it is a URI
// already; or the domain is none.
func NewHandle(name, domain string) (Handle, error) {
	if !validName(name) || !validDomain(domain) {
		return Handle{}, fmt.Errorf("%w: %.80q of %.80q", ErrHandle, name, domain)
	}
	uri := []byte("wireapp://%40")
	for i := range len(name) {
		// The userinfo set of the URL standard, which the other clients write. It leaves
		// the percent sign alone; that would not be read back.
		if c := name[i]; c <= ' ' || c > '~' || strings.IndexByte("\"#<>?`{}/:;=@[\\]^|%", c) >= 0 {
			uri = fmt.Appendf(uri, "%%%02X", c)
		} else {
			uri = append(uri, c)
		}
	}
	return Handle{name, domain, string(uri) + "@" + domain}, nil
}

// ParseHandleURI reads the URI of a handle. ErrHandle: it is none.
func ParseHandleURI(s string) (Handle, error) {
	who, domain, ok := parseWireURI(s)
	name, at := strings.CutPrefix(who, "@")
	if !ok || !at || !validName(name) || !validDomain(domain) {
		return Handle{}, fmt.Errorf("%w: %.80q", ErrHandle, s)
	}
	return Handle{name, domain, s}, nil
}

// Name is the bare handle, without "@": what a new enrolment takes.
func (h Handle) Name() string { return h.name }

// Domain is the host of the URI.
func (h Handle) Domain() string { return h.domain }

// URI is the handle as it arrived or, if it did not, as the other clients write it. Of the
// zero Handle it is empty.
func (h Handle) URI() string { return h.uri }

// same says whether two spellings are of one handle. An issuer may spell it otherwise than we
// did: Go's net/url does so with some characters.
func (h Handle) same(other Handle) bool { return h.name == other.name && h.domain == other.domain }

// parseWireURI splits wireapp://who@domain and decodes who.
func parseWireURI(s string) (who, domain string, ok bool) {
	if len(s) > maxID {
		return "", "", false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "wireapp" || u.User == nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || strings.HasSuffix(s, "#") {
		return "", "", false
	}
	if _, set := u.User.Password(); set {
		return "", "", false
	}
	return u.User.Username(), u.Host, true
}

func validName(s string) bool {
	if s == "" || len(s) > maxHandle || !utf8.ValidString(s) || strings.HasPrefix(strings.ToLower(s), "wireapp:") {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) < 0
}

// validText is what may be shown of a person: a control character may be a command there.
func validText(s string) bool {
	return s != "" && utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// validDomain asks for labels of letters, digits, hyphens and underscores: what stands alike
// in the host of a URI, in JSON and in a certificate, and has no port.
func validDomain(s string) bool {
	if len(s) > maxDomain {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}
