// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/conclave-mls/conclave/core"
)

// Listen opens a listener for [Server.Serve]: "unix:PATH", which only the user
// who runs the service can connect to, or "HOST:PORT". A socket that a killed
// service left behind is replaced.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return config.Listen(ctx, "tcp", address)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("%s: another service listens there: %w", path, core.ErrConflict)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// loopback says that what is sent to the address does not leave the machine.
func loopback(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// Admits says whether [Server.Serve] may listen there. Without [Options.TLS] any
// address but a Unix socket or a loopback address is ErrDenied: tokens and traffic
// would be there to read.
func (s *Server) Admits(addr net.Addr) error {
	if s.options.TLS == nil && !loopback(addr) {
		return fmt.Errorf("listen on %s without TLS: %w", addr, core.ErrDenied)
	}
	return nil
}

// Serve answers on the listener, which it closes, until the context ends; then
// long polls are answered, calls under way have five seconds, and Serve returns
// nil. ErrDenied: see [Server.Admits].
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.Admits(l.Addr()); err != nil {
		_ = l.Close()
		return err
	}
	if s.options.TLS != nil {
		l = tls.NewListener(l, s.options.TLS)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       (maxWait + 60) * time.Second, // also ends a poll, see net/http
		WriteTimeout:      (maxWait + 60) * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.options.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	_ = s.Close()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(last)
	if err != nil {
		err = errors.Join(err, server.Close())
	}
	<-served
	return err
}
