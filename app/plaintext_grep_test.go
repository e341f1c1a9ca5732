// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A haystack is searched for strings, or any 8 bytes in a row of one, as they are, in
// hexadecimal or in base64, wherever these begin.
type haystack struct {
	windows map[[window]byte]string // what it is a piece of
	begins  [1 << 24]bool           // with these three bytes: most text can be told apart by them
}

const window = 8

// need adds what to look for. Shorter than a window it would be found by chance.
func (h *haystack) need(t *testing.T, name string, needle []byte) {
	t.Helper()
	if len(needle) < window {
		t.Fatalf("%s: %q is too short to look for", name, needle)
	}
	if h.windows == nil {
		h.windows = map[[window]byte]string{}
	}
	for i := range len(needle) - window + 1 {
		w := [window]byte(needle[i:])
		if _, known := h.windows[w]; !known && w != [window]byte{} {
			h.windows[w] = name
			h.begins[begin(w[:])] = true
		}
	}
}

func begin(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// names are those of all that can be found.
func (h *haystack) names() map[string]bool {
	out := map[string]bool{}
	for _, name := range h.windows {
		out[name] = true
	}
	return out
}

// search adds to found what is there and where.
func (h *haystack) search(text []byte, where string, found map[string]string) {
	for form, view := range views(text) {
		for i := 0; i+window <= len(view); i++ {
			if !h.begins[begin(view[i:])] {
				continue
			}
			if name, ok := h.windows[[window]byte(view[i:i+window])]; ok {
				found[name] = fmt.Sprintf("%s, %s, near byte %d", where, form, i)
			}
		}
	}
}

// views are the text and what the runs of digits in it mean.
func views(text []byte) map[string][]byte {
	out := map[string][]byte{"as it is": text}
	for _, code := range []struct {
		name   string
		digits string
		shortest,
		period int // after how many digits the bytes begin anew
		decode func(dst, src []byte) (int, error)
	}{
		{"hexadecimal", "0123456789abcdefABCDEF", 2 * window, 2, hex.Decode},
		{"base64", base64Digits + "+/", 11, 4, base64.RawStdEncoding.Decode},
		{"base64 for URLs", base64Digits + "-_", 11, 4, base64.RawURLEncoding.Decode},
	} {
		var is [256]bool
		for _, d := range []byte(code.digits) {
			is[d] = true
		}
		var all []byte
		for i := 0; i < len(text); i++ {
			end := i
			for end < len(text) && is[text[end]] {
				end++
			}
			if run := text[i:end]; len(run) >= code.shortest {
				for skip := range code.period {
					whole := run[skip:]
					whole = whole[:len(whole)-len(whole)%code.period]
					decoded := make([]byte, len(whole))
					if n, err := code.decode(decoded, whole); err == nil {
						all = append(all, decoded[:n]...)
					}
					// The rest of base64 that has no padding.
					if rest := run[skip+len(whole):]; code.period == 4 && len(rest) > 1 {
						if n, err := code.decode(decoded, append(bytes.Clone(whole[max(0, len(whole)-12):]), rest...)); err == nil {
							all = append(all, decoded[:n]...)
						}
					}
				}
			}
			i = max(i, end)
		}
		out[code.name] = all
	}
	return out
}

const base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// files searches all files of a folder but those, and folders, with the given names.
func (h *haystack) files(t *testing.T, folder string, but ...string) (found map[string]string) {
	t.Helper()
	found = map[string]string{}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a server removes files
		}
		if err == nil && slices.Contains(but, d.Name()) && d.IsDir() {
			return fs.SkipDir
		}
		if err != nil || !d.Type().IsRegular() || slices.Contains(but, d.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		h.search(text, strings.TrimPrefix(path, folder), found)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// log searches a write-ahead log of PostgreSQL: its files as they are, and all of them
// without the headers of pages, over which a record goes on.
func (h *haystack) log(t *testing.T, folder string) (found map[string]string) {
	t.Helper()
	found = h.files(t, folder)
	segments, err := filepath.Glob(filepath.Join(folder, strings.Repeat("[0-9A-F]", 24)))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segment in %s: %v", folder, err)
	}
	var records []byte
	for _, segment := range segments { // in the order of their names
		pages, err := os.ReadFile(segment)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		records = append(records, unpaged(pages)...)
	}
	h.search(records, "records of the log", found)
	return found
}

// unpaged is what is in the pages of a segment, see access/xlog_internal.h of PostgreSQL:
// pages of 8192 bytes with a header of 24, or of 40 if its flags say so.
func unpaged(segment []byte) (content []byte) {
	for page := range slices.Chunk(segment, 8192) {
		header := 24
		if len(page) > 2 && page[2]&2 != 0 {
			header = 40
		}
		content = append(content, page[min(header, len(page)):]...)
	}
	return content
}

// What is hidden anywhere is found, in every form.
func TestHaystack(t *testing.T) {
	needle := []byte{0, 1, 2, 0xfe, 0xff, 'q', 'u', 'x', 200, 100, 50}
	h := new(haystack)
	h.need(t, "needle", needle)
	whole := append(append([]byte("xyz"), needle...), "abcd"...)
	for name, text := range map[string]string{
		"as it is":             string(whole),
		"a piece":              string(needle[2 : 2+window]),
		"hex":                  hex.EncodeToString(whole),
		"hex, high":            strings.ToUpper(hex.EncodeToString(needle)),
		"hex after a digit":    "7" + hex.EncodeToString(needle[:window]),
		"base64":               base64.StdEncoding.EncodeToString(needle),
		"base64, a piece":      base64.StdEncoding.EncodeToString(needle[:window]),
		"base64 of more":       base64.StdEncoding.EncodeToString(whole),
		"base64 of more, url":  base64.RawURLEncoding.EncodeToString(whole[1:]),
		"base64 after digits":  "AB" + base64.RawURLEncoding.EncodeToString(whole[2:]),
		"base64 in quotes":     `{"a":"` + base64.RawStdEncoding.EncodeToString(needle[:9]) + `"}`,
		"hex in a file's line": "COPY\n\\\\x" + hex.EncodeToString(whole) + "\t1\n",
	} {
		found := map[string]string{}
		h.search([]byte(text), name, found)
		if len(found) != 1 {
			t.Errorf("%s: not found", name)
		}
	}
	// A record of a log begins at the end of a page and goes on in the next.
	folder, pages := t.TempDir(), bytes.Repeat([]byte{2}, 2*8192)
	copy(pages[8192-5:], needle[:5])
	pages[8192+2] = 0
	copy(pages[8192+24:], needle[5:])
	do(t, os.WriteFile(filepath.Join(folder, "00000001000000000000000A"), pages, 0o600))
	if found := h.log(t, folder); len(found) != 1 {
		t.Error("over the pages of a log: not found")
	}
	pages[2*8192-1] = needle[0]
	next := append(bytes.Repeat([]byte{2}, 40), needle[1:]...)
	do(t, os.WriteFile(filepath.Join(folder, "00000001000000000000000A"), pages[8192:], 0o600))
	do(t, os.WriteFile(filepath.Join(folder, "00000001000000000000000B"), next, 0o600))
	if found := h.log(t, folder); len(found) != 1 {
		t.Error("over the segments of a log: not found")
	}
	found := map[string]string{}
	h.search([]byte("as"+string(needle[:window-1])+base64.StdEncoding.EncodeToString(needle[:window-1])+hex.EncodeToString(needle[4:])), "parts", found)
	if len(found) != 0 {
		t.Errorf("found what is not there: %v", found)
	}
}
