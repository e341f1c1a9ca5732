// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

func (p *program) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.out, format, args...) }

// printJSON writes one line, so that programs can read a stream of them.
func (p *program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// plain makes what a peer wrote safe to print: control and formatting characters
// could change what a terminal shows, or forge the lines around it.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// fingerprint shows bytes in a form that two people can compare.
func fingerprint(b []byte) string {
	var groups []string
	for ; len(b) >= 2; b = b[2:] {
		groups = append(groups, fmt.Sprintf("%02x%02x", b[0], b[1]))
	}
	return strings.Join(groups, " ")
}
