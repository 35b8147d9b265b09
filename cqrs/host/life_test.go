package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
)

// Over a broker, what the groups send while they drain still leaves.
func TestStopOrderOverABroker(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var trace []string
	note := func(what string) { mu.Lock(); defer mu.Unlock(); trace = append(trace, what) }
	b := newBroker(note)
	svc := open(t, "orders", newDB(t), host.Config{Transport: b})
	place(svc)
	entered, leave := make(chan struct{}), make(chan struct{})
	cqrs.On(svc.Processor, func(ctx context.Context, _ orderPlaced) error {
		close(entered)
		<-leave
		return svc.Sender.Send(ctx, pack{"late"})
	})
	for _, name := range []string{"first", "second"} {
		svc.Add(part(func(ctx context.Context) error {
			<-ctx.Done()
			note(name)
			return nil
		}))
	}
	_, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: "o-1"})
	must(t, err)
	stop := run(t, svc)
	receive(t, entered)
	go func() {
		eventually(t, "parts have stopped", func() bool { mu.Lock(); defer mu.Unlock(); return len(trace) == 2 })
		close(leave)
	}()
	must(t, stop())
	if want := []string{"second", "first", "group closed"}; !slices.Equal(trace, want) {
		t.Errorf("stopped %q, want %q", trace, want)
	}
	if b.published() != 2 {
		t.Errorf("%d messages left, the last one stayed behind", b.published())
	}
}

// Over the in-process bus a stop under load is prompt, and what is left behind is delivered after the next start.
func TestStopUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	bus := localbus.New(localbus.Config{Discard: true})
	cfg := host.Config{Transport: bus, Grace: 30 * time.Second} // on a busy machine, all of it may be needed
	orders := open(t, "orders", newDB(t), cfg)
	place(orders)
	stock := open(t, "stock", newDB(t), cfg)
	told := watch(stock.Processor)
	const n = 2000
	var callers sync.WaitGroup
	for c := range 20 {
		callers.Go(func() {
			for i := range n / 20 {
				if _, err := cqrs.Execute(t.Context(), orders.Processor, placeOrder{ID: fmt.Sprint(c, "-", i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := run(t, orders, stock)
	receive(t, told)
	began := time.Now()
	must(t, stop())
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the stop took %v", took)
	}
	callers.Wait()
	stop = run(t, orders, stock)
	eventually(t, "all events are handled", func() bool {
		var rows int64
		must(t, stock.DB().Model(&seen{}).Count(&rows).Error)
		return rows == n
	})
	must(t, stop())
	must(t, bus.Close())
	var doubled int64
	must(t, stock.DB().Model(&seen{}).Where("n<>1").Count(&doubled).Error)
	if doubled != 0 {
		t.Errorf("%d events were handled twice", doubled)
	}
}

func TestAFailingPartStopsTheService(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	stopped := false
	svc.Add(
		part(func(ctx context.Context) error { <-ctx.Done(); stopped = true; return ctx.Err() }),
		part(func(context.Context) error { return nil }), // a job that is done is no reason to stop
		part(func(context.Context) error { return errBoom }),
	)
	err := svc.Run(t.Context())
	if !errors.Is(err, errBoom) || errors.Is(err, context.Canceled) || !stopped ||
		!strings.Contains(err.Error(), "part 3 of orders") {
		t.Fatalf("Run = %v, stopped %v", err, stopped)
	}
}

// A cancellation is what was asked for; what else went wrong while a part stopped is not.
func TestAStopHidesOnlyCancellations(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		said bool
	}{
		"canceled":              {context.Canceled, false},
		"wrapped":               {fmt.Errorf("part: %w", context.Canceled), false},
		"all joined":            {errors.Join(context.Canceled, fmt.Errorf("part: %w", context.Canceled)), false},
		"joined with another":   {errors.Join(cqrs.ErrHung, context.Canceled), true},
		"wrapped, with another": {fmt.Errorf("part: %w", errors.Join(context.Canceled, errBoom)), true},
		"another":               {errBoom, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := open(t, "orders", newDB(t), host.Config{})
			running := make(chan struct{})
			svc.Add(part(func(ctx context.Context) error { close(running); <-ctx.Done(); return test.err }))
			stop := run(t, svc)
			receive(t, running)
			if err := stop(); (err != nil) != test.said || test.said && !errors.Is(err, test.err) {
				t.Errorf("Run = %v", err)
			}
		})
	}
}

// A part that gives up by itself has failed, also if it says that something of its own was canceled.
func TestACancellationThatNobodyAskedForIsAFailure(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	svc.Add(part(func(context.Context) error { return fmt.Errorf("watch: %w", context.Canceled) }))
	if err := svc.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "part 1 of orders") {
		t.Errorf("Run = %v", err)
	}
}

func TestWhatDoesNotStopIsNamed(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{Grace: 100 * time.Millisecond})
	stubborn := make(chan struct{})
	defer close(stubborn)
	svc.Add(part(func(context.Context) error { <-stubborn; return nil }))
	stop := run(t, svc)
	eventually(t, "ready", func() bool { return svc.Ready(t.Context()) == nil })
	if err := stop(); !errors.Is(err, host.ErrGrace) || !strings.Contains(err.Error(), "part 1 of orders") {
		t.Fatalf("Run = %v", err)
	}
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	for range 2 {
		stop := run(t, svc)
		eventually(t, "ready", func() bool { return svc.Ready(t.Context()) == nil })
		if err := svc.Run(t.Context()); !errors.Is(err, host.ErrRunning) {
			t.Fatalf("a second Run = %v", err)
		}
		must(t, stop())
	}
}

// A crash between the commit and the publish, and in the middle of everything else: nothing is lost or doubled.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "crash.db")
	placed := map[string]bool{}
	for round := range 4 {
		svc := open(t, "orders", openDB(t, path), host.Config{})
		place(svc)
		told := watch(svc.Processor)
		var cause error
		svc.Add(part(func(ctx context.Context) error { <-ctx.Done(); cause = context.Cause(ctx); return nil }))
		ended := make(chan error, 1)
		go func() { ended <- svc.Run(t.Context()) }()
		var mu sync.Mutex
		var callers sync.WaitGroup
		for c := range 8 {
			callers.Go(func() {
				for i := range 1000 {
					id := fmt.Sprint(round, "-", c, "-", i)
					if _, err := cqrs.Execute(t.Context(), svc.Processor, placeOrder{ID: id}); err != nil {
						return
					}
					mu.Lock()
					placed[id] = true
					mu.Unlock()
				}
			})
		}
		for range 50 {
			receive(t, told)
		}
		svc.Kill()
		svc.Kill() // harmless
		if err := receive(t, ended); !errors.Is(err, host.ErrKilled) || !errors.Is(cause, host.ErrKilled) {
			t.Fatalf("Run = %v, cause %v", err, cause)
		}
		callers.Wait()
		if err := svc.Run(t.Context()); !errors.Is(err, host.ErrKilled) {
			t.Fatalf("Run after Kill = %v", err)
		}
	}
	svc := open(t, "orders", openDB(t, path), host.Config{})
	place(svc)
	watch(svc.Processor)
	stop := run(t, svc)
	var orders, handled, doubled int64
	must(t, svc.DB().Model(&order{}).Count(&orders).Error)
	eventually(t, "every order's event is handled", func() bool {
		must(t, svc.DB().Model(&seen{}).Count(&handled).Error)
		return handled == orders
	})
	must(t, svc.DB().Model(&seen{}).Where("n<>1").Count(&doubled).Error)
	must(t, stop())
	if doubled != 0 || int(orders) < len(placed) {
		t.Fatalf("%d events handled twice, %d orders of %d that were answered", doubled, orders, len(placed))
	}
}

func TestHTTPServesAndLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{})
	entered, leave := make(chan struct{}), make(chan struct{})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	svc.Add(host.HTTPOn(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "done")
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

func fetch(t *testing.T, url string) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestHTTPCutsOffWhatTakesLongerThanGrace(t *testing.T) {
	t.Parallel()
	svc := open(t, "orders", newDB(t), host.Config{Grace: 10 * time.Second})
	entered, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	svc.Add(host.HTTPOn(ln, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(entered); <-leave })))
	stop := run(t, svc)
	answer := make(chan string, 1)
	go func() { answer <- fetch(t, "http://"+ln.Addr().String()) }()
	receive(t, entered)
	if err := stop(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Run = %v", err)
	}
	receive(t, answer)
}

func TestHTTPReportsATakenPort(t *testing.T) {
	t.Parallel()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = ln.Close() }()
	svc := open(t, "orders", newDB(t), host.Config{})
	svc.Add(host.HTTP(ln.Addr().String(), http.NotFoundHandler()))
	if err := svc.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("Run = %v", err)
	}
	svc = open(t, "orders", newDB(t), host.Config{})
	svc.Add(host.HTTP("127.0.0.1:0", nil))
	if err := svc.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "handler") {
		t.Fatalf("Run = %v", err)
	}
}
