// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// PROTOCOL.md tells of these, in words: who changes one changes the other.
func TestPageHasTheDefaults(t *testing.T) {
	text, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(text)), " ")
	cfg := Config{Name: "a", Path: "/a", Unpinned: true}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	for words, is := range map[string]bool{
		"The host waits ten seconds for it and for the answer to `Describe`":                         cfg.StartTimeout == 10*time.Second,
		"that of the caller, or 30 seconds":                                                          cfg.CallTimeout == 30*time.Second,
		"calls `Plugin.Describe` every ten seconds":                                                  cfg.Health == 10*time.Second,
		"started again after 100 ms, then 200 ms and so on up to 30 s":                               cfg.Backoff == 100*time.Millisecond && maxBackoff == 30*time.Second,
		"died ten times in a row, none of which was a life of a minute":                              cfg.Restarts == 10 && steady == time.Minute,
		"Two seconds later the host kills its process group":                                         grace == 2*time.Second,
		"Lines over 16 KiB are cut into several; of more than 1000 lines or 256 KiB within a second": maxLine == 16<<10 && maxRecords == 1000 && maxFlood == 256<<10,
		"records of an answer to `Read` | 1,048,576":                                                 maxRecordsRead == 1_048_576,
		"pieces of a bit more than 1 MiB":                                                            wire.Piece == 1<<20,
	} {
		if !is || !strings.Contains(page, words) {
			t.Errorf("PROTOCOL.md: %q is there: %v; is so: %v", words, strings.Contains(page, words), is)
		}
	}
}
