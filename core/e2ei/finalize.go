// SPDX-License-Identifier: Apache-2.0

package e2ei

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"time"
)

// OrderRequest asks how the order is: before it is finalized for CheckOrderResponse, after it
// for FinalizeResponse.
func (e *Enrollment) OrderRequest(nonce string) (Request, error) {
	const s = StepCheckOrder
	if err := e.need(s, toCheckOrder...); err != nil {
		return Request{}, err
	}
	return e.request(s, e.order.url, nonce, nil)
}

var (
	toCheckOrder = []Step{
		StepDirectory, StepNewAccount, StepNewOrder,
		StepDeviceAuthorization, StepUserAuthorization, StepDPoPChallenge, StepOIDCChallenge,
	}
	toFinalize = append(toCheckOrder[:len(toCheckOrder):len(toCheckOrder)], StepCheckOrder)
)

// CheckOrderResponse takes the order once both challenges are valid. ErrPending: the server
// thinks that one is not; ErrFinalized: it went on already; ErrOrder: it failed.
func (e *Enrollment) CheckOrderResponse(body []byte, now time.Time) error {
	const s = StepCheckOrder
	if err := e.need(s, toCheckOrder...); err != nil {
		return err
	}
	o, err := e.orderReply(body, now, map[string]error{
		"ready": nil, "pending": ErrPending, "processing": ErrFinalized, "valid": ErrFinalized, "invalid": ErrOrder,
	})
	if err == nil {
		err = e.ownURLs(o.Finalize)
	}
	if err != nil {
		return &StepError{s, err}
	}
	e.order.finalize = o.Finalize
	e.order.setTimes(o)
	e.ready = true
	return nil
}

// orderReply reads our order, whose status is judged by what each means.
func (e *Enrollment) orderReply(body []byte, now time.Time, meaning map[string]error) (*acmeOrder, error) {
	o := new(acmeOrder)
	if err := decode(body, o); err != nil {
		return nil, err
	}
	if err := status("order", o.Status, meaning); err != nil {
		return nil, err
	}
	return o, e.checkOrder(o, now)
}

// oidDisplayName stands in a request where a certificate has the common name, which the server
// would take for a DNS name.
var oidDisplayName = asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 3, 1, 241}

// CSRMessage is the part of the certificate signing request (RFC 2986) that the MLS key has
// to sign: hand the signature, in MLS encoding, to FinalizeRequest. It always is the same
// bytes. The private key is with whoever called New.
func (e *Enrollment) CSRMessage() ([]byte, error) {
	const s = StepFinalize
	if err := e.need(s, toFinalize...); err != nil {
		return nil, err
	}
	csr, err := e.csr()
	if err != nil {
		return nil, &StepError{s, err}
	}
	message, err := CSRMessage(csr, e.cfg.Algorithm, e.cfg.PublicKey)
	if err != nil {
		return nil, &StepError{s, err}
	}
	return message, nil
}

// FinalizeRequest sends the certificate signing request. ErrInvalid: the signature is not one
// of the MLS key over CSRMessage.
func (e *Enrollment) FinalizeRequest(signature []byte, nonce string) (Request, error) {
	const s = StepFinalize
	if err := e.need(s, toFinalize...); err != nil {
		return Request{}, err
	}
	csr, err := e.csr()
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	der, err := CSR(csr, e.cfg.Algorithm, e.cfg.PublicKey, signature)
	if err != nil {
		return Request{}, &StepError{s, err}
	}
	return e.request(s, e.order.finalize, nonce, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(der)})
}

func (e *Enrollment) csr() (*x509.CertificateRequest, error) {
	_, uris, err := e.subject().Names()
	if err != nil {
		return nil, err
	}
	text := func(s string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)} }
	return &x509.CertificateRequest{
		Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: oidOrganization, Value: text(e.cfg.ClientID.Domain)},
			{Type: oidDisplayName, Value: text(e.cfg.DisplayName)},
		}},
		URIs: uris,
	}, nil
}

func (e *Enrollment) subject() Subject {
	return Subject{e.cfg.ClientID.Core(), e.cfg.Handle, e.cfg.DisplayName}
}

// FinalizeResponse takes the order after it was finalized: the reply to FinalizeRequest, or
// to a later OrderRequest. ErrProcessing: ask for the order again; ErrPending: it is not
// finalized; ErrOrder: it failed.
func (e *Enrollment) FinalizeResponse(body []byte, now time.Time) error {
	const s = StepFinalize
	// The order may have been finalized before it was checked, by who was interrupted then.
	if err := e.need(s, toCheckOrder...); err != nil {
		return err
	}
	o, err := e.orderReply(body, now, map[string]error{
		"valid": nil, "processing": ErrProcessing, "pending": ErrPending, "ready": ErrPending, "invalid": ErrOrder,
	})
	if err == nil {
		err = e.ownURLs(o.Certificate)
	}
	if err != nil {
		return &StepError{s, err}
	}
	e.order.setTimes(o)
	e.ready, e.chainURL = true, o.Certificate
	return nil
}

// CertificateRequest asks for the certificate.
func (e *Enrollment) CertificateRequest(nonce string) (Request, error) {
	const s = StepCertificate
	if err := e.need(s, toCertificate...); err != nil {
		return Request{}, err
	}
	return e.request(s, e.chainURL, nonce, nil)
}

var toCertificate = append(toFinalize[:len(toFinalize):len(toFinalize)], StepFinalize)
