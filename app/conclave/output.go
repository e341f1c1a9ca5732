// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

func (p *program) printf(format string, args ...any) {
	p.progress.clear()
	_, _ = fmt.Fprintf(p.out, format, args...)
}

// printJSON writes one line, so that programs can read a stream of them.
func (p *program) printJSON(v any) error {
	p.progress.clear()
	return writeJSON(p.out, v)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// result prints what a command has to say: a value as JSON, or words.
func (p *program) result(v any, format string, args ...any) error {
	if p.json {
		return p.printJSON(v)
	}
	p.printf(format, args...)
	return nil
}

// notice tells the person something beside the result.
func (p *program) notice(format string, args ...any) {
	p.progress.clear()
	if p.json {
		_ = writeJSON(p.err, struct {
			Notice string `json:"notice"`
		}{fmt.Sprintf(format, args...)})
		return
	}
	_, _ = fmt.Fprintf(p.err, "conclave: "+format+"\n", args...)
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
