// SPDX-License-Identifier: Apache-2.0

package core_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
)

const plain = "attack at dawn!!"

// holders are the ways in which a Secret ends up in something that is printed.
func holders() map[string]any {
	s := core.NewSecret([]byte(plain))
	type named struct{ Key core.Secret }
	type hidden struct{ key core.Secret } // fmt cannot call methods on this one
	return map[string]any{
		"itself":                 s,
		"a pointer":              &s,
		"a struct":               named{s},
		"a pointer to a struct":  &named{s},
		"an unexported field":    hidden{s},
		"a pointer to that":      &hidden{s},
		"an embedded one":        struct{ core.Secret }{s},
		"a nested one":           struct{ inner struct{ h hidden } }{struct{ h hidden }{hidden{s}}},
		"a slice":                []core.Secret{s},
		"a slice of structs":     []hidden{{s}},
		"a map":                  map[string]core.Secret{"key": s},
		"a map of structs":       map[string]hidden{"key": {s}},
		"an interface":           struct{ v any }{s},
		"a pointer in a struct":  struct{ p *core.Secret }{&s},
		"an error that wraps it": fmt.Errorf("key %v: %w", s, errors.New("bad")),
	}
}

// leaks says in which form the bytes of the secret are in the text.
func leaks(text string) string {
	b := []byte(plain)
	decimal := strings.Trim(fmt.Sprint(b), "[]")
	for form, s := range map[string]string{
		"text":        plain,
		"hex":         hex.EncodeToString(b),
		"HEX":         strings.ToUpper(hex.EncodeToString(b)),
		"spaced hex":  fmt.Sprintf("% x", b),
		"Go":          strings.Trim(fmt.Sprintf("%#v", b), "[]byte{}"),
		"decimal":     decimal,
		"JSON":        strings.ReplaceAll(decimal, " ", ","),
		"base64":      base64.StdEncoding.EncodeToString(b),
		"octal":       strings.Trim(fmt.Sprintf("%o", b), "[]"),
		"binary":      strings.Trim(fmt.Sprintf("%b", b), "[]"),
		"characters":  strings.Trim(fmt.Sprintf("%c", b), "[]"),
		"code points": strings.Trim(fmt.Sprintf("%U", b), "[]"),
		"quoted":      strings.Trim(fmt.Sprintf("%q", plain), `"`),
	} {
		if strings.Contains(text, s) {
			return form
		}
	}
	return ""
}

func TestLeaksAreSeen(t *testing.T) {
	type open struct{ key []byte }
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%X", "% x", "%s", "%q", "%d", "%o", "%b", "%c", "%U"} {
		if leaks(fmt.Sprintf(verb, open{[]byte(plain)})) == "" {
			t.Errorf("%s of bytes is not seen as a leak: %s", verb, fmt.Sprintf(verb, open{[]byte(plain)}))
		}
	}
}

func TestFormattingASecretShowsNoBytes(t *testing.T) {
	for name, v := range holders() {
	formats:
		for _, flags := range []string{"", "+", "#", " ", "0", "-", "20", ".3", "+#"} {
			for verb := 'A'; verb <= 'z'; verb++ {
				format := "%" + flags + string(verb)
				if text := fmt.Sprintf(format, v); leaks(text) != "" {
					t.Errorf("%s of %s shows the bytes as %s: %s", format, name, leaks(text), text)
					break formats
				}
			}
		}
		for _, text := range []string{fmt.Sprint(v), fmt.Sprintln(v)} {
			if leaks(text) != "" {
				t.Errorf("printing %s shows the bytes: %s", name, text)
			}
		}
		if js, err := json.Marshal(v); err == nil && leaks(string(js)) != "" {
			t.Errorf("JSON of %s shows the bytes: %s", name, js)
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("message", "key", v, slog.Group("group", "key", v))
		}
		if leaks(log.String()) != "" {
			t.Errorf("logging %s shows the bytes: %s", name, &log)
		}
	}
}

func TestSecret(t *testing.T) {
	var zero core.Secret
	if !zero.IsZero() || zero.Len() != 0 || zero.Bytes() != nil || !zero.Clone().IsZero() {
		t.Error("the zero Secret holds something")
	}
	zero.Wipe()
	if empty := core.NewSecret([]byte{}); !empty.IsZero() || !empty.Equal(zero) {
		t.Error("nil and empty differ")
	}

	s := core.NewSecret([]byte(plain))
	copied, clone := s, s.Clone()
	if !s.Equal(clone) || s.Len() != len(plain) || string(s.Bytes()) != plain {
		t.Errorf("holds %q", s.Bytes())
	}
	for _, other := range []core.Secret{zero, core.NewSecret([]byte(plain[1:])), core.NewSecret([]byte(plain + "!")), core.NewSecret(make([]byte, len(plain)))} {
		if s.Equal(other) || other.Equal(s) {
			t.Errorf("%q equals %q", s.Bytes(), other.Bytes())
		}
	}
	s.Wipe()
	if !bytes.Equal(copied.Bytes(), make([]byte, len(plain))) {
		t.Errorf("wiping a Secret left its copy with %q", copied.Bytes())
	}
	if string(clone.Bytes()) != plain {
		t.Errorf("wiping a Secret left its clone with %q", clone.Bytes())
	}
	if got := fmt.Sprint(clone); got != "Secret(16 bytes)" {
		t.Errorf("printed as %q", got)
	}
}

func ExampleSecret() {
	key := core.NewSecret([]byte("0123456789abcdef"))
	defer key.Wipe()
	fmt.Println(key)
	fmt.Printf("%x %#v\n", key, struct{ Key core.Secret }{key})
	fmt.Println(key.Equal(key.Clone()))
	// Output:
	// Secret(16 bytes)
	// Secret(16 bytes) struct { Key core.Secret }{Key:Secret(16 bytes)}
	// true
}
