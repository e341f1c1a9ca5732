// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Whatever a plugin writes, in whatever pieces: printable texts that are no longer than
// a line may be, and nothing that is not the plugin's.
func FuzzLines(f *testing.F) {
	f.Add([]byte("plain\n\n{\"level\":\"WARN\",\"msg\":\"a\\u001b[31m\",\"n\":7}\nno end"), 3)
	f.Add([]byte("{\"level\":\"ERROR+2\",\"msg\":\"x\",\"said\":{\"plugin\":null},\"time\":1}\n"), 100)
	f.Add([]byte("{\"level\":7,\"msg\":\"x\"}\n{\"msg\":\"x\",\"level\":\"INFO\",\"\":[[[{}]]]}\n\x1b[2J\r\n"), 1)
	f.Add([]byte(`{"level":"INFO-9","msg":"x","a\u001b[2J":"b\u001b[31m\n","c":["\u009b"],"d":{"e":null},"f":1.5,"g":true}`+"\n"), 7)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		var out bytes.Buffer
		l := &lines{log: slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 100}))}
		for rest := b; len(rest) > 0; {
			n := min(max(piece, 1), len(rest))
			if got, err := l.Write(rest[:n]); got != n || err != nil {
				t.Fatal(got, err)
			}
			rest = rest[n:]
		}
		if len(l.rest) >= maxLine {
			t.Errorf("%d bytes are kept", len(l.rest))
		}
		for d := json.NewDecoder(&out); d.More(); {
			var rec map[string]any
			if err := d.Decode(&rec); err != nil {
				t.Fatal(err)
			}
			text, _ := rec["msg"].(string)
			if text != wire.Printable(text) || len(text) > 3*maxLine {
				t.Errorf("text of %d bytes: %.40q", len(text), text)
			}
			var level slog.Level
			name, _ := rec["level"].(string)
			if err := level.UnmarshalText([]byte(name)); err != nil || level < slog.LevelDebug || level > slog.LevelError {
				t.Errorf("level %q", name)
			}
			said, _ := rec["said"].(map[string]any)
			for key, v := range said {
				switch v.(type) {
				case []any, map[string]any:
					t.Errorf("the field %q is %v", key, v)
				}
				if value := fmt.Sprint(v); key != wire.Printable(key) || value != wire.Printable(value) {
					t.Errorf("the field %.40q is %.40q", key, value)
				}
			}
			for key := range rec {
				if key != "time" && key != "level" && key != "msg" && key != "said" {
					t.Errorf("a field of ours: %q", key)
				}
			}
		}
	})
}

// What is written within a second after the first lines is counted alone.
func TestFloodOfLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := &lines{log: slog.New(slog.NewTextHandler(&out, nil))}
		write := func(n int) {
			if _, err := l.Write([]byte(strings.Repeat("line\n", n))); err != nil {
				t.Fatal(err)
			}
		}
		write(maxRecords + 7)
		if got := strings.Count(out.String(), "msg=line"); got != maxRecords {
			t.Errorf("%d records, want %d", got, maxRecords)
		}
		time.Sleep(time.Second)
		out.Reset()
		write(2)
		if got := strings.Count(out.String(), "msg=line"); got != 2 || !strings.Contains(out.String(), "lines=7") {
			t.Errorf("later: %s", &out)
		}
		time.Sleep(time.Second)
		out.Reset()
		line := strings.Repeat("x", maxLine)
		for range maxFlood/maxLine + 3 {
			if _, err := l.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Count(out.String(), line); got != maxFlood/maxLine {
			t.Errorf("%d long records, want %d", got, maxFlood/maxLine)
		}
		time.Sleep(time.Second)
		out.Reset()
		write(1)
		if !strings.Contains(out.String(), "lines=3") {
			t.Errorf("after long ones: %s", &out)
		}
		time.Sleep(time.Second)
		out.Reset()
		write(1)
		if strings.Contains(out.String(), "left out") {
			t.Errorf("nothing was left out: %s", &out)
		}
	})
}
