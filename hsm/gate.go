// SPDX-License-Identifier: Apache-2.0

package hsm

import (
	"context"
	"sync"
	"time"
)

// A gate is between the calls into a module and what must not happen beside one:
// C_Finalize with a call in flight ends the process.
type gate struct {
	mu      sync.Mutex
	inside  int
	shut    chan struct{} // closed when the gate opens again; nil: it is open
	emptied chan struct{} // closed when the last has left; nil: nobody waits for that
}

// enter waits until the gate is open. leave must follow.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.emptied != nil {
		close(g.emptied)
		g.emptied = nil
	}
}

// close lets nobody in any more, and says whether all have left in time. open must
// follow. One caller at a time.
func (g *gate) close(patience time.Duration) bool {
	g.mu.Lock()
	g.shut = make(chan struct{})
	if g.inside == 0 {
		g.mu.Unlock()
		return true
	}
	emptied := make(chan struct{})
	g.emptied = emptied
	g.mu.Unlock()
	select {
	case <-emptied:
		return true
	case <-time.After(patience):
		g.mu.Lock()
		defer g.mu.Unlock()
		g.emptied = nil
		return g.inside == 0
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}
