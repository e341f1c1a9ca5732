// SPDX-License-Identifier: Apache-2.0

package manual

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// An order is the state of an enrolment: what is asked for, and the signature once it is
// there. The request is made of it again each time, always alike.
type order struct {
	subject   e2ei.Subject
	algorithm core.KeyAlgorithm
	public    []byte
	signature []byte // nil: not signed yet
}

// fields are an order as it is kept.
type fields struct {
	Version                 int
	Client, Handle, Display []byte
	Algorithm               string
	Public, Signature       []byte
}

// version of the states: one for each form there was.
const version = 1

func (o order) encode() []byte {
	der, err := asn1.Marshal(fields{
		version, []byte(o.subject.ClientID), []byte(o.subject.Handle), []byte(o.subject.DisplayName),
		string(o.algorithm), o.public, o.signature,
	})
	if err != nil {
		panic(err) // of names of algorithms that are no text, and those were checked
	}
	return der
}

// decode reads a state; core.ErrInvalid: it is none.
func decode(state []byte) (order, error) {
	var f fields
	if _, err := asn1.Unmarshal(state, &f); err != nil {
		return order{}, fmt.Errorf("not a state of this issuer: %w", core.ErrInvalid)
	}
	o := order{
		e2ei.Subject{ClientID: core.ClientID(f.Client), Handle: string(f.Handle), DisplayName: string(f.Display)},
		core.KeyAlgorithm(f.Algorithm), f.Public, nil,
	}
	var err error
	if len(f.Signature) > 0 {
		o.signature = f.Signature
		_, err = o.csr()
	} else {
		_, err = o.message()
	}
	if err != nil {
		return order{}, fmt.Errorf("not a state of this issuer: %w: %w", core.ErrInvalid, err)
	}
	// Of this version, and nothing behind it.
	if !bytes.Equal(o.encode(), state) {
		return order{}, fmt.Errorf("not a state of this issuer: %w", core.ErrInvalid)
	}
	return o, nil
}

// message is what the key has to sign.
func (o order) message() ([]byte, error) {
	request, err := o.request()
	if err != nil {
		return nil, err
	}
	return e2ei.CSRMessage(request, o.algorithm, o.public)
}

// csr is the signed request, in DER.
func (o order) csr() ([]byte, error) {
	request, err := o.request()
	if err != nil {
		return nil, err
	}
	return e2ei.CSR(request, o.algorithm, o.public, o.signature)
}

func (o order) request() (*x509.CertificateRequest, error) {
	name, uris, err := o.subject.Names()
	return &x509.CertificateRequest{Subject: name, URIs: uris}, err
}
