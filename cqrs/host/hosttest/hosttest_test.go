package hosttest_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/host/hosttest"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

type charge struct {
	cqrs.Returns[string]
	ID    string
	Cents int
}

type charged struct{ ID, Ref string }

type declined struct{ ID, Code string }

type receiptSent struct{ ID string }

type orphan struct{ ID string }

var catalog = cqrs.NewCatalog(
	cqrs.Command[charge]{Name: "payments.charge", Key: func(c charge) string { return c.ID }},
	cqrs.Event[charged]{Name: "payments.charged", Key: func(e charged) string { return e.ID }},
	cqrs.Event[declined]{Name: "payments.declined", Key: func(e declined) string { return e.ID }},
	cqrs.Event[receiptSent]{Name: "mail.sent"},
)

func newDB(t *testing.T, dsn string) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(sqlite.Open(dsn), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if pool, err := db.DB(); err == nil {
			_ = pool.Close()
		}
	})
	return db
}

func file(t *testing.T) string {
	return filepath.Join(t.TempDir(), "test.db") + "?_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)"
}

func send(t *testing.T, svc *hosttest.Service, commands ...charge) {
	t.Helper()
	err := svc.Work.Do(t.Context(), func(ctx context.Context) error {
		for _, c := range commands {
			if err := svc.Sender.Send(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSettleFollowsMessagesToTheEnd(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]string{"memory": ":memory:", "file": file(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := hosttest.Open(t, newDB(t, dsn), catalog)
			cqrs.Handle(svc.Processor, func(ctx context.Context, c charge) (string, error) {
				return "", svc.Sender.Publish(ctx, charged{c.ID, "ref"})
			})
			cqrs.On(svc.Processor, func(ctx context.Context, e charged) error {
				return svc.Sender.Publish(ctx, receiptSent{e.ID})
			})
			for i := range 20 {
				send(t, svc, charge{ID: fmt.Sprint(i)})
			}
			svc.Settle()
			if n, m := len(hosttest.Sent[charged](svc)), len(hosttest.Sent[receiptSent](svc)); n != 20 || m != 20 {
				t.Fatalf("%d and %d events", n, m)
			}
			send(t, svc, charge{ID: "late"})
			svc.Settle()
			if got := hosttest.Sent[receiptSent](svc); len(got) != 21 || got[20] != (receiptSent{"late"}) {
				t.Fatalf("events %v", got)
			}
		})
	}
}

func TestSentIsWhatCommitted(t *testing.T) {
	t.Parallel()
	svc := hosttest.Open(t, newDB(t, file(t)), catalog)
	boom := errors.New("boom")
	err := svc.Work.Do(t.Context(), func(ctx context.Context) error {
		if err := svc.Sender.Publish(ctx, receiptSent{"undone"}); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if err := svc.Work.Do(t.Context(), func(ctx context.Context) error {
		return svc.Sender.Publish(ctx, receiptSent{"1"}, receiptSent{"2"})
	}); err != nil {
		t.Fatal(err)
	}
	if got := hosttest.Sent[receiptSent](svc); !slices.Equal(got, []receiptSent{{"1"}, {"2"}}) {
		t.Fatalf("sent %v", got)
	}
}

// A failing message is retried while Settle waits; one that is dead holds up Settle no longer.
func TestSettleWaitsForRetriesAndNotForTheDead(t *testing.T) {
	t.Parallel()
	svc := hosttest.Open(t, newDB(t, file(t)), catalog, host.Config{
		Processor: cqrs.ProcessorConfig{Retry: cqrs.Retry{Attempts: 3, Min: time.Millisecond, Max: time.Millisecond}},
	})
	var mu sync.Mutex
	runs := map[string]int{}
	cqrs.Handle(svc.Processor, func(_ context.Context, c charge) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if runs[c.ID]++; c.ID == "dead" || runs[c.ID] < 3 {
			return "", errors.New("not yet")
		}
		return "", nil
	})
	send(t, svc, charge{ID: "slow"}, charge{ID: "dead"})
	send(t, svc, charge{ID: "dead"}) // waits behind it, for an operator
	svc.Settle()
	mu.Lock()
	defer mu.Unlock()
	if runs["slow"] != 3 || runs["dead"] != 3 {
		t.Fatalf("runs %v", runs)
	}
}

// fakeT fails without ending the test that watches it.
type fakeT struct {
	testing.TB
	failed string
}

func (f *fakeT) Helper() {}
func (f *fakeT) Fatalf(format string, args ...any) {
	f.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestSentRefusesUnknownTypes(t *testing.T) {
	t.Parallel()
	f := &fakeT{TB: t}
	svc := hosttest.Open(f, newDB(t, file(t)), catalog)
	done := make(chan struct{})
	go func() { defer close(done); hosttest.Sent[orphan](svc) }()
	<-done
	if !strings.Contains(f.failed, "orphan is not in the catalog") {
		t.Fatalf("failed with %q", f.failed)
	}
}

// A bank that takes equal keys for one request, and refuses more than 100.
type bank struct {
	mu      sync.Mutex
	charged map[string]int
	lose    map[string]bool // answers that are lost, once
}

func (b *bank) call(_ context.Context, key string, cents int) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cents > 100 {
		return "", cqrs.Reject("limit", errors.New("too much"))
	}
	if b.charged[key] == 0 {
		b.charged[key] = cents
	}
	if b.lose[key] {
		b.lose[key] = false
		return "", context.DeadlineExceeded
	}
	return "ref-" + key, nil
}

// TestRule28_TheWholeWayOfAnEffect goes through the real processor, stores, outbox and bus.
func TestRule28_TheWholeWayOfAnEffect(t *testing.T) {
	t.Parallel()
	svc := hosttest.Open(t, newDB(t, file(t)), catalog)
	b := &bank{charged: map[string]int{}, lose: map[string]bool{}}
	answers := make(chan string, 1000)
	chargeAt(t, svc, b, answers)
	const n = 100
	var commands []charge
	for i := range n {
		b.lose[fmt.Sprintf("key-%03d", i)] = i%10 == 3
		commands = append(commands, charge{ID: fmt.Sprintf("%03d", i), Cents: 1 + i%2*100})
	}
	send(t, svc, commands...)
	svc.Settle()
	yes, no := hosttest.Sent[charged](svc), hosttest.Sent[declined](svc)
	if len(yes) != n/2 || len(no) != n/2 || len(b.charged) != n/2 || len(answers) < n {
		t.Fatalf("%d charged, %d declined, %d at the bank, %d answers", len(yes), len(no), len(b.charged), len(answers))
	}
	for _, e := range yes {
		if e.Ref != "ref-key-"+e.ID {
			t.Errorf("%+v", e)
		}
	}
}

// Who calls the command waits for the provider's answer; who executes it is told that it will come later.
func TestRule28_ACallIsAnsweredWhenTheEffectIsSettled(t *testing.T) {
	t.Parallel()
	svc := hosttest.Open(t, newDB(t, file(t)), catalog)
	b := &bank{charged: map[string]int{}, lose: map[string]bool{"key-1": true}}
	chargeAt(t, svc, b, make(chan string, 1000))
	svc.Start()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for svc.Ready(ctx) != nil && ctx.Err() == nil {
		runtime.Gosched()
	}
	if ref, err := cqrs.Call(ctx, svc.Processor, charge{ID: "1", Cents: 5}); err != nil || ref != "ref-key-1" {
		t.Errorf("Call = %q, %v", ref, err)
	}
	_, err := cqrs.Call(ctx, svc.Processor, charge{ID: "2", Cents: 500})
	if no := cqrs.AsRejection(err); no == nil || no.Code != "limit" {
		t.Errorf("Call = %v", err)
	}
	if _, err := cqrs.Execute(ctx, svc.Processor, charge{ID: "3", Cents: 5}); !errors.Is(err, cqrs.ErrDeferred) {
		t.Errorf("Execute = %v", err)
	}
	svc.Settle()
	if got := hosttest.Sent[charged](svc); len(got) != 2 {
		t.Errorf("charged %v", got)
	}
}

// chargeAt registers the effect of charging at the bank, and its runner.
func chargeAt(t *testing.T, svc *hosttest.Service, b *bank, answers chan<- string) {
	t.Helper()
	runner, err := effect.New(svc.Processor, svc.Effects, effect.Config{MinBackoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	cqrs.Handle(svc.Processor, effect.Handler(runner, effect.Effect[charge, string, int, string]{
		Name:   "payments.charge",
		Intent: func(_ context.Context, c charge) (string, int, error) { return "key-" + c.ID, c.Cents, nil },
		Call:   b.call,
		Settle: func(ctx context.Context, c charge, _ int, ref string) (string, error) {
			return ref, svc.Sender.Publish(ctx, charged{c.ID, ref})
		},
		Refuse: func(ctx context.Context, c charge, _ int, no *cqrs.Rejection) error {
			return svc.Sender.Publish(ctx, declined{c.ID, no.Code})
		},
	}), cqrs.OnReply(func(_ context.Context, e cqrs.Envelope, a cqrs.Answer) error {
		answers <- e.Key + " " + string(a.Outcome)
		return nil
	}))
	svc.Add(runner)
}
