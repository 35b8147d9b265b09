package host_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
)

// While a service stops, it should get no more traffic.
func TestAServiceThatStopsIsNotReady(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	stopping, leave := make(chan struct{}), make(chan struct{})
	svc.Add(part(func(ctx context.Context) error {
		<-ctx.Done()
		close(stopping)
		<-leave
		return nil
	}))
	stop := run(t, svc)
	eventually(t, "ready", func() bool { return svc.Ready(t.Context()) == nil })
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	receive(t, stopping)
	if err := svc.Ready(t.Context()); !errors.Is(err, host.ErrNotRunning) {
		t.Errorf("while it stops: %v", err)
	}
	close(leave)
	must(t, receive(t, ended))
}

// A group whose name is too long is a fault like any other.
func TestAGroupsNameMayBeTooLong(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	group := svc.Group(strings.Repeat("x", 120))
	cqrs.On(group, func(context.Context, orderPlaced) error { return nil })
	if err := svc.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "127") {
		t.Errorf("Run = %v", err)
	}
}

// However long Grace is, requests have it.
func TestGraceMayBeForEver(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{Grace: math.MaxInt64})
	entered, leave := make(chan struct{}), make(chan struct{})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	svc.Add(host.HTTPOn(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		select {
		case <-leave:
			_, _ = io.WriteString(w, "done")
		case <-r.Context().Done():
		}
	})))
	stop := run(t, svc)
	answer := make(chan string, 1)
	go func() { answer <- fetch(t, "http://"+ln.Addr().String()) }()
	receive(t, entered)
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	eventually(t, "no more connections", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(leave)
	if got := receive(t, answer); got != "done" {
		t.Errorf("the request under way got %q", got)
	}
	must(t, receive(t, ended))
}

// A part that panics or ends its goroutine has failed, and the others stop in order.
func TestPartsAreContained(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := open(t, "orders", newDB(t), host.Config{})
			stopped := false
			svc.Add(
				part(func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }),
				part(func(context.Context) error { wrong(); return nil }),
			)
			err := svc.Run(t.Context())
			if !errors.Is(err, cqrs.ErrPanic) || !stopped || !strings.Contains(err.Error(), "part 2 of orders") {
				t.Errorf("Run = %v, stopped %v", err, stopped)
			}
		})
	}
}

// panicky is a transport whose publisher panics at first.
type panicky struct {
	*broker
	calls atomic.Int32
}

func (p *panicky) Publisher() message.Publisher { return panickyEnd{p} }

type panickyEnd struct{ *panicky }

func (p panickyEnd) Publish(topic string, msgs ...*message.Message) error {
	if p.calls.Add(1) == 1 {
		panic("wrong")
	}
	return p.broker.Publisher().Publish(topic, msgs...)
}

func (panickyEnd) Close() error { return nil }

// A publisher that panics leaves nothing behind: TestMain looks for goroutines.
func TestAPublisherThatPanicsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	b := &panicky{broker: newBroker(func(string) {})}
	svc := open(t, "orders", newDB(t), host.Config{Transport: b})
	place(svc)
	stop := run(t, svc)
	_, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	eventually(t, "the event leaves", func() bool { return b.published() == 1 })
	must(t, stop())
}

// lame is a listener that accepts one connection and then fails, once told to.
type lame struct {
	net.Listener
	accepted atomic.Int32
	fail     chan struct{}
}

func (l *lame) Accept() (net.Conn, error) {
	if l.accepted.Add(1) > 1 {
		<-l.fail
		return nil, errBoom
	}
	return l.Listener.Accept()
}

// A server that cannot accept any more lets the requests under way finish before it says so, and the service stops.
func TestHTTPThatFailsLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	inner, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	ln, leave := &lame{Listener: inner, fail: make(chan struct{})}, make(chan struct{})
	var finished atomic.Bool
	svc.Add(
		part(func(ctx context.Context) error {
			<-ctx.Done()
			if !finished.Load() {
				t.Error("the service stops while a request is under way")
			}
			return nil
		}),
		host.HTTPOn(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(ln.fail)
			<-leave
			_, _ = io.WriteString(w, "done")
			finished.Store(true)
		})),
	)
	answer := make(chan string, 1)
	go func() { answer <- fetch(t, "http://"+inner.Addr().String()) }()
	time.AfterFunc(200*time.Millisecond, func() { close(leave) })
	if err := svc.Run(t.Context()); !errors.Is(err, errBoom) {
		t.Errorf("Run = %v", err)
	}
	if got := receive(t, answer); got != "done" {
		t.Errorf("the request under way got %q", got)
	}
}
