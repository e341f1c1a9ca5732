// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"

	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Parts are what a plugin may offer.
const (
	PartKeystore       Part = Part(wire.Part_PART_KEYSTORE)
	PartCryptoProvider Part = Part(wire.Part_PART_CRYPTO_PROVIDER)
	PartIssuer         Part = Part(wire.Part_PART_CREDENTIAL_ISSUER)
	PartKeyWrapper     Part = Part(wire.Part_PART_KEY_WRAPPER)
)

// A Part is one of the interfaces of core.
type Part int32

func (p Part) String() string {
	return map[Part]string{
		PartKeystore: "keystore", PartCryptoProvider: "crypto provider", PartIssuer: "issuer", PartKeyWrapper: "key wrapper",
	}[p]
}

// An Offer is one instance of a part that a plugin has.
type Offer struct {
	Part     Part
	Instance string // "" is the unnamed one
	Wrapper  string // the ID of a key wrapper
	// What a crypto provider can do besides.
	Deletes, Imports, Attests bool
}

// Offers are all that the plugin has, in its order.
func (p *Plugin) Offers() []Offer {
	var all []Offer
	for _, o := range p.offers {
		offer := Offer{Part: Part(o.GetPart()), Instance: o.GetInstance(), Wrapper: o.GetWrapperId()}
		for _, f := range o.GetFeatures() {
			offer.Deletes = offer.Deletes || f == wire.Feature_FEATURE_DELETE_KEY
			offer.Imports = offer.Imports || f == wire.Feature_FEATURE_IMPORT_KEY
			offer.Attests = offer.Attests || f == wire.Feature_FEATURE_ATTEST_KEY
		}
		all = append(all, offer)
	}
	return all
}

// Version is that of the protocol which host and plugin speak; 0 if the plugin is down.
func (p *Plugin) Version() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0
	}
	return p.running.client.NegotiatedVersion()
}

// Kill ends the process of the plugin at once, as a crash would: it is for examining what
// comes then. The plugin is started again, see [Config].
func (p *Plugin) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		_ = p.running.child.Kill(context.Background()) // an error says that it is dead
	}
}
