// SPDX-License-Identifier: Apache-2.0

package mls

import (
	"context"

	"github.com/conclave-mls/conclave/core"
)

type pskSecretVector struct {
	Suite core.SuiteID `json:"cipher_suite"`
	PSKs  []struct {
		ID    hexBytes `json:"psk_id"`
		PSK   hexBytes `json:"psk"`
		Nonce hexBytes `json:"psk_nonce"`
		// How others name the same fields.
		OtherID    hexBytes `json:"id"`
		OtherNonce hexBytes `json:"nonce"`
	} `json:"psks"`
	PSKSecret hexBytes `json:"psk_secret"`
}

func runPSKSecret(_ context.Context, env *vectorEnv, v *pskSecretVector) error {
	suite, err := env.suite(v.Suite)
	if err != nil {
		return err
	}
	var psks []PSK
	for _, p := range v.PSKs {
		id := PreSharedKeyID{Type: PSKExternal, ID: append(p.ID, p.OtherID...), Nonce: append(p.Nonce, p.OtherNonce...)}
		psks = append(psks, PSK{ID: id, Secret: p.PSK.secret()})
	}
	secret, err := pskSecret(suite, psks)
	return sameSecret("psk_secret", secret, err, v.PSKSecret)
}
