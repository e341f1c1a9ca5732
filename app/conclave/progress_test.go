// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Progress begins after a while, is told now and then, and is gone before anything
// else is printed.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var terminal strings.Builder
		p := &program{out: &terminal, err: &terminal, progress: progress{on: true, to: &terminal}}
		for i := range 45 { // until 880 ms
			p.progress.at("messages", i, 0)
			time.Sleep(20 * time.Millisecond)
		}
		p.printf("a result\n")
		p.notice("something")
		p.progress.clear()
		line := "\r\x1b[K"
		want := line + "messages: 20" + line + "messages: 25" + line + "messages: 30" + line + "messages: 35" + line + "messages: 40" + line +
			"a result\nconclave: something\n"
		if got := terminal.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		terminal.Reset()
		p.progress.at("conversations", 3, 10)
		if err := p.printJSON(1); err != nil || terminal.String() != line+"conversations: 3 of 10"+line+"1\n" {
			t.Errorf("%q, %v", terminal.String(), err)
		}
		terminal.Reset()
		p.progress.on = false
		time.Sleep(time.Second)
		p.progress.at("conversations", 4, 10)
		if terminal.Len() > 0 {
			t.Errorf("where it is not wanted: %q", terminal.String())
		}
	})
}
