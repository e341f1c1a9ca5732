// SPDX-License-Identifier: Apache-2.0

package modules

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"go.uber.org/fx"

	"github.com/conclave-mls/conclave/app/config"
	"github.com/conclave-mls/conclave/app/delivery"
	"github.com/conclave-mls/conclave/core"
)

// A Service is a delivery service that answers from start to stop. If it fails
// meanwhile, it shuts the application down and the error is that of the stop.
type Service struct {
	server   *delivery.Server
	config   config.Config
	shutdown fx.Shutdowner
	listener net.Listener
	stop     context.CancelFunc
	served   chan error
}

// DeliveryService is the reference delivery service, at the address of Listen.
func DeliveryService() fx.Option {
	return fx.Module("delivery service", fx.Provide(newService))
}

func newService(c config.Config, store core.Keystore, log *slog.Logger, lc fx.Lifecycle, shutdown fx.Shutdowner) (*Service, error) {
	o := delivery.Options{Log: log}
	if c.Certificate != "" || c.PrivateKey != "" {
		pair, err := tls.LoadX509KeyPair(c.File(c.Certificate), c.File(c.PrivateKey))
		if err != nil {
			return nil, fmt.Errorf("certificate of the delivery service: %w: %w", core.ErrInvalid, err)
		}
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	}
	server, err := delivery.New(store, o)
	if err != nil {
		return nil, err
	}
	s := &Service{server: server, config: c, shutdown: shutdown}
	lc.Append(fx.StartStopHook(s.start, s.close))
	return s, nil
}

func (s *Service) start(ctx context.Context) (err error) {
	address := s.config.Listen
	if strings.HasPrefix(address, "unix:") {
		u, err := s.config.URI(address)
		if err != nil {
			return err
		}
		if address, err = u.File(); err != nil {
			return err
		}
		address = "unix:" + address
	}
	if s.listener, err = delivery.Listen(ctx, address); err != nil {
		return err
	}
	if err := s.server.Admits(s.listener.Addr()); err != nil {
		return errors.Join(err, s.listener.Close())
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.served = make(chan error, 1)
	go func() {
		err := s.server.Serve(ctx, s.listener)
		s.served <- err
		if err != nil {
			_ = s.shutdown.Shutdown(fx.ExitCode(1)) // fails only if nobody waits
		}
	}()
	return nil
}

func (s *Service) close() error {
	s.stop()
	return <-s.served
}

// Address is what a client on this machine puts into its configuration.
func (s *Service) Address() string {
	if s.listener.Addr().Network() == "unix" {
		return config.FileURI("unix", s.listener.Addr().String())
	}
	if s.config.Certificate != "" {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}
