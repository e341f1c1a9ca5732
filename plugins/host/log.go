// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// maxLine is how much of a plugin's line is one record; what follows is the next.
const maxLine = 16 << 10

// maxRecords and maxFlood are how many lines, and how many bytes of lines, become records
// within a second. The others are counted.
const (
	maxRecords = 1000
	maxFlood   = 256 << 10
)

// lines makes a record of each line that is written to it, by one goroutine. A line of
// slog's JSON keeps its level, text and fields; any other is of level Info.
type lines struct {
	log   *slog.Logger
	rest  []byte
	since time.Time // the begin of a second
	count int       // of lines since then
	size  int       // of these lines, in bytes
	left  int       // of them left out
}

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		part := b[:min(len(b), maxLine-len(l.rest))]
		end := bytes.IndexByte(part, '\n')
		if end >= 0 {
			part = part[:end]
		}
		l.rest = append(l.rest, part...)
		b = b[len(part):]
		if end >= 0 {
			b = b[1:]
		}
		if end >= 0 || len(l.rest) == maxLine {
			l.record()
		}
	}
	return n, nil
}

func (l *lines) record() {
	defer func() { l.rest = l.rest[:0] }()
	if len(l.rest) == 0 || l.flooded() {
		return
	}
	level, text := slog.LevelInfo, string(l.rest)
	var attrs []slog.Attr
	var fields map[string]any
	if json.Unmarshal(l.rest, &fields) == nil {
		name, _ := fields[slog.LevelKey].(string)
		message, ok := fields[slog.MessageKey].(string)
		if ok && level.UnmarshalText([]byte(name)) == nil {
			text, level = message, min(max(level, slog.LevelDebug), slog.LevelError)
			for _, k := range slices.Sorted(maps.Keys(fields)) {
				if k != slog.LevelKey && k != slog.MessageKey && k != slog.TimeKey {
					attrs = append(attrs, slog.Any(wire.Printable(k), printable(fields[k])))
				}
			}
		}
	}
	l.log.LogAttrs(context.Background(), level, wire.Printable(text), slog.GroupAttrs("said", attrs...))
}

// printable makes the value of a field fit for a terminal. Lists and objects are their
// JSON, as text.
func printable(v any) any {
	switch v := v.(type) {
	case string:
		return wire.Printable(v)
	case []any, map[string]any:
		text, _ := json.Marshal(v) // no error: it comes from JSON
		return wire.Printable(string(text))
	}
	return v
}

// flooded says whether there has been too much of late.
func (l *lines) flooded() bool {
	if now := time.Now(); now.Sub(l.since) >= time.Second {
		if l.left > 0 {
			l.log.Warn("plugin writes too much: lines left out", "lines", l.left)
		}
		l.since, l.count, l.size, l.left = now, 0, 0, 0
	}
	l.count++
	l.size += len(l.rest)
	over := l.count > maxRecords || l.size > maxFlood
	if over {
		l.left++
	}
	return over
}
