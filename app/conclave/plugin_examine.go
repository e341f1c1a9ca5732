// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/conclave-mls/conclave/app/modules"
	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/host"
)

// An examined plugin is one that was looked at, up to the first thing that is wrong.
type examined struct {
	name    string
	path    string // of its executable
	sum     string // of that, in hexadecimal digits
	step    string // what is wrong: "place", "checksum", "start"; else ""
	err     error
	version int
	offers  []host.Offer
	said    []string
	given   bool // by its path: it is in no configuration
}

// Steps of an examination.
const (
	stepPlace    = "place"
	stepChecksum = "checksum"
	stepStart    = "start"
)

// examine starts a plugin, if it may be, and stops it again. The error is that of finding it.
func examine(ctx context.Context, cfg host.Config, err error) (e examined) {
	e.name, e.path = cfg.Name, cfg.Path
	if err == nil {
		err = host.Check(cfg.Path)
	}
	if err != nil {
		e.step, e.err = stepPlace, err
		return e
	}
	sum, err := host.Sum(cfg.Path)
	if e.sum = hex.EncodeToString(sum); err != nil {
		e.step, e.err = stepPlace, err
		return e
	}
	if !cfg.Unpinned && !bytes.Equal(sum, cfg.SHA256) {
		e.step = stepChecksum
		e.err = fmt.Errorf("its sha256 is %s, and %s says %x: %w", e.sum, configName, cfg.SHA256, core.ErrDenied)
		return e
	}
	var words said
	cfg.Logger = slog.New(words.handler())
	plugin, err := host.Launch(ctx, cfg)
	if err == nil {
		e.version, e.offers = plugin.Version(), plugin.Offers()
		err = plugin.Close()
	}
	if e.said = words.take(); err != nil {
		e.step, e.err = stepStart, err
	}
	return e
}

// do is what a person can do about what is wrong.
func (e examined) do() string {
	switch {
	case e.err == nil:
		return ""
	case e.step == stepPlace && errors.Is(e.err, core.ErrNotFound) && e.given:
		return "give the PATH of the program, or a NAME: conclave plugin list has those that there are"
	case e.step == stepPlace && errors.Is(e.err, core.ErrNotFound):
		return fmt.Sprintf("put it there, or say in [plugin.%s] of %s where it is: path = \"...\"", e.name, configName)
	case e.step == stepPlace && !errors.Is(e.err, core.ErrDenied):
		return "give yourself access to it"
	case e.step == stepPlace:
		return "it has to be an executable file (chmod 700) of your own or of root's, and nobody else may be able to put another one in its place"
	case e.step == stepChecksum:
		return fmt.Sprintf("if you have replaced it, and trust the new one: sha256 = %q in [plugin.%s] of %s. If you have not, find out who did", e.sum, e.name, configName)
	case errors.Is(e.err, core.ErrUnsupported):
		return versionsDiffer
	case e.given:
		return "is it a plugin of Conclave? If it needs something: --env NAME=VALUE, or ARGS after --"
	case len(e.said) == 0:
		return "it says nothing of its own; is it a plugin of Conclave, and is all it needs in args and env of its table?"
	}
	return "its own words are above; is all it needs in args and env of its table?"
}

const versionsDiffer = "one of the two is too old: get a newer plugin, or a newer conclave"

// pluginHint is for what a plugin of the configuration does not do.
func pluginHint(err error) string {
	if e := (*modules.PluginError)(nil); errors.As(err, &e) {
		switch {
		case errors.Is(err, core.ErrUnsupported):
			return versionsDiffer
		case errors.Is(err, core.ErrNotFound):
			return "conclave plugin list shows the plugins that there are, and what each offers"
		case errors.Is(err, core.ErrDenied):
			return "it was not started: conclave plugin verify " + e.Name + " says what to do. If you have not replaced it, find out who did"
		}
		return "conclave plugin verify " + e.Name + " shows what the plugin itself says; nothing else takes its place"
	}
	e := (*core.ProviderError)(nil)
	if !errors.As(err, &e) {
		return ""
	}
	name, ok := strings.CutPrefix(e.Provider, "plugin ")
	switch {
	case !ok:
		return ""
	case errors.Is(err, core.ErrUnavailable):
		return "the plugin died, or what it needs is not there: run the command again; conclave plugin verify " + name + " shows what it says"
	case errors.Is(err, core.ErrDenied) && e.Op == "open key":
		return "this signature key is in another plugin, or in another instance of this one, which the message names"
	}
	return ""
}

// offered says what a plugin has.
func offered(o host.Offer) string {
	text := o.Part.String()
	if o.Instance != "" {
		text += " /" + o.Instance
	}
	var also []string
	for _, f := range []struct {
		has  bool
		what string
	}{{o.Deletes, "deletes keys"}, {o.Imports, "imports keys"}, {o.Attests, "attests keys"}, {o.Wrapper != "", o.Wrapper}} {
		if f.has {
			also = append(also, f.what)
		}
	}
	if len(also) > 0 {
		text += " (" + strings.Join(also, ", ") + ")"
	}
	return text
}

func allOffered(offers []host.Offer) string {
	var all []string
	for _, o := range offers {
		all = append(all, offered(o))
	}
	return strings.Join(all, ", ")
}

// offerJSON is an offer for programs.
type offerJSON struct {
	Part     string   `json:"part"`
	Instance string   `json:"instance,omitempty"`
	Wrapper  string   `json:"wrapper,omitempty"`
	Features []string `json:"features,omitempty"`
}

func offersJSON(offers []host.Offer) (all []offerJSON) {
	for _, o := range offers {
		j := offerJSON{Part: o.Part.String(), Instance: o.Instance, Wrapper: o.Wrapper}
		for _, f := range []struct {
			has  bool
			name string
		}{{o.Deletes, "delete"}, {o.Imports, "import"}, {o.Attests, "attest"}} {
			if f.has {
				j.Features = append(j.Features, f.name)
			}
		}
		all = append(all, j)
	}
	return all
}

// said keeps the last lines that a plugin wrote, and what its host says of it.
type said struct {
	mu    sync.Mutex
	lines []string
}

const (
	saidLines = 20
	saidBytes = 500 // of a line
)

func (s *said) handler() slog.Handler {
	return slog.NewTextHandler(s, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == "plugin") {
			return slog.Attr{}
		}
		return a
	}})
}

// Write takes a line.
func (s *said) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := plain(strings.TrimSuffix(string(line[:min(len(line), saidBytes)]), "\n"))
	if strings.Contains(text, ` msg="plugin is not pinned`) { // by the host, of all that are examined before they have a pin
		return len(line), nil
	}
	if s.lines = append(s.lines, text); len(s.lines) > saidLines {
		s.lines = slices.Delete(s.lines, 0, 1)
	}
	return len(line), nil
}

// take gives the lines, and begins anew.
func (s *said) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	return lines
}
