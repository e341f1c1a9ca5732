// SPDX-License-Identifier: Apache-2.0

package host_test

import (
	"slices"
	"testing"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

func TestOffers(t *testing.T) {
	t.Parallel()
	p := launch(t, config("memory+pure+basic+wrapper"))
	one, two := rawKey(0).ID(), rawKey(1).ID()
	want := []host.Offer{
		{Part: host.PartKeystore}, {Part: host.PartCryptoProvider, Imports: true}, {Part: host.PartIssuer},
		{Part: host.PartKeyWrapper, Wrapper: one}, {Part: host.PartKeyWrapper, Instance: "other", Wrapper: two},
	}
	if got := p.Offers(); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if v := p.Version(); v != 1 {
		t.Errorf("version %d", v)
	}
	for part, want := range map[host.Part]string{host.PartKeystore: "keystore", host.PartCryptoProvider: "crypto provider", host.PartIssuer: "issuer", host.PartKeyWrapper: "key wrapper"} {
		if part.String() != want {
			t.Errorf("%s", part)
		}
	}
}

// A plugin that was killed has lost what it had in memory, and is there again.
func TestKill(t *testing.T) {
	t.Parallel()
	p := launch(t, config("memory"))
	store := keystore(t, p)
	if err := store.Apply(t.Context(), core.Batch{Puts: []core.Put{put("a", "1")}}); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	var found int
	again(t, func() error {
		answers, err := store.Read(t.Context(), []core.Query{{Table: 1}})
		if err == nil && len(answers[0]) > 0 {
			return core.ErrUnavailable // the old one, which is dying
		}
		found++
		return err
	})
	if err := p.Close(); err != nil || found == 0 || p.Version() != 0 {
		t.Errorf("%v, %d, version %d", err, found, p.Version())
	}
	p.Kill() // of what is no more
}
