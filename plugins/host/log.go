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

// maxRecords is how many lines become records within a second. The others are counted.
const maxRecords = 1000

// lines makes a record of each line that is written to it, by one goroutine. A line of
// slog's JSON keeps its level, text and fields; any other is of level Info.
type lines struct {
	log   *slog.Logger
	rest  []byte
	since time.Time // the begin of a second
	count int       // of lines since then
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
			text = message
			for _, k := range slices.Sorted(maps.Keys(fields)) {
				if k != slog.LevelKey && k != slog.MessageKey && k != slog.TimeKey {
					attrs = append(attrs, slog.Any(k, fields[k]))
				}
			}
		}
	}
	l.log.LogAttrs(context.Background(), level, wire.Printable(text), slog.GroupAttrs("said", attrs...))
}

// flooded says whether there have been too many lines of late.
func (l *lines) flooded() bool {
	if now := time.Now(); now.Sub(l.since) >= time.Second {
		if l.count > maxRecords {
			l.log.Warn("plugin writes too much: lines left out", "lines", l.count-maxRecords)
		}
		l.since, l.count = now, 0
	}
	l.count++
	return l.count > maxRecords
}
