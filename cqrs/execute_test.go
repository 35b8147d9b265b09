package cqrs_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

func TestExecuteReturnsWhatTheHandlerReturns(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]cqrs.ProcessorConfig{"plain": {}, "in a unit of work": newDB().config()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, newDB(), catalog(), cfg)
			fault := errors.New("broken")
			cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) {
				switch c.Fail {
				case "error":
					return receipt{}, fault
				case "reject":
					return receipt{}, cqrs.Reject("no", fault)
				case "defer":
					return receipt{}, cqrs.ErrDeferred
				}
				return receipt{c.Order}, nil
			})
			if r, err := cqrs.Execute(t.Context(), s.p, place{Order: "o-1"}); r.Order != "o-1" || err != nil {
				t.Errorf("Execute = %v, %v", r, err)
			}
			if _, err := cqrs.Execute(t.Context(), s.p, place{Fail: "error"}); !errors.Is(err, fault) {
				t.Errorf("error = %v", err)
			}
			_, err := cqrs.Execute(t.Context(), s.p, place{Fail: "reject"})
			if no := cqrs.AsRejection(err); no == nil || no.Code != "no" || !errors.Is(err, fault) {
				t.Errorf("rejection = %v", err)
			}
			if _, err := cqrs.Execute(t.Context(), s.p, place{Fail: "defer"}); !errors.Is(err, cqrs.ErrDeferred) {
				t.Errorf("deferred = %v", err)
			}
			_, err = cqrs.Execute(t.Context(), s.p, place{SKU: "nothing"})
			if no := cqrs.AsRejection(err); no == nil || no.Code != "invalid" {
				t.Errorf("validation = %v", err)
			}
			if _, err := cqrs.Execute(t.Context(), s.p, other{}); !errors.Is(err, cqrs.ErrNoHandler) {
				t.Errorf("no handler = %v", err)
			}
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := cqrs.Execute(gone, s.p, place{}); !errors.Is(err, context.Canceled) {
				t.Errorf("caller gone = %v", err)
			}
		})
	}
}

type other struct{ cqrs.Returns[int] }

func TestExecuteUndoesWhatFailed(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		b.add(ctx, "rows", 1)
		if err := s.s.Publish(ctx, placed{c.Order}); err != nil {
			return receipt{}, err
		}
		if c.Fail == "defer" {
			return receipt{}, cqrs.ErrDeferred
		}
		if c.Fail != "" {
			return receipt{}, cqrs.Reject("no", nil)
		}
		return receipt{c.Order}, nil
	})
	for _, c := range []place{{}, {Fail: "yes"}, {Fail: "defer"}} {
		_, _ = cqrs.Execute(t.Context(), s.p, c)
	}
	if b.row("rows") != 2 || len(b.sentTo("shop.events")) != 2 {
		t.Errorf("%d rows and %d events, want 2 and 2", b.row("rows"), len(b.sentTo("shop.events")))
	}
}

// keys is idempotency in memory; the key is the context's value.
type keys struct {
	*db
	mu     sync.Mutex
	stored map[string][]byte
}

type idempotencyKey struct{}

func (k *keys) Once(ctx context.Context, result any, run func(context.Context) error) error {
	id, ok := ctx.Value(idempotencyKey{}).(string)
	if !ok {
		return run(ctx)
	}
	if !inTx(ctx) {
		return errors.New("Once outside the unit of work")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.stored[id]; old != nil {
		return json.Unmarshal(old, result)
	}
	if err := run(ctx); err != nil {
		return err
	}
	data, err := json.Marshal(result)
	k.stored[id] = data
	return err
}

func TestExecuteWithAKeyReplaysResultAndRefusal(t *testing.T) {
	t.Parallel()
	b := newDB()
	cfg := b.config()
	cfg.Keys = &keys{db: b, stored: map[string][]byte{}}
	s := newService(t, b, catalog(), cfg)
	runs := 0
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		runs++
		b.add(ctx, c.Order, 1)
		if c.Fail != "" {
			return receipt{}, cqrs.Reject("sold_out", errors.New("no hats"))
		}
		return receipt{c.Order}, nil
	})
	yes := context.WithValue(t.Context(), idempotencyKey{}, "k1")
	no := context.WithValue(t.Context(), idempotencyKey{}, "k2")
	for range 3 {
		if r, err := cqrs.Execute(yes, s.p, place{Order: "o-1"}); r.Order != "o-1" || err != nil {
			t.Errorf("Execute = %v, %v", r, err)
		}
		_, err := cqrs.Execute(no, s.p, place{Order: "o-2", Fail: "x"})
		if r := cqrs.AsRejection(err); r == nil || r.Error() != "sold_out: no hats" {
			t.Errorf("refusal = %v", err)
		}
	}
	if runs != 2 || b.row("o-1") != 1 || b.row("o-2") != 0 {
		t.Errorf("runs %d, o-1 %d, o-2 %d", runs, b.row("o-1"), b.row("o-2"))
	}
}

func TestRule07_ExecuteInsideAUnitOfWorkRunsInline(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		b.add(ctx, "inner", 1)
		if c.Fail != "" {
			return receipt{}, errors.New("no")
		}
		return receipt{}, nil
	})
	err := b.Do(t.Context(), func(ctx context.Context) error {
		b.add(ctx, "outer", 1)
		if _, err := cqrs.Execute(ctx, s.p, place{}); err != nil {
			return err
		}
		if _, err := cqrs.Execute(ctx, s.p, place{Fail: "x"}); err == nil {
			t.Error("the inner failure is hidden")
		}
		return nil
	})
	if err != nil || b.commits != 1 || b.row("inner") != 1 || b.row("outer") != 1 {
		t.Errorf("%v: %d commits, inner %d, outer %d", err, b.commits, b.row("inner"), b.row("outer"))
	}
}

// A command that is executed in the name of a message, outside of a handler, is inside its own transaction.
func TestRule07_AnEnvelopeOutsideOfATransactionHidesNone(t *testing.T) {
	t.Parallel()
	b := newDB()
	cfg := b.config()
	cfg.InTransaction = nil
	s := newService(t, b, catalog(), cfg)
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		if env, _ := cqrs.EnvelopeOf(ctx); env.ID != "cause" {
			t.Errorf("it is executed in the name of %q", env.ID)
		}
		return cqrs.Call(ctx, s.p, place{Order: c.Order})
	})
	ctx := cqrs.WithEnvelope(t.Context(), cqrs.Envelope{ID: "cause"})
	if _, err := cqrs.Execute(ctx, s.p, place{}); !errors.Is(err, cqrs.ErrInTransaction) {
		t.Errorf("Call in a handler = %v", err)
	}
}

func TestBehaviorsWrapEveryHandlerOutermostFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		named := func(name string) cqrs.Behavior {
			return func(ctx context.Context, d *cqrs.Delivery, next func(context.Context) error) error {
				j.add(name)
				if d.Envelope.Key == "forbidden" || strings.Contains(string(d.Payload), "forbidden") {
					return cqrs.Reject("forbidden", nil)
				}
				return next(ctx)
			}
		}
		cfg := b.config()
		cfg.Behaviors = []cqrs.Behavior{named("outer"), named("inner")}
		s := newService(t, b, catalog(), cfg)
		cqrs.Handle(s.p, func(context.Context, place) (receipt, error) { j.add("handler"); return receipt{}, nil })
		s.p.Consume(func(_ context.Context, ds []*cqrs.Delivery) error {
			for range ds {
				j.add("consumer")
			}
			return nil
		}, cqrs.FromTypes("shop.placed"))
		_, _ = cqrs.Execute(t.Context(), s.p, place{})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", placeMsg("1", "a", "sock"))
		synctest.Wait()
		s.deliver("shop.events", msg("2", "shop.placed", "a", `{}`))
		synctest.Wait()
		s.deliver("shop.events", msg("3", "shop.placed", "forbidden", `{}`))
		synctest.Wait()
		want := "outer inner handler outer inner handler outer inner consumer outer"
		if got := j.String(); got != want {
			t.Errorf("journal = %q, want %q", got, want)
		}
	})
}

func TestExecuteAllocatesLittle(t *testing.T) {
	s := newService(t, newDB(), cqrs.NewCatalog(), cqrs.ProcessorConfig{})
	cqrs.Handle(s.p, func(_ context.Context, c other) (int, error) { return 1, nil })
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = cqrs.Execute(ctx, s.p, other{}) }); n > 2 {
		t.Errorf("Execute without a transaction: %v allocations, want at most 2", n)
	}
}

func BenchmarkExecute(b *testing.B) {
	s, err := cqrs.NewSender(cqrs.NewCatalog(), newDB(), cqrs.SenderConfig{})
	if err != nil {
		b.Fatal(err)
	}
	p, err := cqrs.NewProcessor("shop", s, cqrs.ProcessorConfig{})
	if err != nil {
		b.Fatal(err)
	}
	cqrs.Handle(p, func(context.Context, other) (int, error) { return 1, nil })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cqrs.Execute(b.Context(), p, other{}); err != nil {
			b.Fatal(err)
		}
	}
}

// Timeout holds for Execute, too.
func TestExecuteKeepsToTheHandlersTimeout(t *testing.T) {
	t.Parallel()
	for limit, want := range map[time.Duration]time.Duration{-1: 0, time.Hour: time.Hour, time.Second: time.Second, 0: 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			b := newDB()
			s := newService(t, b, catalog(), b.config())
			var left time.Duration
			cqrs.Handle(s.p, func(ctx context.Context, _ place) (receipt, error) {
				if end, ok := ctx.Deadline(); ok {
					left = time.Until(end)
				}
				return receipt{}, nil
			}, cqrs.Timeout(limit))
			if _, err := cqrs.Execute(t.Context(), s.p, place{Order: "1"}); err != nil || left != want {
				t.Errorf("Timeout(%v): %v are left, want %v; %v", limit, left, want, err)
			}
		})
	}
}
