package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// HTTP is a Part that listens on addr (TCP, "host:port") when it runs and serves h until ctx ends; then it accepts
// no more and lets requests finish for the larger part of [Config.Grace]. An address that is taken is Run's error.
// Headers must come within 10 s; other timeouts are the handler's to set.
func HTTP(addr string, h http.Handler) Part {
	return &server{handler: h, listen: func(ctx context.Context) (net.Listener, error) {
		return new(net.ListenConfig).Listen(ctx, "tcp", addr)
	}}
}

// HTTPOn is [HTTP] on a listener that is open already, whose address is therefore known: for port 0, sockets of
// systemd, tests. Run closes it.
func HTTPOn(ln net.Listener, h http.Handler) Part {
	return &server{handler: h, listen: func(context.Context) (net.Listener, error) { return ln, nil }}
}

type server struct {
	handler http.Handler
	listen  func(context.Context) (net.Listener, error)
}

// Run serves until ctx ends.
func (s *server) Run(ctx context.Context) error {
	if s.handler == nil {
		return errors.New("host: HTTP needs a handler")
	}
	ln, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("host: %w", err)
	}
	srv := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("host: serve %s: %w", ln.Addr(), err), stopServer(ctx, srv))
	case <-ctx.Done():
	}
	err = stopServer(ctx, srv)
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

func stopServer(ctx context.Context, srv *http.Server) error {
	if errors.Is(context.Cause(ctx), ErrKilled) {
		return srv.Close()
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceOf(ctx)-graceOf(ctx)/5)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close()
		return fmt.Errorf("host: requests were cut off: %w", err)
	}
	return nil
}
