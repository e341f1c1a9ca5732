// SPDX-License-Identifier: Apache-2.0

package acme

import (
	"crypto/sha256"
	"sync"
)

// grants are the tokens for grants that are good for one time, a code or a refresh token. A
// caller who could not store what came of one calls again with the same, and gets the same.
type grants struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]tokens // by the request for them
}

// maxGrants is how many there are at most.
const maxGrants = 64

func (g *grants) recall(request [sha256.Size]byte) (tokens, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, ok := g.known[request]
	return t, ok
}

func (g *grants) remember(request [sha256.Size]byte, t tokens) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil {
		g.known = map[[sha256.Size]byte]tokens{}
	}
	for other := range g.known {
		if len(g.known) < maxGrants {
			break
		}
		delete(g.known, other)
	}
	g.known[request] = t
}

// forget is for a request whose tokens are stored. It may be nil.
func (g *grants) forget(request []byte) {
	if len(request) != sha256.Size {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.known, [sha256.Size]byte(request))
}

func (g *grants) forgetAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.known)
}
