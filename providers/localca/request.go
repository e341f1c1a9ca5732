// SPDX-License-Identifier: Apache-2.0

package localca

import (
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/e2ei"
)

// A request is the state of an enrolment: all that is to be certified, and when it was
// asked for. Behind it is a code that only the issuer can make: somebody else keeps the
// state, and whoever let it begin has seen the client id that was in it then.
type request struct {
	Action    int
	Client    []byte
	Handle    []byte
	Display   []byte
	Algorithm string
	Public    []byte
	Begun     int64  // Unix seconds
	Nonce     []byte // no two enrolments sign the same
}

// patience is how long a state is good for.
const patience = time.Hour

var signatures = map[core.KeyAlgorithm]x509.SignatureAlgorithm{
	core.Ed25519: x509.PureEd25519, core.ECDSAP256: x509.ECDSAWithSHA256,
	core.ECDSAP384: x509.ECDSAWithSHA384, core.ECDSAP521: x509.ECDSAWithSHA512,
}

// check gives the key of a request that may be granted.
func (r request) check() (crypto.PublicKey, error) {
	if !slices.Contains(algorithms, core.KeyAlgorithm(r.Algorithm)) {
		return nil, fmt.Errorf("algorithm %q: %w", r.Algorithm, core.ErrUnsupported)
	}
	if _, _, err := r.subject().Names(); err != nil {
		return nil, err
	}
	return core.X509PublicKey(core.KeyAlgorithm(r.Algorithm), r.Public)
}

func (r request) subject() e2ei.Subject {
	return e2ei.Subject{ClientID: core.ClientID(r.Client), Handle: string(r.Handle), DisplayName: string(r.Display)}
}

func (i *Issuer) encode(r request) ([]byte, error) {
	der, err := asn1.Marshal(r)
	return append(der, i.code(der)...), err
}

// errOver: the state is a request, and not, or not any more, one of this issuer.
var errOver = errors.New("this was begun too long ago, or before a restart: begin again")

func (i *Issuer) decode(state []byte) (r request, public crypto.PublicKey, err error) {
	at := max(0, len(state)-sha256.Size)
	if _, err := asn1.Unmarshal(state[:at], &r); err != nil {
		return r, nil, errors.New("not a state of an issuer of this kind")
	}
	if !hmac.Equal(state[at:], i.code(state[:at])) || time.Since(time.Unix(r.Begun, 0)).Abs() > patience {
		return r, nil, errOver
	}
	public, err = r.check()
	return r, public, err
}

// code authenticates a request, to this CA as well: two may have one state key.
func (i *Issuer) code(der []byte) []byte {
	h := hmac.New(sha256.New, i.stateKey.Bytes())
	h.Write(i.challenge(der))
	return h.Sum(nil)
}

// challenge is what the key to be certified signs: this state, to this CA. Nothing that
// MLS signs begins so, which is a length and "MLS 1.0 " (RFC 9420 section 5.1.2).
func (i *Issuer) challenge(state []byte) []byte {
	ca := sha256.Sum256(i.chain[0].RawSubjectPublicKeyInfo)
	return slices.Concat([]byte("Conclave localca certificate request 3\x00"), ca[:], state)
}
