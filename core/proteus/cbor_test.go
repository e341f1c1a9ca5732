// SPDX-License-Identifier: Apache-2.0

package proteus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

// RFC 8949 section 3.1: lengths and numbers in the shortest form.
func TestAppendHead(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{
		0: "40", 23: "57", 24: "5818", 255: "58ff", 256: "590100", 65535: "59ffff", 65536: "5a00010000", 1 << 20: "5a00100000",
		math.MaxUint32: "5affffffff", 1 << 32: "5b0000000100000000", math.MaxUint64: "5bffffffffffffffff",
	} {
		b := appendHead(nil, majorBytes, n)
		if got := fmt.Sprintf("%x", b); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
		if major, got, width := (&reader{rest: b}).head(); major != majorBytes || got != n || width != len(b)-1 {
			t.Errorf("%s is read as %d of type %d, width %d", want, got, major, width)
		}
	}
}

// Section 5.2, on a bundle: what is read though nobody writes it, and what is not.
func TestReading(t *testing.T) {
	t.Parallel()
	d := newDevice(t, seeded(50), 5)
	want := d.preKeys[5].Bundle(d.identity)
	var (
		version  = []byte{0, 1}
		id       = []byte{1, 5}
		key      = appendWrapped([]byte{2}, want.Key[:])
		identity = want.Identity.appendIdentity([]byte{3})
		none     = []byte{4, null}
		whole    = slices.Concat([]byte{0xa5}, version, id, key, identity, none)
	)
	if !bytes.Equal(want.Marshal(), whole) {
		t.Fatalf("%x", want.Marshal())
	}
	of := func(fields ...[]byte) []byte {
		return slices.Concat(append([][]byte{appendMap(nil, len(fields))}, fields...)...)
	}
	unknown := func(value ...byte) []byte { return of(append([]byte{9}, value...), version, id, key, identity) }
	nested := func(depth int) []byte { return append(bytes.Repeat([]byte{0x81}, depth), 0) }
	many := func(major byte, n int) []byte { return append(appendHead(nil, major, uint64(n)), make([]byte, n)...) }
	for name, c := range map[string]struct {
		data []byte
		code Code
	}{
		"as it is written":             {whole, 0},
		"any order":                    {of(none, identity, key, id, version), 0},
		"bytes after it":               {append(bytes.Clone(whole), 0xff), 0},
		"no signature":                 {of(version, id, key, identity), 0},
		"undefined":                    {of(version, id, key, identity, []byte{4, 0xf7}), 0},
		"a signature that is false":    {of(version, id, key, identity, []byte{4, 0xf4}), CodeMalformed},
		"a short signature":            {of(version, id, key, identity, appendWrapped([]byte{4}, make([]byte, 63))), CodeLength},
		"a short bare signature":       {of(version, id, key, identity, appendBytes([]byte{4}, make([]byte, 63))), CodeLength},
		"no version":                   {of(id, key, identity), CodeMalformed},
		"no id":                        {of(version, key, identity), CodeMalformed},
		"no key":                       {of(version, id, identity), CodeMalformed},
		"no identity":                  {of(version, id, key), CodeMalformed},
		"version 2":                    {of([]byte{0, 2}, id, key, identity), 0},
		"a longer map head":            {slices.Concat([]byte{0xb8, 5}, whole[1:]), 0},
		"the longest map head":         {slices.Concat([]byte{0xbb, 0, 0, 0, 0, 0, 0, 0, 5}, whole[1:]), 0},
		"a longer version":             {of([]byte{0, 0x18, 1}, id, key, identity), 0},
		"a version of 16 bits":         {of([]byte{0, 0x19, 0, 1}, id, key, identity), CodeMalformed},
		"a longer id":                  {of(version, []byte{1, 0x19, 0, 5}, key, identity), 0},
		"an id of 32 bits":             {of(version, []byte{1, 0x1a, 0, 0, 0, 5}, key, identity), CodeMalformed},
		"a negative id":                {of(version, []byte{1, 0x24}, key, identity), CodeMalformed},
		"a longer key":                 {of([]byte{0x18, 0, 1}, id, key, identity), 0},
		"a key of 16 bits":             {of([]byte{0x19, 0, 0, 1}, id, key, identity), CodeMalformed},
		"a negative key":               {of(version, id, key, identity, []byte{0x20, 0}), CodeMalformed},
		"a key that is text":           {of(version, id, key, identity, []byte{0x61, 'a', 0}), CodeMalformed},
		"a longer length":              {of(version, id, slices.Concat([]byte{2, 0xa1, 0, 0x5b, 0, 0, 0, 0, 0, 0, 0, 32}, want.Key[:]), identity), 0},
		"a version twice":              {of(version, version, id, key, identity), CodeMalformed},
		"a signature cut off":          {of(version, id, key, identity, []byte{4}), CodeMalformed},
		"an unknown key twice":         {of(version, id, key, identity, []byte{9, 0}, []byte{9, 0}), 0},
		"a large unknown key twice":    {of(version, id, key, identity, []byte{24, 64, 0}, []byte{24, 64, 0}), 0},
		"unknown keys":                 {of([]byte{9, 0}, version, []byte{24, 63, 0x41, 1}, id, key, []byte{24, 255, 0xa1, 1, 2}, identity), 0},
		"a tag":                        {of([]byte{0, 0xc1, 1}, id, key, identity), 0},
		"tags":                         {slices.Concat([]byte{0xd8, 99, 0xc1}, of(version, id, key, identity)), 0},
		"a tag alone":                  {[]byte{0xc1}, CodeMalformed},
		"a short key":                  {of(version, id, appendWrapped([]byte{2}, want.Key[:31]), identity), CodeLength},
		"a long key":                   {of(version, id, appendWrapped([]byte{2}, make([]byte, 33)), identity), CodeLength},
		"an indefinite map":            {slices.Concat([]byte{0xbf}, whole[1:], []byte{0xff}), CodeMalformed},
		"an indefinite string":         {of(version, id, slices.Concat([]byte{2, 0xa1, 0, 0x5f, 0x58, 32}, want.Key[:], []byte{0xff}), identity), CodeMalformed},
		"no such head":                 {append([]byte{0xbc}, make([]byte, 20)...), CodeMalformed},
		"no definite length":           {append([]byte{0xbf}, make([]byte, 40)...), CodeMalformed},
		"an array":                     {slices.Concat([]byte{0x85}, whole[1:]), CodeMalformed},
		"nothing":                      {nil, CodeMalformed},
		"unknown: float":               {of(version, id, key, identity, []byte{9, 0xfb, 1, 2, 3, 4, 5, 6, 7, 8}), 0},
		"unknown: simple":              {of(version, id, key, identity, []byte{9, 0xf5}), 0},
		"unknown: negative":            {of(version, id, key, identity, []byte{9, 0x39, 1, 1}), 0},
		"unknown: text":                {of(version, id, key, identity, []byte{9, 0x63, 'a', 'b', 'c'}), 0},
		"unknown: text cut short":      {of(version, id, key, identity, []byte{9, 0x63, 'a', 'b'}), CodeMalformed},
		"unknown: array without end":   {unknown(0x9f, 1, 0x81, 2, 0xff), 0},
		"unknown: not even a break":    {unknown(0x9f, 1), CodeMalformed},
		"unknown: map without end":     {unknown(0xbf, 1, 2, 0xff), 0},
		"unknown: key without value":   {unknown(0xbf, 1, 0xff), CodeMalformed},
		"unknown: string in parts":     {unknown(0x5f, 0x41, 7, 0x40, 0xff), 0},
		"unknown: text in parts":       {unknown(0xc1, 0x7f, 0x61, 'a', 0xff), 0},
		"unknown: part of text":        {unknown(0x5f, 0x61, 'a', 0xff), CodeMalformed},
		"unknown: part in parts":       {unknown(0x5f, 0x5f, 0x41, 7, 0xff, 0xff), CodeMalformed},
		"unknown: break":               {unknown(0xff, 0xff), CodeMalformed},
		"unknown: number without end":  {unknown(0x1f, 0xff), CodeMalformed},
		"unknown: 16 without end":      {unknown(append(bytes.Repeat([]byte{0x9f}, 16), bytes.Repeat([]byte{0xff}, 16)...)...), 0},
		"unknown: 17 without end":      {unknown(append(bytes.Repeat([]byte{0x9f}, 17), bytes.Repeat([]byte{0xff}, 17)...)...), CodeMalformed},
		"unknown: 16 deep":             {of(version, id, key, identity, append([]byte{9}, nested(16)...)), 0},
		"unknown: 17 deep":             {of(version, id, key, identity, append([]byte{9}, nested(17)...)), CodeMalformed},
		"unknown: 1000 entries":        {of(version, id, key, identity, append([]byte{9}, many(majorArray, 1000)...)), 0},
		"unknown: 1001 entries":        {of(version, id, key, identity, append([]byte{9}, many(majorArray, 1001)...)), CodeMalformed},
		"unknown: map of 1000":         {of(version, id, key, identity, slices.Concat([]byte{9}, appendMap(nil, 1000), make([]byte, 2000))), 0},
		"unknown: map without a value": {of(version, id, key, identity, []byte{9, 0xa1, 0}), CodeMalformed},
		"unknown: 5 MiB":               {of(version, id, key, identity, append([]byte{9}, many(majorBytes, maxBytes)...)), 0},
		"unknown: more than 5 MiB":     {of(version, id, key, identity, append([]byte{9}, many(majorBytes, maxBytes+1)...)), CodeMalformed},
		"1000 fields":                  {slices.Concat(appendMap(nil, 1000), whole[1:], bytes.Repeat([]byte{24, 99, 0}, 995)), 0},
		"1001 fields":                  {slices.Concat(appendMap(nil, 1001), whole[1:], bytes.Repeat([]byte{24, 99, 0}, 996)), CodeMalformed},
	} {
		b, err := UnmarshalPreKeyBundle(c.data)
		if CodeOf(err) != c.code || (err == nil) != (c.code == 0) {
			t.Errorf("%s: %v, want code %d", name, err, c.code)
		}
		if err == nil && (b.ID != 5 || b.Key != want.Key || b.Identity != want.Identity || b.Signature != nil) {
			t.Errorf("%s: %+v", name, b)
		}
		if err != nil && (b != nil || !strings.Contains(err.Error(), "prekey bundle: ")) {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
}

// Messages: the type byte, what follows, and the widths of counters.
func TestReadingMessages(t *testing.T) {
	t.Parallel()
	d := newDevice(t, seeded(51), 5)
	_, m := sends(t, newDevice(t, seeded(52)).opens(t, d, 5), "text")
	good, err := parseEnvelope(m)
	if err != nil {
		t.Fatal(err)
	}
	cipher := good.cipher.append(nil)
	opens := good.message
	tag := bytes.Index(opens, good.cipher.tag[:]) // preceded by its length
	replace := func(b []byte, at, n int, with ...byte) []byte { return slices.Concat(b[:at], with, b[at+n:]) }
	for name, c := range map[string]struct {
		inner []byte
		code  Code
	}{
		"a prekey message":       {opens, 0},
		"a cipher message":       {append([]byte{1}, cipher...), 0},
		"bytes after it":         {append(bytes.Clone(opens), 1, 2), 0},
		"type 0":                 {append([]byte{0}, cipher...), CodeMessageType},
		"type 3":                 {append([]byte{3}, cipher...), CodeMessageType},
		"a longer type":          {append([]byte{0x18, 1}, cipher...), 0},
		"a type of 16 bits":      {append([]byte{0x19, 0, 1}, cipher...), CodeMalformed},
		"no body":                {[]byte{2}, CodeMalformed},
		"nothing":                {nil, CodeMalformed},
		"the other body":         {append([]byte{2}, cipher...), CodeMalformed},
		"a counter of 32 bits":   {replace(opens, tag+17, 1, 0x1a, 0, 0, 0, 0), 0},
		"a counter of 64 bits":   {replace(opens, tag+17, 1, 0x1b, 0, 0, 0, 0, 0, 0, 0, 0), CodeMalformed},
		"a previous of 32 bits":  {replace(opens, tag+19, 1, 0x1a, 0, 0, 0, 0), 0},
		"a previous of 64 bits":  {replace(opens, tag+19, 1, 0x1b, 0, 0, 0, 0, 0, 0, 0, 0), CodeMalformed},
		"a short tag":            {replace(opens, tag-1, 2, 0x4f), CodeLength},
		"no counter":             {replace(opens, tag+16, 1, 9), CodeMalformed},
		"a prekey id of 16 bits": {replace(opens, 3, 1, 0x19, 0, 5), 0},
		"a prekey id of 32 bits": {replace(opens, 3, 1, 0x1a, 0, 0, 0, 5), CodeMalformed},
		"no prekey id":           {replace(opens, 2, 1, 9), CodeMalformed},
		"an unknown key":         {slices.Concat([]byte{2, 0xa5, 9, 0}, opens[2:]), 0},
	} {
		e, err := parseEnvelope(newEnvelope(good.mac[:], c.inner))
		if CodeOf(err) != c.code || (err == nil) != (c.code == 0) {
			t.Errorf("%s: %v, want code %d", name, err, c.code)
		}
		if err == nil && (e.cipher.tag != good.cipher.tag || e.cipher.ratchet != good.cipher.ratchet || !bytes.Equal(e.message, c.inner) || e.mac != good.mac) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	// The MAC is over the bytes as they came: another form has another.
	wide := replace(opens, 3, 1, 0x19, 0, 5)
	_, err = SessionFromMessage(t.Context(), d.env(), newEnvelope(good.mac[:], wide))
	refused(t, "another form of the same", err, CodeBadMACInSync)
	_, err = SessionFromMessage(t.Context(), d.env(), newEnvelope(good.mac[:], append(bytes.Clone(opens), 0)))
	refused(t, "with a byte more", err, CodeBadMACInSync)
	// The envelope is covered by nothing.
	for name, envelope := range map[string][]byte{
		"another version": append([]byte{0xa3, 0, 2}, m[3:]...),
		"any order":       slices.Concat([]byte{0xa3}, appendBytes([]byte{2}, opens), appendWrapped([]byte{1}, good.mac[:]), []byte{0, 1}),
		"bytes after it":  append(bytes.Clone(m), 7),
		"as Rust writes lengths": slices.Concat([]byte{0xa3, 0, 1}, appendWrapped([]byte{1}, good.mac[:]),
			[]byte{2, 0x5b, 0, 0, 0, 0, 0, 0, byte(len(opens) >> 8), byte(len(opens))}, opens),
	} {
		if r, err := SessionFromMessage(t.Context(), d.env(), envelope); err != nil || string(r.Plaintext) != "text" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, envelope := range map[string][]byte{
		"no version": slices.Concat([]byte{0xa2}, m[3:]),
		"no MAC":     slices.Concat([]byte{0xa2, 0, 1}, m[bytes.Index(m, good.mac[:])+32:]),
		"no message": slices.Concat([]byte{0xa2, 0, 1}, appendWrapped([]byte{1}, good.mac[:])),
	} {
		_, err := SessionFromMessage(t.Context(), d.env(), envelope)
		refused(t, name, err, CodeMalformed)
	}
}

// Section 7: what a stored session may leave out, and what it may not have.
func TestReadingSessions(t *testing.T) {
	t.Parallel()
	alice, _, toBob, toAlice := talking(t, 53)
	_, m := sends(t, skips(t, toAlice, 3), "")
	s := alice.reads(t, toBob, m, "") // one chain has three keys
	local := alice.identity.Public()
	b := marshalled(t, s, nil)
	state := b[bytes.Index(b, []byte{5, 0xa1, 0x50})+19:]
	head := b[:len(b)-len(state)]
	kept := bytes.Index(b, append([]byte{2, 0x83, 0xa3, 0, 0xa1}, 0))
	if kept < 0 {
		t.Fatalf("%x", b)
	}
	own := local.appendIdentity([]byte{2})
	at := bytes.Index(b, own)
	other := b[at+len(own):]
	none := bytes.Index(other, []byte{4, null})
	last := bytes.LastIndex(b, []byte{3, byte(s.states[0].state.previous)})
	twice := slices.Concat(head, state, head[len(head)-17:], state)
	twice[len(head)-18] = 0xa2
	keys := b[kept+2:]
	size := (bytes.Index(keys[2:], keys[:6]) + 2)
	swapped := slices.Concat(b[:kept+2], keys[size:2*size], keys[:size], keys[2*size:])
	same := slices.Concat(b[:kept+2], keys[:size], keys[:size], keys[2*size:])
	yet := bytes.Clone(b)
	if yet[kept-38] != 5 {
		t.Fatalf("the chain is at %d", yet[kept-38])
	}
	yet[kept-38] = 3
	for name, c := range map[string]struct {
		data []byte
		code Code
	}{
		"as it is written":            {b, 0},
		"a key that comes yet":        {yet, CodeMalformed},
		"no local identity":           {slices.Concat([]byte{0xa5}, b[1:at], other), 0},
		"no pending prekey":           {slices.Concat([]byte{0xa5}, b[1:at], own, other[:none], other[none+2:]), 0},
		"nothing of what is optional": {slices.Concat([]byte{0xa4}, b[1:at], other[:none], other[none+2:]), 0},
		"no remote identity":          {slices.Concat([]byte{0xa5}, b[1:at], own, other[none:]), CodeMalformed},
		"an old key 4 of a state":     {slices.Concat(head, []byte{0xa5}, state[1:], []byte{4, 0x80}), 0},
		"no previous counter":         {slices.Concat(head, []byte{0xa3}, b[len(head)+1:last], b[last+2:]), CodeMalformed},
		"a previous counter cut off":  {append(bytes.Clone(b[:last+1]), 0x18), CodeMalformed},
		"a state twice":               {twice, CodeMalformed},
		"keys out of order":           {swapped, CodeMalformed},
		"a key twice":                 {same, CodeMalformed},
		"states in an array":          {slices.Concat(head[:len(head)-18], []byte{0x80}), CodeMalformed},
		"states that are 1001":        {slices.Concat(head[:len(head)-18], appendMap(nil, 1001)), CodeMalformed},
		"kept keys in a map":          {slices.Concat(b[:kept], []byte{2, 0xa0}, b[kept+2+3*size:]), CodeMalformed},
		"kept keys that are 1001":     {slices.Concat(b[:kept], []byte{2}, appendArray(nil, 1001), b[kept+2:]), CodeMalformed},
		"unknown keys of a chain": {slices.Concat(bytes.Replace(b[:kept], []byte{0xa3, 0, 0xa2, 0}, []byte{0xa5, 0, 0xa2, 0}, 1),
			b[kept:kept+2+3*size], []byte{3, 7, 4, 0x48, 0, 0, 0, 1, 0, 0, 0, 1}, b[kept+2+3*size:]), 0},
		"no kept keys": {slices.Concat(bytes.Replace(b[:kept], []byte{0xa3, 0, 0xa2, 0}, []byte{0xa2, 0, 0xa2, 0}, 1), b[kept+2+3*size:]), 0},
	} {
		got, err := UnmarshalSession(local, c.data)
		if CodeOf(err) != c.code || (err == nil) != (c.code == 0) {
			t.Errorf("%s: %v, want code %d", name, err, c.code)
		}
		if err != nil {
			continue
		}
		if again := marshalled(t, got, nil); name != "no kept keys" && !bytes.Equal(again, b) {
			t.Errorf("%s: written again as %x", name, again)
		}
		if got.Local() != local || got.Remote() != s.Remote() {
			t.Errorf("%s: of %s with %s", name, got.Local().Fingerprint(), got.Remote().Fingerprint())
		}
	}
	if _, err := UnmarshalSession(s.Remote(), b); !errors.Is(err, ErrLocalIdentityChanged) || CodeOf(err) != CodeLocalIdentityChanged || !errors.Is(err, core.ErrDenied) {
		t.Errorf("of another: %v", err)
	}
	// More chains than a state has.
	wide := *s.states[0].state
	for n := range 4 {
		wide.receive = append(slices.Clone(wide.receive), receiveChain{chain: wide.receive[0].chain, ratchet: PublicKey{byte(n)}, number: uint32(n)})
		_, err := UnmarshalSession(local, marshalled(t, only(s, &wide), nil))
		if ok := len(wide.receive) <= maxReceiveChains; ok != (err == nil) || !ok && CodeOf(err) != CodeMalformed {
			t.Errorf("%d chains: %v", len(wide.receive), err)
		}
	}
	// A current tag without a state loads, but sends nothing.
	empty := slices.Concat(head[:len(head)-18], []byte{0xa0})
	got, err := UnmarshalSession(local, empty)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = got.Encrypt(nil)
	refused(t, "no state for the current tag", err, CodeSessionNotFound)
}

// What only our records have: the pages of a chain, and an index for a chain at its end.
func TestReadingRecords(t *testing.T) {
	t.Parallel()
	page := func(number, has uint32) (b []byte) {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, number), has)
	}
	var many []byte
	for n := range uint32(maxKept) {
		many = append(many, page(n, 1)...)
	}
	for name, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"none":         {nil, true},
		"two":          {slices.Concat(page(1, 1), page(2, 3)), true},
		"the last":     {page(1<<27-1, 1<<31), true},
		"a thousand":   {many, true},
		"one more":     {slices.Concat(many, page(maxKept, 1)), false},
		"7 bytes":      {page(1, 1)[:7], false},
		"9 bytes":      {append(page(1, 1), 0), false},
		"without keys": {slices.Concat(page(1, 1), page(2, 0)), false},
		"twice":        {slices.Concat(page(2, 1), page(2, 1)), false},
		"descending":   {slices.Concat(page(2, 1), page(1, 1)), false},
	} {
		r := &reader{rest: appendBytes(nil, c.data)}
		if k := r.keptPages(); c.ok != (r.err == nil) || c.ok && len(k) != len(c.data)/8 {
			t.Errorf("%s: %d pages, %v", name, len(k), r.err)
		}
	}
	for index, ok := range map[uint64]bool{maxIndex: true, maxIndex + 1: true, maxIndex + 2: false, math.MaxUint64: false} {
		r := &reader{rest: chainKey{core.NewSecret(make([]byte, 32)), index}.append(nil)}
		if c := r.chainKey(true); ok != (r.err == nil) || ok && c.index != index {
			t.Errorf("index %d: %v", index, r.err)
		}
	}
}

// States are written by their tags and kept by their age, which our records have.
func TestStateOrder(t *testing.T) {
	t.Parallel()
	random := seeded(54)
	alice, bob := newDevice(t, random), newDevice(t, random, LastResortPreKeyID)
	var toAlice *Session
	for range 6 {
		_, m := sends(t, alice.opens(t, bob, LastResortPreKeyID), "")
		toAlice = bob.reads(t, toAlice, m, "")
	}
	tags := func(s *Session) (out []string) {
		for _, t := range s.states {
			out = append(out, t.tag.String())
		}
		return out
	}
	if slices.IsSorted(tags(toAlice)) || !slices.Equal(tags(bob.store(t, toAlice)), tags(toAlice)) {
		t.Error("the age is lost", tags(toAlice))
	}
	s, err := UnmarshalSession(bob.identity.Public(), marshalled(t, toAlice, nil))
	if err != nil || !slices.IsSorted(tags(s)) || len(s.states) != 6 || s.current != toAlice.current {
		t.Error(err, tags(s))
	}
	if w := s.Changes(nil); len(w.Puts) != 7 || w.Puts[0].Kind != RecordHead || len(w.Dels)+len(w.Retired) > 0 {
		t.Error(w.Puts)
	}
	if w := s.Changes(s); len(w.Puts)+len(w.Dels)+len(w.Retired) > 0 {
		t.Error("what is the same is written", w)
	}
	next, _ := sends(t, s, "")
	if w := next.Changes(s); len(w.Puts) != 1 || w.Puts[0].Kind != RecordState {
		t.Error("a message writes more than its state", w.Puts)
	}
	for _, r := range (&Session{}).Changes(s).Dels {
		if r.Kind != RecordState && r.Kind != RecordKept || len(r.Prefix) == 0 {
			t.Error(r)
		}
	}
}
