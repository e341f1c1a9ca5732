// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/conclave-mls/conclave/core"
)

// MaxReply is the longest body of a reply, in bytes, that is read. Whoever reads from the
// network may stop one byte after it.
const MaxReply = 1 << 20

// The longest texts that are taken from outside, in bytes.
const (
	maxURL   = 2048
	maxText  = 256     // display name, team
	maxNonce = 1024    // also of a challenge's token
	maxToken = 1 << 16 // access, ID and refresh token
	maxKey   = 256     // an MLS public key; the largest is of P-521, with 133
	maxRef   = 1024
)

// maxValidity is what a certificate is asked for at most.
const maxValidity = 100 * 365 * 24 * time.Hour

// A Config says who enrols where, for which key.
type Config struct {
	ClientID    ClientID
	DisplayName string
	Handle      string        // bare, such as alice_wire
	Team        string        // "" if none
	Validity    time.Duration // of the certificate, cut to whole seconds

	// The MLS signature key: its algorithm, its public half in MLS encoding, and its
	// reference, which is kept for whoever takes up a stashed enrolment.
	Algorithm core.KeyAlgorithm
	PublicKey []byte
	KeyRef    core.KeyRef

	Directory    string      // address of the ACME directory; all others have to be of its origin
	AllowHTTP    bool        // for tests: addresses without TLS
	RefreshToken core.Secret // of the last enrolment, if any; New takes a copy
}

// An Enrollment is the way of one client to one certificate: an ACME order with its own
// account key. It does no input or output: each method ending in Request gives what to send,
// each one ending in Response takes the body of a successful reply. A refused call changes
// nothing. It is not safe for concurrent use.
type Enrollment struct {
	cfg     Config
	handle  Handle
	account core.Secret // P-256 scalar, 32 bytes; zero once dropped

	directory  directory
	accountURL string
	order      order
	device     authorization
	user       authorization
	ready      bool   // the order is checked
	chainURL   string // of the certificate
}

type directory struct{ NewNonce, NewAccount, NewOrder, RevokeCert string }

type order struct {
	url, finalize                string
	authorizations               [2]string
	expires, notBefore, notAfter int64 // Unix seconds; 0: not given
}

type authorization struct {
	from   string // its own address
	url    string // of the challenge
	token  string
	target string
	valid  bool
}

// A Request is to be sent by POST, with the content type application/jose+json. If the
// server answers badNonce, the same call with the new nonce gives the next one.
type Request struct {
	URL  string
	Body []byte
}

// New begins an enrolment and makes its account key. ErrInvalid, ErrHandle, ErrClientID,
// ErrRefreshToken: a name that cannot be; ErrUnsupported: a key that no certificate
// has, such as Ed448; ErrForeignURL: the directory is not an https address.
func New(cfg Config) (*Enrollment, error) {
	e := &Enrollment{cfg: cfg}
	if err := e.check(); err != nil {
		return nil, err
	}
	e.cfg.PublicKey = append([]byte(nil), cfg.PublicKey...)
	e.cfg.RefreshToken = cfg.RefreshToken.Clone()
	e.cfg.Validity = cfg.Validity.Truncate(time.Second)
	var err error
	if e.account, err = newAccountKey(); err != nil {
		return nil, err
	}
	return e, nil
}

// Check judges a configuration that has no key yet, so that a key is made only for what can
// be enrolled. Errors: those of [New].
func (c Config) Check() error {
	e := &Enrollment{cfg: c}
	if err := e.checkNames(); err != nil {
		return err
	}
	if _, err := core.X509PublicKey(c.Algorithm, nil); errors.Is(err, core.ErrUnsupported) {
		return fmt.Errorf("e2ei: MLS key: %w", err)
	}
	return nil
}

// check judges the configuration and sets the handle.
func (e *Enrollment) check() error {
	if err := e.checkNames(); err != nil {
		return err
	}
	if _, err := core.X509PublicKey(e.cfg.Algorithm, e.cfg.PublicKey); err != nil {
		return fmt.Errorf("e2ei: MLS key: %w", err)
	}
	return nil
}

func (e *Enrollment) checkNames() (err error) {
	c := &e.cfg
	if err := c.ClientID.Validate(); err != nil {
		return err
	}
	if e.handle, err = NewHandle(c.Handle, c.ClientID.Domain); err != nil {
		return err
	}
	switch {
	case len(c.DisplayName) > maxText || !validText(c.DisplayName):
		return fmt.Errorf("e2ei: display name of %d bytes: %w", len(c.DisplayName), core.ErrInvalid)
	case len(c.Team) > maxText || !utf8.ValidString(c.Team):
		return fmt.Errorf("e2ei: team of %d bytes: %w", len(c.Team), core.ErrInvalid)
	case c.Validity < time.Second || c.Validity > maxValidity:
		return fmt.Errorf("e2ei: validity of %v: %w", c.Validity, core.ErrInvalid)
	case len(c.PublicKey) > maxKey || len(c.KeyRef) > maxRef:
		return fmt.Errorf("e2ei: key of %d bytes: %w", len(c.PublicKey), core.ErrInvalid)
	case c.RefreshToken.Len() > maxToken:
		return fmt.Errorf("%w: %d bytes", ErrRefreshToken, c.RefreshToken.Len())
	}
	_, err = e.parseURL(c.Directory)
	return err
}

// Config is what the enrolment was begun with, the refresh token as it is now. It shares the
// memory of the enrolment, and must not be changed.
func (e *Enrollment) Config() Config { return e.cfg }

// Wipe drops the account key and the refresh token. Every step then is refused with
// core.ErrClosed. An accepted certificate does it, too.
func (e *Enrollment) Wipe() {
	e.account.Wipe()
	e.account = core.Secret{}
	e.cfg.RefreshToken.Wipe()
	e.cfg.RefreshToken = core.Secret{}
}

// Next says what has to be done next; "" means that there is nothing any more.
func (e *Enrollment) Next() Step {
	if e.account.IsZero() {
		return ""
	}
	for _, s := range []Step{
		StepDirectory, StepNewAccount, StepNewOrder, StepDeviceAuthorization, StepUserAuthorization,
		StepDPoPChallenge, StepOIDCChallenge, StepCheckOrder, StepFinalize,
	} {
		if !e.done(s) {
			return s
		}
	}
	return StepCertificate
}

func (e *Enrollment) done(s Step) bool {
	switch s {
	case StepDirectory:
		return e.directory.NewNonce != ""
	case StepNewAccount:
		return e.accountURL != ""
	case StepNewOrder:
		return e.order.url != ""
	case StepDeviceAuthorization:
		return e.device.url != ""
	case StepUserAuthorization:
		return e.user.url != ""
	case StepDPoPChallenge:
		return e.device.valid
	case StepOIDCChallenge:
		return e.user.valid
	case StepCheckOrder:
		return e.ready
	case StepFinalize:
		return e.chainURL != ""
	}
	return false
}

// need refuses a step whose predecessors, in the order given, are not done.
func (e *Enrollment) need(s Step, before ...Step) error {
	if e.account.IsZero() {
		return &StepError{s, fmt.Errorf("the enrolment is over: %w", core.ErrClosed)}
	}
	for _, b := range before {
		if !e.done(b) {
			return &OutOfOrderError{s, b}
		}
	}
	return nil
}

// parseURL reads an address that is asked without a person's leave.
func (e *Enrollment) parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if len(s) > maxURL || err != nil || u.Host == "" || u.User != nil || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !e.cfg.AllowHTTP) {
		return nil, fmt.Errorf("%w: %.80q", ErrForeignURL, s)
	}
	return u, nil
}

// ownURLs refuses what is not at the ACME server.
func (e *Enrollment) ownURLs(urls ...string) error {
	home, err := e.parseURL(e.cfg.Directory)
	if err != nil {
		return err
	}
	for _, s := range urls {
		u, err := e.parseURL(s)
		if err != nil {
			return err
		}
		if origin(u) != origin(home) {
			return fmt.Errorf("%w: %.80q is not at %.80q", ErrForeignURL, s, home.Host)
		}
	}
	return nil
}

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = u.Scheme
	} else if u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		port = u.Scheme
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + " " + port
}

// decode reads the JSON of a reply.
func decode(body []byte, v any) error {
	if len(body) > MaxReply {
		return fmt.Errorf("reply of %d bytes: %w", len(body), core.ErrTooLarge)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// status judges the status of an object by what each means: nil is good, and one that is not
// in the table is malformed.
func status(object, got string, meaning map[string]error) error {
	err, known := meaning[got]
	if !known {
		err = ErrMalformed
	}
	if err == nil {
		return nil
	}
	return &StatusError{object, cut(got, 80), err}
}
