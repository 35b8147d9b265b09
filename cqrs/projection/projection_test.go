package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/outbox/uow"
)

func TestApplies(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		p := w.run(w.projection(w.config()))
		w.publish(1, 50, "a", "b", "c")
		w.level(p.Projection)
		w.check(p.Projection)
	})
}

// Two processes are given every partition at the same time, and the bus rebalances all the while: only the
// checkpoint's compare-and-set decides who applies what.
func TestRule32_EveryEventOnceWhoeverIsAssigned(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.MaxBatch = 7
		cfg.Inbox, cfg.Guarded = nil, true // nothing but the checkpoint
		p := w.run(w.projection(cfg))
		w.run(w.projection(cfg))
		for n := 1; n <= 300; n++ {
			w.publish(n, n, "a", "b", "c")
			if n%25 == 0 {
				w.bus.rebalance()
				w.check(p.Projection)
			}
		}
		w.level(p.Projection)
		w.check(p.Projection)
	})
}

// The checkpoint is in the model's database, so that is where a partition goes on, whatever the bus has committed.
func TestRule32_GoesOnAtTheCheckpoint(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.Inbox, cfg.Guarded = nil, true
		for n := range 4 {
			p := w.run(w.projection(cfg))
			w.publish(10*n+1, 10*n+10, "a", "b")
			w.level(p.Projection)
			must(t, p.stop())
		}
	})
}

func TestRule32_LateDuplicateIsNotAppliedAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		p := w.run(w.projection(w.config()))
		w.publish(1, 10, "a", "b")
		w.level(p.Projection)
		w.bus.mu.Lock()
		again := append(w.bus.topics[topic][0].records[:3:3], w.bus.topics[topic][1].records[:3]...)
		w.bus.mu.Unlock()
		must(t, w.bus.Publish(topic, again...))
		w.publish(11, 12, "a", "b")
		w.level(p.Projection)
		before := w.rows(p.Projection)
		must(t, p.Rebuild(t.Context()))
		if after := w.rows(p.Projection); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("rebuilt: %v, before: %v", after, before)
		}
		w.check(p.Projection)
	})
}

// An event that cannot be applied holds up its partition and nothing else; what stands before it is applied.
func TestStandsStill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	var healed atomic.Bool
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, w.config())
	must(t, err)
	projection.On(p, func(ctx context.Context, events []Noted) error {
		for _, e := range events {
			if e.N == 13 && !healed.Load() {
				if err := write(ctx, e.Key, "half"); err != nil { // is undone
					return err
				}
				panic("thirteen")
			}
		}
		return note(ctx, events)
	})
	r := w.run(p)
	w.publish(1, 30, "a", "b") // a has the even ones
	eventually(t, "the other partition is level", func() (bool, string) {
		rows := w.rows(p)
		return strings.HasSuffix(rows["a"], ",30") && strings.HasSuffix(rows["b"], ",11"), fmt.Sprint(rows)
	})
	eventually(t, "the stall shows", func() (bool, string) {
		lags, err := p.Lag(t.Context())
		must(t, err)
		for _, l := range lags[0].Partitions {
			if errors.Is(l.Stalled, projection.ErrPanic) && l.Behind == 9 && l.Age > 0 {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%+v", lags)
	})
	healed.Store(true)
	w.level(p)
	w.check(p)
	must(t, r.stop())
}

func TestDeadLetters(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		letters, err := gormstore.NewDeadLetters(w.work, gormstore.DeadLettersConfig{})
		must(t, err)
		cfg := w.config()
		cfg.DeadLetters, cfg.Retry.Attempts = letters, 3
		p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
		must(t, err)
		var tries atomic.Int64
		projection.On(p, func(ctx context.Context, events []Noted) error {
			for _, e := range events {
				if e.N == 13 {
					if len(events) == 1 {
						tries.Add(1)
					}
					return errors.New("unlucky")
				}
			}
			return note(ctx, events)
		})
		w.run(p)
		w.publish(1, 30, "a", "b")
		eventually(t, "the rest is applied", func() (bool, string) {
			rows := w.rows(p)
			return strings.HasSuffix(rows["b"], ",11,15,17,19,21,23,25,27,29"), fmt.Sprint(rows)
		})
		dead, err := letters.List(t.Context(), gormstore.DeadFilter{Group: "notes.g1"})
		must(t, err)
		if len(dead) != 1 || dead[0].Reason != "unlucky" || dead[0].Attempt != 3 || dead[0].Type != "notes.noted" {
			t.Fatalf("dead letters: %+v", dead)
		}
		if tries.Load() < 3 {
			t.Fatalf("%d tries", tries.Load())
		}
	})
}

func TestMixedTypesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	for _, keyOrder := range []bool{false, true} {
		t.Run(fmt.Sprint(keyOrder), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, openSQLite(t))
			cfg := w.config()
			cfg.KeyOrder = keyOrder
			p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
			must(t, err)
			projection.On(p, note)
			projection.OnEvents(p, func(ctx context.Context, events []projection.Event[Closed]) error {
				for _, e := range events {
					if e.Envelope.ID == "" || e.Topic != topic || e.Position.Topic != topic {
						return fmt.Errorf("event without what is known of it: %+v", e)
					}
					if err := write(ctx, e.Message.Key, "closed"); err != nil {
						return err
					}
				}
				return nil
			})
			want := map[string]string{}
			for n := range 40 {
				key := []string{"a", "b", "c"}[n%3]
				must(t, w.sender.Publish(t.Context(), Noted{key, n}, Closed{key}))
				add(want, key, fmt.Sprintf("%d,closed", n))
			}
			w.run(p)
			eventually(t, "all is applied", func() (bool, string) {
				rows := w.rows(p)
				return fmt.Sprint(rows) == fmt.Sprint(want), fmt.Sprint(rows)
			})
		})
	}
}

func TestMixedAtOnceAndTwoTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, w.config())
	must(t, err)
	var calls atomic.Int64
	projection.OnMixed(p, func(ctx context.Context, events []projection.Event[any]) error {
		calls.Add(1)
		for _, e := range events {
			switch m := e.Message.(type) {
			case Noted:
				if err := write(ctx, m.Key, fmt.Sprint(m.N)); err != nil {
					return err
				}
			case Closed:
				if err := write(ctx, m.Key, "closed"); err != nil {
					return err
				}
			}
		}
		return nil
	}, Noted{}, Closed{})
	projection.On(p, func(ctx context.Context, events []Paid) error {
		for _, e := range events {
			if err := write(ctx, "paid-"+e.Key, fmt.Sprint(e.N)); err != nil {
				return err
			}
		}
		return nil
	})
	for n := range 20 {
		must(t, w.sender.Publish(t.Context(), Noted{"a", n}, Closed{"a"}, Paid{"a", n}))
	}
	w.run(p)
	eventually(t, "all is applied", func() (bool, string) {
		rows := w.rows(p)
		return strings.HasSuffix(rows["a"], "19,closed") && strings.HasSuffix(rows["paid-a"], ",19"), fmt.Sprint(rows)
	})
	if calls.Load() > 20 {
		t.Fatalf("%d calls for 40 events of one partition", calls.Load())
	}
}

// What apply functions write commits with the checkpoint or not at all, beside others in the same unit of work.
func TestSharesTransactions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p := w.run(w.projection(w.config()))
	w.publish(1, 200, "a", "b")
	for range 50 {
		must(t, w.work.Do(t.Context(), func(ctx context.Context) error {
			return uow.DB(ctx).Exec("SELECT 1").Error
		}))
		w.check(p.Projection)
	}
	w.level(p.Projection)
}

func TestLag(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		proj := w.projection(w.config())
		if _, err := proj.Lag(t.Context()); !errors.Is(err, projection.ErrNoModel) {
			t.Fatal(err)
		}
		p := w.run(proj)
		w.publish(1, 10, "a", "b")
		w.level(proj)
		lag := lagOf(t, proj)
		if lag.Behind() != 0 || lag.Age() != 0 || !lag.Live || len(lag.Partitions) != 2 {
			t.Fatalf("level: %+v", lag)
		}
		if c := lag.Partitions[0]; c.Position != 4 || c.Applied != 5 || time.Since(c.EventAt).Abs() > time.Minute {
			t.Fatalf("partition: %+v", c)
		}
		must(t, p.stop())
		w.publish(11, 13, "a", "b")
		if lag = lagOf(t, proj); lag.Behind() != 3 || lag.Age() <= 0 {
			t.Fatalf("behind: %+v", lag)
		}
	})
}

func lagOf(t *testing.T, p *projection.Projection) projection.Lag {
	t.Helper()
	lags, err := p.Lag(t.Context())
	must(t, err)
	return lags[0]
}

func TestRegistrationFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, w.config())
	must(t, err)
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "applies no events") {
		t.Fatal(err)
	}
	projection.On(p, func(context.Context, []string) error { return nil })
	projection.OnMixed(p, func(context.Context, []projection.Event[any]) error { return nil }, nil)
	if err := p.Run(t.Context()); !errors.Is(err, cqrs.ErrUnknownType) {
		t.Fatal(err)
	}
}

// What would panic at the first event, apply every event twice, or none, is a fault of its registration.
func TestRegistrationFaultsOfApplyFunctions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	apply := func(context.Context, []projection.Event[any]) error { return nil }
	for want, register := range map[string]func(p *projection.Projection){
		"projection_test.Noted] is nil":  func(p *projection.Projection) { projection.On[Noted](p, nil) },
		"projection_test.Closed] is nil": func(p *projection.Projection) { projection.OnEvents[Closed](p, nil) },
		"projection_test.Paid] is nil":   func(p *projection.Projection) { projection.OnMixed(p, nil, Paid{}) },
		"Noted twice":                    func(p *projection.Projection) { projection.OnMixed(p, apply, Noted{}, Noted{N: 1}) },
		"OnMixed needs examples":         func(p *projection.Projection) { projection.OnMixed(p, apply) },
	} {
		p := w.projection(w.config())
		register(p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	_, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, projection.Config{
		Version: -1, MaxBatch: -1, Poll: -1, HoldFor: -1, Takeover: -1, DropAfter: -1,
	})
	for _, field := range []string{"Version", "MaxBatch", "Poll", "HoldFor", "Takeover", "DropAfter", "Inbox"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	if _, err := projection.New("", nil, nil, nil, nil, w.config()); err == nil {
		t.Error("New takes nothing")
	}
	for _, name := range []string{"a\x00b", "a\xffb", strings.Repeat("x", 101)} {
		if _, err := projection.New(name, w.catalog, w.work, w.store, w.bus, w.config()); err == nil {
			t.Errorf("New takes the name %q", name)
		}
	}
}
