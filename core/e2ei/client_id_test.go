// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

var alice = ClientID{
	User:   [16]byte{0x4a, 0xf3, 0xdf, 0x2e, 0x5c, 0x01, 0x42, 0x2f, 0xba, 0xa1, 0xd7, 0x55, 0x46, 0xb9, 0x2a, 0xa7},
	Device: 0x4c7, Domain: "example.com",
}

const (
	aliceText      = "4af3df2e-5c01-422f-baa1-d75546b92aa7:4c7@example.com"
	aliceQualified = "SvPfLlwBQi-6oddVRrkqpw:4c7@example.com"
	aliceURI       = "wireapp://SvPfLlwBQi-6oddVRrkqpw!4c7@example.com"
)

func TestClientIDSpellings(t *testing.T) {
	t.Parallel()
	if got := alice.String(); got != aliceText {
		t.Errorf("String %q", got)
	}
	if got := alice.Core(); got != core.ClientID(aliceText) {
		t.Errorf("Core %q", got)
	}
	if got := alice.Qualified(); got != aliceQualified {
		t.Errorf("Qualified %q", got)
	}
	if got := alice.URI(); got != aliceURI {
		t.Errorf("URI %q", got)
	}
	if got := alice.DeviceID(); got != "4c7" {
		t.Errorf("DeviceID %q", got)
	}
	if got := alice.LogValue().String(); got != core.ClientID(aliceText).LogValue().String() {
		t.Errorf("LogValue %q", got)
	}
	if err := alice.Validate(); err != nil {
		t.Error(err)
	}
	if err := (ClientID{Domain: "a@b"}).Validate(); !errors.Is(err, ErrClientID) {
		t.Error(err)
	}
}

func TestParseClientID(t *testing.T) {
	t.Parallel()
	most := alice
	most.Device = 1<<64 - 1
	capital := alice
	capital.Domain = "Example.COM"
	const uuid, b64 = "4af3df2e-5c01-422f-baa1-d75546b92aa7", "SvPfLlwBQi-6oddVRrkqpw"
	const none = "no client id"
	for _, c := range []struct {
		name  string
		parse func(string) (ClientID, error)
		in    string
		want  any
	}{
		{"text", ParseClientID, aliceText, alice},
		{"upper case", ParseClientID, strings.ToUpper(uuid) + ":4C7@example.com", alice},
		{"leading zeros", ParseClientID, uuid + ":00000000000000000004c7@example.com", alice},
		{"largest device", ParseClientID, uuid + ":ffffffffffffffff@example.com", most},
		{"case of the domain", ParseClientID, uuid + ":4c7@Example.COM", capital},
		{"device of 65 bits", ParseClientID, uuid + ":10000000000000000@example.com", none},
		{"no device", ParseClientID, uuid + ":@example.com", none},
		{"signed device", ParseClientID, uuid + ":+4c7@example.com", none},
		{"device with a prefix", ParseClientID, uuid + ":0x4c7@example.com", none},
		{"device that is no number", ParseClientID, uuid + ":4g7@example.com", none},
		{"no domain", ParseClientID, uuid + ":4c7@", none},
		{"no at", ParseClientID, uuid + ":4c7", none},
		{"two ats", ParseClientID, uuid + ":4c7@example.com@example.com", none},
		{"two colons", ParseClientID, uuid + ":4c7@example.com:80", none},
		{"a colon too early", ParseClientID, uuid + "::4c7@example.com", none},
		{"empty label", ParseClientID, uuid + ":4c7@example..com", none},
		{"dot at the end", ParseClientID, uuid + ":4c7@example.com.", none},
		{"long label", ParseClientID, uuid + ":4c7@" + strings.Repeat("a", 64), none},
		{"long domain", ParseClientID, uuid + ":4c7@" + strings.Repeat("a.", 127) + "a", none},
		{"endless zeros", ParseClientID, uuid + ":" + strings.Repeat("0", maxID) + "@example.com", none},
		{"space in the domain", ParseClientID, uuid + ":4c7@example .com", none},
		{"UUID without hyphens", ParseClientID, strings.ReplaceAll(uuid, "-", "") + ":4c7@example.com", none},
		{"hyphens elsewhere", ParseClientID, "4af3df2e5-c01-422f-baa1-d75546b92aa7:4c7@example.com", none},
		{"second hyphen elsewhere", ParseClientID, "4af3df2e-5c0-1422f-baa1-d75546b92aa7:4c7@example.com", none},
		{"third hyphen elsewhere", ParseClientID, "4af3df2e-5c01-422-fbaa1-d75546b92aa7:4c7@example.com", none},
		{"fourth hyphen elsewhere", ParseClientID, "4af3df2e-5c01-422f-baa-1d75546b92aa7:4c7@example.com", none},
		{"UUID that is no number", ParseClientID, "4af3df2e-5c01-422f-baa1-d75546b92aag:4c7@example.com", none},
		{"empty", ParseClientID, "", none},
		{"the other text", ParseClientID, aliceQualified, none},
		{"a URI", ParseClientID, aliceURI, none},

		{"qualified", ParseQualifiedClientID, aliceQualified, alice},
		{"qualified, device in upper case", ParseQualifiedClientID, b64 + ":4C7@example.com", alice},
		{"qualified, hyphenated", ParseQualifiedClientID, aliceText, none},
		{"padded", ParseQualifiedClientID, b64 + "==:4c7@example.com", none},
		{"15 bytes", ParseQualifiedClientID, b64[:20] + ":4c7@example.com", none},
		{"bits left over", ParseQualifiedClientID, b64[:21] + "x:4c7@example.com", none},
		{"standard alphabet", ParseQualifiedClientID, strings.ReplaceAll(b64, "-", "+") + ":4c7@example.com", none},
		{"line break", ParseQualifiedClientID, b64 + "\n:4c7@example.com", none},

		{"URI", ParseClientIDURI, aliceURI, alice},
		{"URI of a certificate", ParseClientIDURI, "wireapp://" + b64 + "%214c7@example.com", alice},
		{"URI, other characters encoded", ParseClientIDURI, "wireapp://%53" + b64[1:] + "!4%637@example.com", alice},
		{"scheme in upper case", ParseClientIDURI, "WireApp://" + b64 + "!4c7@example.com", alice},
		{"other scheme", ParseClientIDURI, "im:wireapp=" + b64 + "/4c7@example.com", none},
		{"https", ParseClientIDURI, "https://" + b64 + "!4c7@example.com", none},
		{"no slashes", ParseClientIDURI, "wireapp:" + b64 + "!4c7@example.com", none},
		{"no host", ParseClientIDURI, "wireapp://" + b64 + "!4c7@", none},
		{"no user", ParseClientIDURI, "wireapp://example.com", none},
		{"colon for the exclamation mark", ParseClientIDURI, "wireapp://" + b64 + ":4c7@example.com", none},
		{"encoded colon", ParseClientIDURI, "wireapp://" + b64 + "%3A4c7@example.com", none},
		{"two exclamation marks", ParseClientIDURI, "wireapp://" + b64 + "!4!c7@example.com", none},
		{"password", ParseClientIDURI, "wireapp://" + b64 + "!4c7:x@example.com", none},
		{"port", ParseClientIDURI, aliceURI + ":443", none},
		{"path", ParseClientIDURI, aliceURI + "/", none},
		{"query", ParseClientIDURI, aliceURI + "?a", none},
		{"empty query", ParseClientIDURI, aliceURI + "?", none},
		{"fragment", ParseClientIDURI, aliceURI + "#a", none},
		{"empty fragment", ParseClientIDURI, aliceURI + "#", none},
		{"broken encoding", ParseClientIDURI, "wireapp://" + b64 + "%2", none},
		{"a handle", ParseClientIDURI, "wireapp://%40alice@example.com", none},
		{"long URI", ParseClientIDURI, "wireapp://" + b64 + "!" + strings.Repeat("0", maxID) + "@example.com", none},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := c.parse(c.in)
			if c.want == none {
				if !errors.Is(err, ErrClientID) || !errors.Is(err, core.ErrInvalid) || got != (ClientID{}) {
					t.Errorf("got %+v, %v", got, err)
				}
			} else if err != nil || got != c.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func TestHandle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, uri string }{
		{"alice_wire", "wireapp://%40alice_wire@example.com"},
		{"a.b-c~d", "wireapp://%40a.b-c~d@example.com"},
		{"a b", "wireapp://%40a%20b@example.com"},
		{"@a@b", "wireapp://%40%40a%40b@example.com"},
		{"ö", "wireapp://%40%C3%B6@example.com"},
		{"a%41", "wireapp://%40a%2541@example.com"},
		{"a:b/c?d#e", "wireapp://%40a%3Ab%2Fc%3Fd%23e@example.com"},
		{"!$&'()*+,", "wireapp://%40!$&'()*+,@example.com"},
		{"<>`{}|\\^[];=\"", "wireapp://%40%3C%3E%60%7B%7D%7C%5C%5E%5B%5D%3B%3D%22@example.com"},
	} {
		h, err := NewHandle(c.name, "example.com")
		if err != nil || h.URI() != c.uri || h.Name() != c.name || h.Domain() != "example.com" {
			t.Errorf("NewHandle(%q): %+v, %v", c.name, h, err)
		}
		if again, err := ParseHandleURI(c.uri); err != nil || again != h {
			t.Errorf("ParseHandleURI(%q): %+v, %v", c.uri, again, err)
		}
	}
	for _, c := range []struct{ name, domain string }{
		{"", "example.com"},
		{"alice", ""},
		{"alice", "a b"},
		{"a\nb", "example.com"},
		{"a\x7fb", "example.com"},
		{"a\xff", "example.com"},
		{strings.Repeat("a", maxHandle+1), "example.com"},
		{"wireapp://%40alice@example.com", "example.com"}, // what a certificate has, by mistake
		{"WireApp://%40alice@example.com", "example.com"},
	} {
		if h, err := NewHandle(c.name, c.domain); !errors.Is(err, ErrHandle) || h != (Handle{}) {
			t.Errorf("NewHandle(%q, %q): %+v, %v", c.name, c.domain, h, err)
		}
	}
}

func TestParseHandleURI(t *testing.T) {
	t.Parallel()
	h, err := ParseHandleURI("WIREAPP://%40%61lice@example.com")
	if err != nil || h.Name() != "alice" || h.URI() != "WIREAPP://%40%61lice@example.com" {
		t.Errorf("another spelling: %+v, %v", h, err)
	}
	if other, _ := NewHandle("alice", "example.com"); h == other {
		t.Error("two spellings are one")
	}
	if h, err := ParseHandleURI("wireapp://@alice@example.com"); err != nil || h.Name() != "alice" {
		t.Errorf("an at that is not encoded: %+v, %v", h, err)
	}
	for _, s := range []string{
		"", "alice", "@alice", aliceURI, "https://%40alice@example.com", "wireapp://alice@example.com", "wireapp://%40@example.com",
		"wireapp://%40alice@", "wireapp://%40alice", "wireapp://%40alice@example.com/", "wireapp://%40alice@example.com:80",
		"wireapp://%40a%0Ab@example.com", "wireapp://%40a%FF@example.com", "wireapp://%40" + strings.Repeat("a", maxHandle+1) + "@example.com",
		"wireapp://%40wireapp%3A%2F%2F%2540alice%40example.com@example.com", // a URI for a bare handle
		"wireapp://%40alice@" + strings.Repeat("a", maxID),
	} {
		if h, err := ParseHandleURI(s); !errors.Is(err, ErrHandle) || !errors.Is(err, core.ErrInvalid) || h != (Handle{}) {
			t.Errorf("%q: %+v, %v", s, h, err)
		}
	}
}

// What parses is written in each spelling and read back as the same, also by way of the
// URL of a certificate request.
func FuzzClientID(f *testing.F) {
	for _, s := range []string{aliceText, aliceQualified, aliceURI, "wireapp://SvPfLlwBQi-6oddVRrkqpw%214c7@example.com", "wireapp://%40alice@example.com", "alice"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (ClientID, error){ParseClientID, ParseQualifiedClientID, ParseClientIDURI} {
			c, err := parse(s)
			if err != nil {
				continue
			}
			u, err := url.Parse(c.URI())
			if err != nil {
				t.Fatal(err)
			}
			a, err1 := ParseClientID(c.String())
			b, err2 := ParseQualifiedClientID(c.Qualified())
			d, err3 := ParseClientIDURI(c.URI())
			e, err4 := ParseClientIDURI(u.String())
			if err := errors.Join(c.Validate(), err1, err2, err3, err4); err != nil || a != c || b != c || d != c || e != c {
				t.Fatalf("%+v: %v", c, err)
			}
			if fmt.Sprintf("%x", c.Device) != c.DeviceID() {
				t.Fatal(c.DeviceID())
			}
			if _, err := ParseHandleURI(s); err == nil {
				t.Fatal("a client id and a handle")
			}
		}
		for _, h := range handles(s) {
			again, err := NewHandle(h.Name(), h.Domain())
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ParseHandleURI(again.URI()); err != nil || back != again || back.Name() != h.Name() || back.Domain() != h.Domain() {
				t.Fatalf("%+v, %+v: %v", again, back, err)
			}
		}
	})
}

func handles(s string) (all []Handle) {
	if h, err := NewHandle(s, "example.com"); err == nil {
		all = append(all, h)
	}
	if h, err := ParseHandleURI(s); err == nil {
		all = append(all, h)
	}
	return all
}
