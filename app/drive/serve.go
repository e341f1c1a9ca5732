// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"time"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
)

// MaxRequest is how long a line may be, in bytes.
const MaxRequest = 16 << 20

// Options of [Serve].
type Options struct {
	// Config names the parts of an instance: Crypto, and Keystore and Key of those
	// that do not bring their own.
	Config config.Config
	// Parts add to the application that an instance is, or replace what is in it.
	Parts []fx.Option
	// Log is where the log goes; nil: nowhere.
	Log io.Writer
	// Crash ends the process at once, for a transport of the kind "crash". It does
	// not return. Nil: such a request is refused.
	Crash func()
}

// Serve answers the requests of in on out, one after another, until in ends or the
// context does, and then closes all instances. A line that is no request gets a reply
// that says so. The error is that of in, of out, or of an instance that could not be
// closed. It does not close in: a read of it may still be under way when the context
// has ended.
func Serve(ctx context.Context, in io.Reader, out io.Writer, o Options) (err error) {
	e := newEngine(o, out)
	defer func() { err = errors.Join(err, e.close(context.WithoutCancel(ctx))) }()
	if err := e.send(map[string]any{"ready": true, "version": buildVersion()}); err != nil {
		return err
	}
	lines := make(chan frame)
	go func() {
		defer close(lines)
		for r := bufio.NewReader(in); ; {
			line := readFrame(r)
			select {
			case lines <- line:
			case <-ctx.Done():
				return
			}
			if line.err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case line := <-lines:
			if err := e.answer(ctx, line); err != nil {
				return err
			}
			if errors.Is(line.err, io.EOF) {
				return nil
			} else if line.err != nil {
				return fmt.Errorf("requests: %w", line.err)
			}
		}
	}
}

// A frame is a line without its end.
type frame struct {
	line    []byte
	tooLong bool
	err     error // after the line
}

// readFrame reads a line. What is beyond MaxRequest is read and thrown away.
func readFrame(r *bufio.Reader) (f frame) {
	for {
		part, err := r.ReadSlice('\n')
		if f.tooLong = f.tooLong || len(f.line)+len(part) > MaxRequest; f.tooLong {
			f.line = nil
		} else {
			f.line = append(f.line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			f.err = err
			return f
		}
	}
}

// An engine is one run of Serve.
type engine struct {
	options   Options
	out       io.Writer
	level     slog.LevelVar
	log       *slog.Logger
	instances map[string]*instance
}

func newEngine(o Options, out io.Writer) *engine {
	if o.Log == nil {
		o.Log = io.Discard
	}
	e := &engine{options: o, out: out, instances: map[string]*instance{}}
	e.level.Set(slog.LevelWarn)
	e.log = slog.New(slog.NewTextHandler(o.Log, &slog.HandlerOptions{Level: &e.level}))
	return e
}

func (e *engine) close(ctx context.Context) error {
	var errs []error
	for _, i := range e.instances {
		errs = append(errs, i.close(ctx))
	}
	return errors.Join(errs...)
}

// send writes one line.
func (e *engine) send(v any) error {
	var b bytes.Buffer
	j := json.NewEncoder(&b)
	j.SetEscapeHTML(false)
	if err := j.Encode(v); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if _, err := e.out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return nil
}

// answer replies to a line; an empty one gets no reply.
func (e *engine) answer(ctx context.Context, f frame) error {
	if !f.tooLong && len(bytes.TrimSpace(f.line)) == 0 {
		return nil
	}
	r, err := parse(f)
	if err != nil {
		return e.send(reply{ID: r.ID, Error: describe(r.Command, err)})
	}
	begin := time.Now()
	done, err := e.run(ctx, r)
	if err != nil {
		failed := describe(r.Command, err)
		if failed.Bundles = r.bundles; failed.Kind == alreadyExists {
			failed.Detail = result{"conversationId": r.Conversation}
		}
		return e.send(reply{ID: r.ID, Error: failed})
	}
	took := math.Round(float64(time.Since(begin).Nanoseconds())) / 1000
	return e.send(reply{ID: r.ID, OK: true, Result: r.with(done), Micros: &took})
}

// A reply is a line of the output.
type reply struct {
	ID      json.RawMessage `json:"id,omitempty"`
	OK      bool            `json:"ok"`
	Crashed bool            `json:"crashed,omitempty"`
	Result  result          `json:"result,omitempty"`
	Error   *failure        `json:"error,omitempty"`
	Micros  *float64        `json:"us,omitempty"`
}

// A result has the fields of a reply; bytes are base64 in it.
type result map[string]any

// run finds the command of a request and runs it.
func (e *engine) run(ctx context.Context, r *request) (result, error) {
	c, ok := byName[r.Command]
	switch {
	case !ok:
		return nil, bad("unknown command %s", r.Command)
	case r.Transport.Kind == crash && e.options.Crash == nil:
		return nil, bad("transport: nothing here can crash")
	}
	if c.instance == nil {
		return c.engine(ctx, e, r)
	}
	i, err := e.instance(r)
	if err != nil {
		return nil, err
	}
	i.transport.request = r
	defer func() { i.transport.request = nil }()
	return c.instance(ctx, i, r)
}
