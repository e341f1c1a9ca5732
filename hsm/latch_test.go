// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/hsm/internal/cryptoki"
)

// A latchedToken counts the logins that reach it.
type latchedToken struct {
	t      *testing.T
	info   cryptoki.TokenInfo
	logins int
}

func newLatchedToken(t *testing.T) *latchedToken {
	return &latchedToken{t: t, info: cryptoki.TokenInfo{Label: "acme", Manufacturer: "m", Model: "o", Serial: t.Name()}}
}

// login is one in a process that has just started, but for memory that pinsProven has.
func (k *latchedToken) login(folder, pin string, result error) error {
	return newLatch(folder).login(k.info, core.NewSecret([]byte(pin)), func() error {
		k.logins++
		return result
	})
}

// reaches says that a login with this PIN reaches the token, which accepts it.
func (k *latchedToken) reaches(folder, pin string) {
	k.t.Helper()
	before := k.logins
	if err := k.login(folder, pin, nil); err != nil || k.logins != before+1 {
		k.t.Errorf("PIN %s: %d logins, %v", pin, k.logins-before, err)
	}
}

// latched says that one does not, and gives the error.
func (k *latchedToken) latched(folder, pin string, kind error) error {
	k.t.Helper()
	before := k.logins
	err := k.login(folder, pin, nil)
	var e *Error
	if !errors.Is(err, kind) || !errors.As(err, &e) || k.logins != before {
		k.t.Errorf("PIN %s: %d logins, %v", pin, k.logins-before, err)
	} else if strings.Contains(err.Error(), pin) {
		k.t.Errorf("the PIN is in the error: %v", err)
	}
	return err
}

func TestARefusedPINIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	for result, kind := range map[cryptoki.Error]error{cryptoki.ErrPINIncorrect: ErrPINRejected, cryptoki.ErrPINLocked: ErrPINLocked} {
		for _, folder := range []string{"", filepath.Join(t.TempDir(), "a", "b")} {
			t.Run(fmt.Sprintf("%s in %q", result.Name(), filepath.Base(folder)), func(t *testing.T) {
				t.Parallel()
				token := newLatchedToken(t)
				err := token.login(folder, "wrong-1", fmt.Errorf("C_Login: %w", result))
				var e *Error
				if !errors.Is(err, kind) || !errors.As(err, &e) || e.Result != result || e.Op != "login" {
					t.Fatalf("%v", err)
				}
				if err := token.latched(folder, "wrong-1", kind); !strings.Contains(err.Error(), result.Name()) || !strings.Contains(err.Error(), "before it is unlatched") {
					t.Errorf("%v", err)
				}
				_ = token.login(folder, "wrong-2", result)
				token.reaches(folder, "right")
				token.latched(folder, "wrong-1", kind) // also after a success
				token.latched(folder, "wrong-2", kind)
				token.reaches(folder, "right")
				other := newLatchedToken(t)
				other.info.Serial += " of another token"
				other.reaches(folder, "wrong-1")
			})
		}
	}
}

func TestWhatResultsSayAboutThePIN(t *testing.T) {
	t.Parallel()
	for verdict, results := range map[pinVerdict][]cryptoki.Error{
		pinRefused: {cryptoki.ErrPINIncorrect, cryptoki.ErrPINInvalid, cryptoki.ErrPINLenRange, cryptoki.ErrPINExpired, cryptoki.ErrPINLocked},
		pinNotJudged: {
			cryptoki.ErrUserAlreadyLoggedIn, cryptoki.ErrUserPINNotInitialized, cryptoki.ErrCryptokiNotInitialized, cryptoki.ErrSessionHandleInvalid,
			cryptoki.ErrSlotIDInvalid, cryptoki.ErrTokenNotPresent, cryptoki.ErrTokenNotRecognized, cryptoki.ErrFunctionNotSupported,
			cryptoki.ErrOperationActive, cryptoki.ErrOperationNotInitialized, cryptoki.ErrHostMemory, cryptoki.ErrDeviceMemory,
			cryptoki.ErrSessionReadOnlyExists, cryptoki.ErrUserAnotherAlreadyLoggedIn, cryptoki.ErrUserTooManyTypes,
		},
		pinUnknown: {
			cryptoki.ErrDeviceError, cryptoki.ErrDeviceRemoved, cryptoki.ErrGeneralError, cryptoki.ErrFunctionFailed,
			cryptoki.ErrSessionClosed, cryptoki.ErrArgumentsBad, 0x80000001, 0,
		},
	} {
		for _, result := range results {
			if got := judgePIN(fmt.Errorf("C_Login: %w", result)); got != verdict {
				t.Errorf("%s: %d, want %d", result.Name(), got, verdict)
			}
		}
	}
	if judgePIN(nil) != pinAccepted || judgePIN(errors.New("no result")) != pinUnknown {
		t.Error("without a result")
	}
}

func TestAPINThatWasOnceRightIsLatchedWhenItIsRefused(t *testing.T) {
	t.Parallel()
	token, folder := newLatchedToken(t), t.TempDir()
	token.reaches(folder, "old")
	_ = token.login(folder, "old", cryptoki.ErrPINIncorrect)
	token.latched(folder, "old", ErrPINRejected)
	if pinsProven.has(tokenURI(token.info), core.NewSecret([]byte("old"))) {
		t.Error("it counts as right")
	}
}

// What is not about the PIN is passed on, and the PIN may be tried again; where the token
// may have counted it as wrong, only if it has succeeded before.
func TestResultsThatAreNotAboutThePIN(t *testing.T) {
	t.Parallel()
	for _, result := range []cryptoki.Error{cryptoki.ErrUserAlreadyLoggedIn, cryptoki.ErrTokenNotPresent} {
		t.Run(result.Name(), func(t *testing.T) {
			t.Parallel()
			token, folder := newLatchedToken(t), t.TempDir()
			if err := token.login(folder, "1234", result); !errors.Is(err, result) {
				t.Errorf("%v", err)
			}
			if list, err := Latched(folder); len(list) != 0 || err != nil {
				t.Errorf("%v, %v", list, err)
			}
			if pinsProven.has(tokenURI(token.info), core.NewSecret([]byte("1234"))) {
				t.Error("the PIN counts as right")
			}
			token.reaches(folder, "1234")
		})
	}
	for _, result := range []error{cryptoki.ErrDeviceError, errors.New("no result")} {
		t.Run(result.Error(), func(t *testing.T) {
			t.Parallel()
			token, folder := newLatchedToken(t), t.TempDir()
			var e *Error
			if err := token.login(folder, "1234", result); !errors.Is(err, ErrTokenUnavailable) || !errors.As(err, &e) || e.Result != resultOf(result) {
				t.Errorf("%v", err)
			}
			token.latched(folder, "1234", ErrPINRejected)
			token.reaches(folder, "5678")
			if err := token.login(folder, "5678", result); err != result {
				t.Errorf("%v", err)
			}
			token.reaches(folder, "5678")
			token.latched(folder, "1234", ErrPINRejected)
		})
	}
}

func TestNoPINIsTriedOnATokenThatSaysItIsTheLast(t *testing.T) {
	t.Parallel()
	token, folder := newLatchedToken(t), t.TempDir()
	for flags, kind := range map[cryptoki.Flags]error{
		cryptoki.FlagUserPINFinal: ErrPINLocked, cryptoki.FlagUserPINLocked: ErrPINLocked,
		cryptoki.FlagUserPINFinal | cryptoki.FlagUserPINLow | cryptoki.FlagLoginRequired: ErrPINLocked,
	} {
		token.info.Flags = flags
		token.latched(folder, "1234", kind)
		allowed := latch{folder: folder, finalTry: true}
		if err := allowed.login(token.info, core.NewSecret([]byte("1234")), func() error { return nil }); err != nil {
			t.Errorf("%x: %v", flags, err)
		}
	}
	token.info.Flags = cryptoki.FlagUserPINLow | cryptoki.FlagLoginRequired
	token.reaches(folder, "1234")
	if err := token.login(folder, "", nil); !errors.Is(err, ErrPINRequired) || token.logins != 1 {
		t.Errorf("%d logins, %v", token.logins, err)
	}
}

// The record is there before the token is asked, and only if it can be written.
func TestALoginIsRecordedBeforeItIsDone(t *testing.T) {
	t.Parallel()
	token, folder := newLatchedToken(t), filepath.Join(t.TempDir(), "latch")
	err := newLatch(folder).login(token.info, core.NewSecret([]byte("secret-1")), func() error {
		list, err := Latched(folder)
		if err != nil || len(list) != 1 || list[0].Refused || list[0].Result != "" || time.Since(list[0].At) > time.Minute || !list[0].Token.Matches(token.info) {
			t.Errorf("%+v, %v", list, err)
		}
		files, err := os.ReadDir(folder)
		if err != nil {
			t.Error(err)
		}
		for _, f := range files {
			info, err := f.Info()
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
			}
			if b, err := os.ReadFile(filepath.Join(folder, f.Name())); err != nil || bytes.Contains(b, []byte("secret-1")) {
				t.Errorf("%s: %s, %v", f.Name(), b, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if list, err := Latched(folder); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestNoLoginThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	token := newLatchedToken(t)
	file := string(newLatch(t.TempDir()).store(tokenURI(token.info)).(latchFile))
	folder := filepath.Dir(file)

	token.latched(writeFile(t, filepath.Join(folder, "a file"), ""), "1234", ErrLatch)
	if err := os.Mkdir(file+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	token.latched(folder, "1234", ErrLatch)
	if err := os.Remove(file + ".tmp"); err != nil { // the failed login has tried that as well
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if os.Geteuid() != 0 { // who may do everything
		if err := os.Chmod(folder, 0o500); err != nil {
			t.Fatal(err)
		}
		token.latched(folder, "1234", ErrLatch)
		if err := os.Chmod(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	token.reaches(folder, "1234")

	// A record that stays is an error, though the token has accepted the PIN.
	err := newLatch(folder).login(token.info, core.NewSecret([]byte("5678")), func() error {
		return errors.Join(os.Remove(file+latchEnding), os.MkdirAll(filepath.Join(file+latchEnding, "x"), 0o700))
	})
	if !errors.Is(err, ErrLatch) {
		t.Errorf("%v", err)
	}
}

func TestADamagedRecordLetsNoPINPass(t *testing.T) {
	t.Parallel()
	token, folder := newLatchedToken(t), t.TempDir()
	_ = token.login(folder, "1234", cryptoki.ErrPINIncorrect)
	path := newLatch(folder).store(tokenURI(token.info)).name()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decodeLatch(good)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*latchRecord)) []byte {
		c := *r
		c.PINs = append([]pinRecord(nil), r.PINs...)
		change(&c)
		b, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	summed := func(line string) []byte { return fmt.Appendf(nil, "%s\n%x\n", line, sha256.Sum256([]byte(line))) }
	flipped := bytes.Clone(good)
	flipped[bytes.Index(flipped, []byte(`"hash":"`))+10] ^= 1
	for name, b := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-1], "half": good[:len(good)/2], "one bit": flipped, "longer": append(bytes.Clone(good), '\n'),
		"another token": changed(func(c *latchRecord) { c.Token += "x" }), "another format": changed(func(c *latchRecord) { c.Format = 2 }),
		"no PIN": changed(func(c *latchRecord) { c.PINs = nil }), "too many": changed(func(c *latchRecord) { c.PINs = slices.Repeat(c.PINs, maxLatched+1) }),
		"a short hash": changed(func(c *latchRecord) { c.PINs[0].Hash = c.PINs[0].Hash[1:] }), "a short salt": changed(func(c *latchRecord) { c.Salt = nil }),
		"no time": changed(func(c *latchRecord) { c.Time = 0 }), "no threads": changed(func(c *latchRecord) { c.Threads = 0 }), "much memory": changed(func(c *latchRecord) { c.Memory = 1 << 30 }),
		"much time": changed(func(c *latchRecord) { c.Time = 1 << 30 }), "no JSON": summed("x"), "other JSON": summed("{}"),
		"spaces": summed(" " + strings.SplitN(string(good), "\n", 2)[0]),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, pin := range []string{"1234", "5678"} {
			if err := token.latched(folder, pin, ErrLatch); !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if name == "another token" {
			continue
		}
		if list, err := Latched(folder); len(list) != 0 || !errors.Is(err, ErrLatch) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		if err := Unlatch(folder, URI{}); !errors.Is(err, ErrLatch) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	token.latched(folder, "5678", ErrLatch)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, good, 0o600)); err != nil {
		t.Fatal(err)
	}
	token.latched(folder, "1234", ErrPINRejected)
	token.reaches(folder, "5678")
}

func TestAPersonUnlatchesOneToken(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "latch")
	if list, err := Latched(folder); len(list) != 0 || err != nil { // there is none yet
		t.Errorf("%v, %v", list, err)
	}
	one, two := newLatchedToken(t), newLatchedToken(t)
	one.info.Serial, one.info.Label = "", "a\n\xffb" // as no token should
	two.info.Serial = "2"
	_ = one.login(folder, "1234", cryptoki.ErrPINIncorrect)
	_ = one.login(folder, "5678", cryptoki.ErrDeviceError)
	_ = two.login(folder, "1234", cryptoki.ErrPINLocked)

	list, err := Latched(folder)
	texts := map[string]bool{}
	for _, p := range list {
		text, at, _ := strings.Cut(p.String(), ", ")
		texts[p.Token.Serial+": "+text] = strings.HasPrefix(at, "20")
	}
	if err != nil || len(list) != 3 || !texts[": the token refused this PIN (CKR_PIN_INCORRECT"] || !texts["2: the token refused this PIN (CKR_PIN_LOCKED"] ||
		!texts[": the token failed in a login with this PIN and may have refused it (CKR_DEVICE_ERROR"] {
		t.Errorf("%v, %v", texts, err)
	}
	for text, kind := range map[string]error{"pkcs11:": core.ErrInvalid, "pkcs11:token=b": core.ErrNotFound} {
		u, err := ParseURI(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unlatch(folder, u); !errors.Is(err, kind) {
			t.Errorf("%s: %v", text, err)
		}
	}
	one.latched(folder, "1234", ErrPINRejected)
	if err := Unlatch(folder, URI{blank: [4]bool{3: true}}); err != nil {
		t.Error(err)
	}
	one.reaches(folder, "1234")
	one.reaches(folder, "5678")
	two.latched(folder, "1234", ErrPINLocked)
	if err := Unlatch(folder, list[0].Token); len(list) == 3 && list[0].Token.Serial == "" && !errors.Is(err, core.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestWhoGoesThroughPINsIsStopped(t *testing.T) {
	t.Parallel()
	token, folder := newLatchedToken(t), t.TempDir()
	s := newLatch(folder).store(tokenURI(token.info))
	r := newLatchRecord(tokenURI(token.info))
	for i := range maxLatched - 1 {
		hash := sha256.Sum256([]byte{byte(i)})
		r.PINs = append(r.PINs, pinRecord{Hash: hash[:], Refused: true, Result: "CKR_PIN_INCORRECT", At: time.Now().UTC()})
	}
	if err := r.write(s); err != nil {
		t.Fatal(err)
	}
	_ = token.login(folder, "the last", cryptoki.ErrPINIncorrect)
	if token.logins != 1 {
		t.Errorf("%d logins", token.logins)
	}
	if err := token.latched(folder, "one more", ErrPINRejected); !strings.Contains(err.Error(), "32 PINs") {
		t.Errorf("%v", err)
	}
	if b, err := s.read(); err != nil || len(b) > maxLatchFile/2 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func FuzzLatchRecord(f *testing.F) {
	r := newLatchRecord("pkcs11:token=a")
	r.PINs = []pinRecord{{Hash: make([]byte, 32), Refused: true, Result: "CKR_PIN_INCORRECT", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	b, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.SplitN(b, []byte("\n"), 2)[0])
	f.Fuzz(func(t *testing.T, line []byte) {
		b := fmt.Appendf(nil, "%s\n%x\n", line, sha256.Sum256(line))
		r, err := decodeLatch(b)
		if err != nil {
			return
		}
		if again, err := r.encode(); err != nil || !bytes.Equal(again, b) || len(r.PINs) == 0 {
			t.Errorf("%s, %v", again, err)
		}
	})
}
