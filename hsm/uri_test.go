// SPDX-License-Identifier: Apache-2.0

package hsm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

func slot(n uint) *uint { return &n }

// fields are what can be compared of a URI.
func fields(u hsm.URI) map[string]string {
	m := map[string]string{
		"token": u.Token, "manufacturer": u.Manufacturer, "model": u.Model, "serial": u.Serial, "id": string(u.ID),
		"object": u.Object, "type": u.Type, "module-path": u.ModulePath, "module-name": u.ModuleName,
		"pin-source": u.PINSource, "pin-value": string(u.PINValue.Bytes()), "x-engine": u.Engine, "x-init-args": u.InitArgs,
		"x-kek-method": u.KEKMethod, "x-hmac-key": u.HMACKey,
	}
	if u.SlotID != nil {
		m["slot-id"] = fmt.Sprint(*u.SlotID)
	}
	if u.MaxSessions != 0 {
		m["x-max-sessions"] = fmt.Sprint(u.MaxSessions)
	}
	if u.FinalTry {
		m["x-final-try"] = "yes"
	}
	for k, v := range m {
		if v == "" {
			delete(m, k)
		}
	}
	return m
}

// TestURIs has all examples of RFC 7512 (section 3) that name what we look at, in the
// order of the document, and URIs as tools print them.
func TestURIs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		want map[string]string
		same string // the canonical form, unless it is the text
	}{
		{"pkcs11:", map[string]string{}, ""},
		{"pkcs11:object=my-pubkey;type=public", map[string]string{"object": "my-pubkey", "type": "public"}, ""},
		{"pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
			map[string]string{"object": "my-key", "type": "private", "pin-source": "file:/etc/token"}, ""},
		{"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
			map[string]string{"token": "The Software PKCS#11 Softtoken", "manufacturer": "Snake Oil, Inc.", "model": "1.0", "object": "my-certificate", "type": "cert", "id": "\x69\x95\x3e\x5c\xf4\xbd\xec\x91", "pin-source": "file:/etc/token_pin"},
			"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=;id=%69%95%3E%5C%F4%BD%EC%91;object=my-certificate;type=cert?pin-source=file:/etc/token_pin"},
		{"pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
			map[string]string{"object": "my-sign-key", "type": "private", "module-name": "mypkcs11"}, ""},
		{"pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
			map[string]string{"object": "my-sign-key", "type": "private", "module-path": "/mnt/libmypkcs11.so.1"}, ""},
		{"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
			map[string]string{"token": "Software PKCS#11 softtoken", "manufacturer": "Snake Oil, Inc.", "pin-value": "the-pin"},
			"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=<redacted>"},
		{"pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
			map[string]string{"token": "A name with a substring %;", "object": "my-certificate", "type": "cert"}, ""},
		{"pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
			map[string]string{"token": "Name with a small A with acute: á", "object": "my-certificate", "type": "cert"}, ""},

		// p11tool --list-token-urls, pkcs11-tool -L
		{"pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=1ba0d2f5c3d8e6f1;token=mls-ci",
			map[string]string{"model": "SoftHSM v2", "manufacturer": "SoftHSM project", "serial": "1ba0d2f5c3d8e6f1", "token": "mls-ci"},
			"pkcs11:token=mls-ci;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=1ba0d2f5c3d8e6f1"},
		{"pkcs11:model=p11-kit-trust;manufacturer=PKCS%2311%20Kit;serial=1;token=Default%20Trust",
			map[string]string{"model": "p11-kit-trust", "manufacturer": "PKCS#11 Kit", "serial": "1", "token": "Default Trust"},
			"pkcs11:token=Default%20Trust;manufacturer=PKCS%2311%20Kit;model=p11-kit-trust;serial=1"},
		{"pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=1ba0d2f5c3d8e6f1;token=mls-ci;id=%01%a2;object=sig%2dp256;type=private",
			map[string]string{"model": "SoftHSM v2", "manufacturer": "SoftHSM project", "serial": "1ba0d2f5c3d8e6f1", "token": "mls-ci", "id": "\x01\xa2", "object": "sig-p256", "type": "private"},
			"pkcs11:token=mls-ci;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=1ba0d2f5c3d8e6f1;id=%01%A2;object=sig-p256;type=private"},

		// our own, and what belongs to others
		{"pkcs11:id=1000;slot-id=007?", map[string]string{"id": "1000", "slot-id": "7"}, "pkcs11:slot-id=7;id=%31%30%30%30"},
		{"pkcs11:token=%3Credacted%3E", map[string]string{"token": "<redacted>"}, ""},
		{"pkcs11:token=a+b=c&d?x-init-args=configdir='sql:/a?b|c'%20flags=&x-engine=p11&x-max-sessions=2&x-kek-method=aes-cbc-hmac&x-hmac-key=second&x-final-try=yes",
			map[string]string{"token": "a+b=c&d", "x-init-args": "configdir='sql:/a?b|c' flags=", "x-max-sessions": "2", "x-engine": "p11", "x-kek-method": "aes-cbc-hmac", "x-hmac-key": "second", "x-final-try": "yes"},
			"pkcs11:token=a+b=c&d?x-max-sessions=2&x-engine=p11&x-init-args=configdir='sql:/a?b|c'%20flags=&x-kek-method=aes-cbc-hmac&x-hmac-key=second&x-final-try=yes"},
		{"pkcs11:token=a?x-theirs=1&x-final-try=no&pin-source=env:PIN", map[string]string{"token": "a", "pin-source": "env:PIN"}, "pkcs11:token=a?pin-source=env:PIN"},
	} {
		u, err := hsm.ParseURI(test.text)
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		if got := fields(u); !maps.Equal(got, test.want) {
			t.Errorf("%s:\n%q, want\n%q", test.text, got, test.want)
		}
		if test.same == "" {
			test.same = test.text
		}
		if u.String() != test.same {
			t.Errorf("%s is printed as %s, want %s", test.text, u, test.same)
		}
	}
}

func TestURIsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "pkcs11", "PKCS11:", "pkcs12:", " pkcs11:", "pkcs11:token",
		"pkcs11:token=a;token=a", "pkcs11:token=a;", "pkcs11:;token=a", "pkcs11:token=a;;serial=b",
		"pkcs11:token=%", "pkcs11:token=%4", "pkcs11:token=%4g", "pkcs11:token=%+4", "pkcs11:token=a b", "pkcs11:token=á", "pkcs11:token=a/b", "pkcs11:token=a#b",
		"pkcs11:token=%FF", "pkcs11:token=%00", "pkcs11:object=a%0Ab", "pkcs11:%74oken=a",
		"pkcs11:object=", "pkcs11:id=", "pkcs11:type=", "pkcs11:type=key", "pkcs11:slot-id=", "pkcs11:slot-id=-1", "pkcs11:slot-id=0x1",
		"pkcs11:x-theirs=a", "pkcs11:vendor-aaa=a", "pkcs11:pin-source=env:A", "pkcs11:?token=a",
		"pkcs11:token=a?vendor-bbb=value-b", "pkcs11:?x-=1", "pkcs11:?x-a=1&x-a=1", "pkcs11:?x-a=%zz", "pkcs11:?x-%41=1",
		"pkcs11:?module-path=lib.so", "pkcs11:?module-path=", "pkcs11:?module-path=/a%00b", "pkcs11:?module-name=../a", "pkcs11:?module-name=a/b", "pkcs11:?module-name=.a",
		"pkcs11:?module-name=a&module-path=/a",
		"pkcs11:?pin-value=1234&pin-source=env:A", "pkcs11:?pin-value=&pin-source=env:A", "pkcs11:?pin-value=1234&pin-value=1234", "pkcs11:?pin-value=<redacted>",
		"pkcs11:?pin-source=", "pkcs11:?pin-source=|/bin/true", "pkcs11:?pin-source=pin", "pkcs11:?pin-source=file:pin", "pkcs11:?pin-source=file://host/pin",
		"pkcs11:?pin-source=https://host/pin", "pkcs11:?pin-source=env:", "pkcs11:?pin-source=env:A=B", "pkcs11:?pin-source=fd:0", "pkcs11:?pin-source=fd:2", "pkcs11:?pin-source=fd:x", "pkcs11:?pin-source=fd:-3",
		"pkcs11:?x-max-sessions=0", "pkcs11:?x-max-sessions=65536", "pkcs11:?x-kek-method=rsa", "pkcs11:?x-engine=other", "pkcs11:?x-final-try=true", "pkcs11:?x-hmac-key=", "pkcs11:?x-init-args=%00",
		"pkcs11:token=" + strings.Repeat("a", 8192),
		// those of section 3 that name what we do not look at
		"pkcs11:slot-description=Sun%20Metaslot",
		"pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
		"pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
		"pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a?pin-source=file:/etc/token_pin&vendor-bbb=value-b",
	} {
		u, err := hsm.ParseURI(text)
		if !errors.Is(err, hsm.ErrInvalidInput) || !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%.100q: %v", text, err)
		}
		if got := fields(u); len(got) != 0 {
			t.Errorf("%.100q: something is returned with the error: %q", text, got)
		}
	}
}

// An error says which attribute is wrong and what there is, but no value.
func TestURIErrorsNameTheCulprit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"pkcs11:tokn=a":                             "attribute 1 of the path, tokn, is not known; known before the ? are token, manufacturer, ",
		"pkcs11:token=a?module=b":                   "attribute 1 of the query, module, is not known; known after the ? are module-path, ",
		"pkcs11:token=a;pin-source=env:A":           "attribute 2 of the path, pin-source, does not stand before the ?, but after it",
		"pkcs11:?module-name=a&object=b":            "attribute 2 of the query, object, does not stand after the ?, but before it",
		"pkcs11:token=a?module-name=b&pin-source=c": "attribute 2 of the query, pin-source: it is none of file:/PATH",
		"pkcs11:?x-init-args=b;pin-source=env:A":    "between attributes stands ; before the ?, and & after it",
		"pkcs11:?pin-value=a&b=c":                   "attribute 2 of the query is not known;",
	} {
		if _, err := hsm.ParseURI(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: no %q in %v", text, want, err)
		}
	}
	u, err := hsm.ParseURI("pkcs11:?x-max-session=4&x-max-sessions=5&x-kek-metod=aes-kw&pin-value=1&x-2=3")
	if err != nil || fmt.Sprint(u.Unknown()) != "[x-max-session x-kek-metod]" {
		t.Errorf("%v, %v", u.Unknown(), err)
	}
}

// However a URI with a PIN is printed, and however it is wrong, the PIN is not to be seen.
func TestThePINOfAURIIsNotPrinted(t *testing.T) {
	t.Parallel()
	const pin = "hunter5678"
	u, err := hsm.ParseURI("pkcs11:token=a?pin-value=" + pin)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "uri", u, "pointer", &u, "config", struct{ URI hsm.URI }{u})
	}
	j, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{u.String(), log.String(), string(j), string(u.Reference())}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		type hidden struct{ u hsm.URI }
		texts = append(texts, fmt.Sprintf(verb, u), fmt.Sprintf(verb, &u), fmt.Sprintf(verb, []hsm.URI{u}), fmt.Sprintf(verb, hidden{u}))
	}
	for _, wrong := range []string{
		"pin-value=" + pin + "%", "pin-value=" + pin + "<", "pin-value=ab&" + pin, "pin-value=ab&" + pin + "=c", "pin-value=" + pin + "&pin-value=" + pin,
		"pin-value=" + pin + "&pin-source=env:A", "pin-source=" + pin, "pin-value=" + pin + "&x-max-sessions=a", "pinvalue=" + pin, "pin-source=env:" + pin + "=", "x-final-try=" + pin,
	} {
		for _, text := range []string{"pkcs11:token=a?" + wrong, "pkcs11:token=a;" + wrong, pin} {
			_, err := hsm.ParseURI(text)
			if err == nil {
				t.Fatal("no error: ", text)
			}
			texts = append(texts, err.Error(), fmt.Sprintf("%+v", err))
		}
	}
	for _, text := range texts {
		if strings.Contains(text, pin) || strings.Contains(text, fmt.Sprintf("%x", pin)) || strings.Contains(text, fmt.Sprint([]byte(pin))) {
			t.Errorf("the PIN is in %s", text)
		}
	}
	if _, err := hsm.ParseURI(u.String()); err == nil {
		t.Error("a redacted URI can be used: it would spend a try")
	}
}

func TestReferencesHaveNoQuery(t *testing.T) {
	t.Parallel()
	u := hsm.URI{
		Token: "a b", Serial: "01", SlotID: slot(3), ID: []byte{1, 0xa2}, Object: "k", Type: "private",
		ModulePath: "/lib.so", PINSource: "env:PIN", PINValue: core.NewSecret([]byte("1234")), MaxSessions: 2,
	}
	const want = "pkcs11:token=a%20b;serial=01;id=%01%A2;object=k;type=private"
	if ref := u.Reference(); ref != want {
		t.Errorf("%s", ref)
	}
	if u.SlotID == nil {
		t.Error("the URI was changed")
	}
	back, err := hsm.ParseReference(want)
	if err != nil || back.Reference() != want {
		t.Errorf("%v, %v", back, err)
	}
	for _, ref := range []core.KeyRef{"", "pure:a", "plugin:x/pkcs11:token=a", want + "?", want + "?module-path=/evil.so", want + "?pin-value=1", "pkcs11:slot-id=1;id=%01"} {
		if _, err := hsm.ParseReference(ref); !errors.Is(err, core.ErrDenied) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := hsm.ParseReference("pkcs11:token=%"); !errors.Is(err, core.ErrInvalid) {
		t.Error(err)
	}
}

func TestAURIMatchesATokenByWhatItNames(t *testing.T) {
	t.Parallel()
	token := cryptoki.TokenInfo{Label: "acme", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Serial: "01ab"}
	for text, want := range map[string]bool{
		"pkcs11:":           true,
		"pkcs11:token=acme": true, "pkcs11:token=ACME": false, "pkcs11:token=acm": false, "pkcs11:token=": false,
		"pkcs11:serial=01ab": true, "pkcs11:serial=1ab": false, "pkcs11:serial=": false,
		"pkcs11:manufacturer=SoftHSM%20project": true, "pkcs11:manufacturer=x": false, "pkcs11:manufacturer=": false,
		"pkcs11:model=SoftHSM%20v2": true, "pkcs11:model=x": false, "pkcs11:model=": false,
		"pkcs11:token=acme;serial=02": false, "pkcs11:token=acme;serial=01ab;object=k;type=private;slot-id=7": true,
	} {
		u, err := hsm.ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		if u.Matches(token) != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	blank, err := hsm.ParseURI("pkcs11:serial=")
	if err != nil || !blank.Matches(cryptoki.TokenInfo{Label: "acme"}) {
		t.Errorf("a token without a serial number: %v", err)
	}
}

// FuzzParseURI: what is read is printed so that it reads the same, and names a key so, too.
func FuzzParseURI(f *testing.F) {
	for _, text := range []string{
		"pkcs11:", "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;serial=;id=%69%95?pin-source=file:/etc/token_pin",
		"pkcs11:slot-id=1;type=cert?module-name=a&pin-value=1234&x-other=%00&x-max-sessions=3",
		"pkcs11:object=k?module-path=/a.so&x-engine=crypto11&x-init-args=a&x-kek-method=aes-kw&x-hmac-key=h&x-final-try=yes",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := hsm.ParseURI(text)
		if err != nil {
			if !errors.Is(err, core.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := hsm.ParseURI(u.String())
		switch {
		case !u.PINValue.IsZero():
			if err == nil {
				t.Fatalf("%s is not redacted", u)
			}
		case err != nil:
			t.Fatalf("%s: %v", u, err)
		case again.String() != u.String() || !maps.Equal(fields(u), fields(again)):
			t.Fatalf("%s is read as %s", u, again)
		}
		ref, err := hsm.ParseReference(u.Reference())
		if err != nil || ref.Reference() != u.Reference() {
			t.Fatalf("%s: %s, %v", u.Reference(), ref, err)
		}
	})
}
