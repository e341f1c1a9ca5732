// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/conclave-mls/conclave/core"
)

// Options of a [Server]. The zero value is good for a Unix socket or a loopback
// address.
type Options struct {
	// TLS is needed to serve on anything but a Unix socket or a loopback address.
	TLS *tls.Config
	// RefuseRepeats answers 409 to a commit that was already accepted, as many
	// delivery services do: for testing clients that have to live with it.
	RefuseRepeats bool
	// Log gets failures of the service; nil is silence.
	Log *slog.Logger
}

// A Server is a delivery service over a keystore. It is an [http.Handler], safe
// for concurrent use. Several servers may share a store, but a long poll does
// not notice what went through another.
type Server struct {
	store   core.Keystore
	options Options
	mux     *http.ServeMux
	locks   [64]sync.Mutex // by scope: who would only get ErrConflict waits
	polls   polls
	closing chan struct{}
	close   sync.Once
}

// New returns a service whose state is in store, which stays the caller's to
// close, after [Server.Close]. Its records are not sealed.
func New(store core.Keystore, options Options) (*Server, error) {
	if store == nil {
		return nil, refuse(CodeInvalid, "no keystore")
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{store: store, options: options, mux: http.NewServeMux(), closing: make(chan struct{})}
	s.mux.HandleFunc("POST /v1/clients", s.answer(s.register))
	s.mux.HandleFunc("POST /v1/key-packages", s.authenticated(s.upload))
	s.mux.HandleFunc("GET /v1/key-packages", s.authenticated(s.count))
	s.mux.HandleFunc("POST /v1/key-packages/claim", s.authenticated(s.claim))
	s.mux.HandleFunc("POST /v1/commits", s.authenticated(s.submitCommit))
	s.mux.HandleFunc("POST /v1/messages", s.authenticated(s.sendMessage))
	s.mux.HandleFunc("GET /v1/groups/{group}/log", s.authenticated(s.readLog))
	s.mux.HandleFunc("POST /v1/groups/{group}/ack", s.authenticated(s.ackLog))
	s.mux.HandleFunc("GET /v1/groups/{group}/info", s.authenticated(s.groupInfo))
	s.mux.HandleFunc("GET /v1/welcomes", s.authenticated(s.readWelcomes))
	s.mux.HandleFunc("DELETE /v1/welcomes/{group}/{seq}", s.authenticated(s.ackWelcome))
	return s, nil
}

// Close ends the long polls: they answer with what there is. It does not close
// the store.
func (s *Server) Close() error {
	s.close.Do(func() { close(s.closing) })
	return nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// answer turns a result or an error into a response.
func (s *Server) answer(h func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		result, err := h(r)
		if err != nil {
			e := asError(err)
			status, result = codes[e.Code].status, errorAnswer{e}
			if status >= 500 && r.Context().Err() == nil {
				s.options.Log.Error("delivery", "path", r.URL.Path, "error", err)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(result) // fails only if the client went away
	}
}

// authenticated answers only to registered clients; nothing of the body is read
// before.
func (s *Server) authenticated(h func(*http.Request, core.ClientID) (any, error)) http.HandlerFunc {
	return s.answer(func(r *http.Request) (any, error) {
		caller, err := s.authenticate(r)
		if err != nil {
			return nil, err
		}
		return h(r, caller)
	})
}

// readBody reads a JSON body of at most limit bytes into v.
func readBody(r *http.Request, limit int64, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, limit))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = errors.New("more than one value")
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return refuse(CodeTooLarge, "a body of more than %d bytes", limit)
	}
	return refuse(CodeInvalid, "body: %v", err)
}

// change decides on the state of a scope and applies the decision, again and
// again while another process wins the race. An empty batch changes nothing.
// What was decided is applied even if the caller has gone away meanwhile.
func (s *Server) change(ctx context.Context, sc scope, decide func() (core.Batch, error)) error {
	lock := &s.locks[int(sc[0])%len(s.locks)]
	lock.Lock()
	defer lock.Unlock()
	for range 20 {
		b, err := decide()
		if err != nil || len(b.Puts) == 0 && len(b.Dels) == 0 {
			return err
		}
		if err = s.store.Apply(context.WithoutCancel(ctx), b); !errors.Is(err, core.ErrConflict) {
			return err
		}
	}
	return refuse(CodeUnavailable, "too many writers")
}
