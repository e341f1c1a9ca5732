// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// DirectoryResponse takes the reply to GET of the directory (RFC 8555 section 7.1.1).
func (e *Enrollment) DirectoryResponse(body []byte) error {
	const s = StepDirectory
	if err := e.need(s); err != nil {
		return err
	}
	var d directory
	if err := decode(body, &d); err != nil {
		return &StepError{s, err}
	}
	if err := e.ownURLs(d.NewNonce, d.NewAccount, d.NewOrder, d.RevokeCert); err != nil {
		return &StepError{s, err}
	}
	e.directory = d
	return nil
}

// NonceURL is where HEAD gives a first nonce, in the header Replay-Nonce; each later reply
// brings the next.
func (e *Enrollment) NonceURL() (string, error) {
	if err := e.need(StepNewAccount, StepDirectory); err != nil {
		return "", err
	}
	return e.directory.NewNonce, nil
}

// RevocationURL is where certificates are revoked (RFC 8555 section 7.6).
func (e *Enrollment) RevocationURL() (string, error) {
	if err := e.need(StepNewAccount, StepDirectory); err != nil {
		return "", err
	}
	return e.directory.RevokeCert, nil
}

// NewAccountRequest asks for an account (RFC 8555 section 7.3).
func (e *Enrollment) NewAccountRequest(nonce string) (Request, error) {
	const s = StepNewAccount
	if err := e.need(s, StepDirectory); err != nil {
		return Request{}, err
	}
	if e.done(s) {
		return Request{}, &OutOfOrderError{Step: s}
	}
	return e.request(s, e.directory.NewAccount, nonce, map[string]any{
		"termsOfServiceAgreed": true, "contact": []string{"anonymous@anonymous.invalid"}, "onlyReturnExisting": false,
	})
}

// NewAccountResponse takes the reply and its header Location; without that, the account is
// what stands above its list of orders. ErrAccount: it was closed.
func (e *Enrollment) NewAccountResponse(body []byte, location string) error {
	const s = StepNewAccount
	if err := e.need(s, StepDirectory); err != nil {
		return err
	}
	var account struct{ Status, Orders string }
	if err := decode(body, &account); err != nil {
		return &StepError{s, err}
	}
	if err := status("account", account.Status, map[string]error{"valid": nil, "deactivated": ErrAccount, "revoked": ErrAccount}); err != nil {
		return &StepError{s, err}
	}
	if location == "" {
		above, ok := strings.CutSuffix(account.Orders, "/orders")
		if !ok {
			return &StepError{s, fmt.Errorf("%w: no Location, and orders at %.80q", ErrMalformed, account.Orders)}
		}
		location = above
	}
	if err := e.ownURLs(location, account.Orders); err != nil {
		return &StepError{s, err}
	}
	e.accountURL = location
	return nil
}

// The types of ACME identifiers, and what their values say in JSON.
const (
	identifierDevice = "wireapp-device"
	identifierUser   = "wireapp-user"
)

type identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type identity struct {
	ClientID string `json:"client-id,omitempty"` // of a device
	Handle   string `json:"handle"`
	Name     string `json:"name"`
	Domain   string `json:"domain"`
}

// NewOrderRequest asks for a certificate that is valid from now on (RFC 8555 section 7.4). An
// account has one order: servers keep the answers to challenges with its newest.
func (e *Enrollment) NewOrderRequest(now time.Time, nonce string) (Request, error) {
	const s = StepNewOrder
	if err := e.need(s, StepDirectory, StepNewAccount); err != nil {
		return Request{}, err
	}
	if e.done(s) {
		return Request{}, &OutOfOrderError{Step: s}
	}
	id := identity{"", e.handle.URI(), e.cfg.DisplayName, e.cfg.ClientID.Domain}
	user, err := json.Marshal(id)
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	id.ClientID = e.cfg.ClientID.URI()
	device, err := json.Marshal(id)
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	return e.request(s, e.directory.NewOrder, nonce, map[string]any{
		"identifiers": []identifier{{identifierDevice, string(device)}, {identifierUser, string(user)}},
		"notBefore":   now.UTC().Format(time.RFC3339),
		"notAfter":    now.UTC().Add(e.cfg.Validity).Format(time.RFC3339),
	})
}

// acmeOrder is the JSON of an order (RFC 8555 section 7.1.3).
type acmeOrder struct {
	Status                       string
	Expires, NotBefore, NotAfter time.Time
	Identifiers                  []identifier
	Authorizations               []string
	Finalize, Certificate        string
}

// NewOrderResponse takes the reply and its header Location. ErrOrder: it failed;
// ErrIdentifiers: it is not for what was asked; ErrOrderExpired, ErrOrderEarly: not for now.
func (e *Enrollment) NewOrderResponse(body []byte, location string, now time.Time) error {
	const s = StepNewOrder
	if err := e.need(s, StepDirectory, StepNewAccount); err != nil {
		return err
	}
	if e.done(s) {
		return &OutOfOrderError{Step: s}
	}
	var o acmeOrder
	if err := decode(body, &o); err != nil {
		return &StepError{s, err}
	}
	if err := status("order", o.Status, map[string]error{"pending": nil, "invalid": ErrOrder}); err != nil {
		return &StepError{s, err}
	}
	if err := e.checkOrder(&o, now); err != nil {
		return &StepError{s, err}
	}
	if len(o.Authorizations) != 2 || o.Authorizations[0] == o.Authorizations[1] {
		return &StepError{s, fmt.Errorf("%w: %d authorizations, or one twice", ErrMalformed, len(o.Authorizations))}
	}
	if err := e.ownURLs(location, o.Finalize, o.Authorizations[0], o.Authorizations[1]); err != nil {
		return &StepError{s, err}
	}
	e.order = order{location, o.Finalize, [2]string(o.Authorizations), 0, 0, 0}
	e.order.setTimes(&o)
	return nil
}

func (o *order) setTimes(a *acmeOrder) {
	o.expires, o.notBefore, o.notAfter = unix(a.Expires), unix(a.NotBefore), unix(a.NotAfter)
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// checkOrder says whether an order is for the names that were asked for, and for now.
func (e *Enrollment) checkOrder(o *acmeOrder, now time.Time) error {
	if len(o.Identifiers) != 2 || o.Identifiers[0].Type == o.Identifiers[1].Type {
		return fmt.Errorf("%w: %d, or one twice", ErrIdentifiers, len(o.Identifiers))
	}
	for _, id := range o.Identifiers {
		if err := e.checkIdentifier(id); err != nil {
			return err
		}
	}
	if o.Expires.IsZero() {
		return fmt.Errorf("%w: an order that never expires", ErrMalformed)
	}
	var times order
	times.setTimes(o)
	return times.current(now)
}

func (e *Enrollment) checkIdentifier(id identifier) error {
	if id.Type != identifierDevice && id.Type != identifierUser {
		return fmt.Errorf("%w: type %.80q", ErrIdentifiers, id.Type)
	}
	var v identity
	if err := json.Unmarshal([]byte(id.Value), &v); err != nil {
		return fmt.Errorf("%w: %w", ErrIdentifiers, err)
	}
	if id.Type == identifierDevice {
		if c, err := ParseClientIDURI(v.ClientID); err != nil || c != e.cfg.ClientID {
			return fmt.Errorf("%w: client id %.80q", ErrIdentifiers, v.ClientID)
		}
	} else if v.ClientID != "" {
		return fmt.Errorf("%w: a user with client id %.80q", ErrIdentifiers, v.ClientID)
	}
	if h, err := ParseHandleURI(v.Handle); err != nil || !h.same(e.handle) {
		return fmt.Errorf("%w: handle %.80q", ErrIdentifiers, v.Handle)
	}
	if v.Name != e.cfg.DisplayName || v.Domain != e.cfg.ClientID.Domain {
		return fmt.Errorf("%w: name %.80q, domain %.80q", ErrIdentifiers, v.Name, v.Domain)
	}
	return nil
}

// current compares in whole seconds.
func (o *order) current(now time.Time) error {
	t := now.Unix()
	switch {
	case t > o.expires || o.notAfter != 0 && t > o.notAfter:
		return ErrOrderExpired
	case o.notBefore > t:
		return ErrOrderEarly
	}
	return nil
}
