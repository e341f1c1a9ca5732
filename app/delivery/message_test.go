// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"errors"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// Headers as RFC 9420 sections 6, 6.2 and 6.3 write them, byte by byte.
var headers = map[string]struct {
	bytes string
	want  header
}{
	"private application": {"\x00\x01\x00\x02\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x01\x00\x00\x00", header{"g", 7, contentApplication, senderMember}},
	"private commit":      {"\x00\x01\x00\x02\x02gg\x00\x00\x00\x00\x00\x00\x01\x00\x03\x01a", header{"gg", 256, contentCommit, senderMember}},
	"public proposal":     {"\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x05\x02aa\x02", header{"g", 1, contentProposal, senderMember}},
	"external proposal":   {"\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05\x00\x02", header{"g", 1, contentProposal, senderExternal}},
	"joining proposal":    {"\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x03\x00\x02", header{"g", 1, contentProposal, senderNewMemberProposal}},
	"external commit":     {"\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x04\x00\x03rest", header{"g", 1, contentCommit, senderNewMemberCommit}},
}

func TestParseHeader(t *testing.T) {
	for name, c := range headers {
		got, err := parseHeader([]byte(c.bytes))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	for name, bad := range map[string]string{
		"empty":                     "",
		"another version":           "\x00\x02\x00\x02\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x01",
		"a Welcome":                 "\x00\x01\x00\x03\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x01",
		"no group id":               "\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x07\x01\x00",
		"group id beyond the end":   "\x00\x01\x00\x02\x3fg\x00\x00\x00\x00\x00\x00\x00\x07\x01",
		"no content type":           "\x00\x01\x00\x02\x01g\x00\x00\x00\x00\x00\x00\x00\x07",
		"content type 0":            "\x00\x01\x00\x02\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x00",
		"content type 4":            "\x00\x01\x00\x02\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x04",
		"sender type 5":             "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x05\x00\x02",
		"public application":        "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00\x00\x05\x00\x01",
		"commit of an outsider":     "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05\x00\x03",
		"proposal from a newcomer":  "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x04\x00\x02",
		"no sender index":           "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00",
		"authenticated data cut":    "\x00\x01\x00\x01\x01g\x00\x00\x00\x00\x00\x00\x00\x01\x04\x05aa",
		"length not in short form":  "\x00\x01\x00\x02\x40\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x01",
		"length of a reserved form": "\x00\x01\x00\x02\xc0\x01g\x00\x00\x00\x00\x00\x00\x00\x07\x01",
	} {
		if got, err := parseHeader([]byte(bad)); !errors.Is(err, core.ErrInvalid) || got != (header{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, c := range headers {
		for n := range c.bytes {
			got, err := parseHeader([]byte(c.bytes[:n]))
			if err == nil && got != c.want {
				t.Errorf("%s cut to %d bytes: %+v", name, n, got)
			}
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, c := range headers {
		f.Add([]byte(c.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if h != (header{}) || !errors.Is(err, core.ErrInvalid) {
				t.Fatalf("%+v, %v", h, err)
			}
			return
		}
		if len(h.group) == 0 || len(h.group) > maxID || h.content < contentApplication || h.content > contentCommit {
			t.Fatalf("%+v", h)
		}
	})
}

// Records that were cut or changed are damage, not a panic.
func TestDamagedRecords(t *testing.T) {
	for name, c := range map[string]struct {
		value  []byte
		decode func([]byte) error
	}{
		"client":   {clientRecord{id: "alice"}.encode(), func(b []byte) error { _, err := decodeClient(b); return err }},
		"group":    {groupRecord{1, 2}.encode(), func(b []byte) error { _, err := decodeGroup(b); return err }},
		"member":   {memberRecord{1, 2, 3}.encode(), func(b []byte) error { _, err := decodeMember(b); return err }},
		"accepted": {acceptedRecord{seq: 1}.encode(), func(b []byte) error { _, err := decodeAccepted(b); return err }},
	} {
		if err := c.decode(c.value); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range c.value {
			if err := c.decode(c.value[:n]); !errors.Is(err, core.ErrDamaged) {
				t.Errorf("%s cut to %d: %v", name, n, err)
			}
		}
		if err := c.decode(append(c.value, 0)); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		c.value[0]++
		if err := c.decode(c.value); !errors.Is(err, core.ErrDamaged) {
			t.Errorf("%s of another format: %v", name, err)
		}
	}
}
