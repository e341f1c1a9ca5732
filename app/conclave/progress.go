// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// A progress is a line on the terminal that says how far long work is. It begins
// when the work has taken a while, and goes before anything else is printed.
type progress struct {
	on bool
	to io.Writer

	mu    sync.Mutex
	last  time.Time
	shown bool
}

const (
	progressAfter = 400 * time.Millisecond
	progressEvery = 100 * time.Millisecond
)

// at tells that so many of a total are done, 0 if nobody knows how many there are.
func (p *progress) at(what string, done, total int) {
	if !p.on {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.last.IsZero() {
		p.last = now.Add(progressAfter - progressEvery)
	}
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last, p.shown = now, true
	_, _ = fmt.Fprintf(p.to, "\r\x1b[K%s: %d", what, done)
	if total > 0 {
		_, _ = fmt.Fprintf(p.to, " of %d", total)
	}
}

// clear takes the line away.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		p.shown = false
		_, _ = io.WriteString(p.to, "\r\x1b[K")
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
