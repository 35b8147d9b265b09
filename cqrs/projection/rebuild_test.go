package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// generation returns the live generation's number.
func (w *world) generation(p *projection.Projection) int64 {
	w.t.Helper()
	m, err := p.Model(w.t.Context())
	must(w.t, err)
	return m.Live
}

// stream publishes one event after the other until the function it returns is called, or there were many.
func (w *world) stream(from int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := from; n < from+500 && ctx.Err() == nil; n++ {
			if err := w.sender.Publish(context.Background(), Noted{[]string{"a", "b", "c"}[n%3], n % 10}); err != nil {
				w.t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func TestRebuildUnderTraffic(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.DropAfter = 50 * time.Millisecond
		p := w.run(w.projection(cfg))
		w.publish(1, 3, "a", "b", "c")
		w.level(p.Projection)
		stop := w.stream(4)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for want := int64(2); want <= 3; want++ {
			must(t, p.Rebuild(ctx))
			if got := w.generation(p.Projection); got != want {
				t.Fatalf("generation %d is live, want %d", got, want)
			}
			w.check(p.Projection)
		}
		stop()
		w.level(p.Projection)
		w.check(p.Projection)
		eventually(t, "old generations are dropped", func() (bool, string) {
			m, err := p.Model(t.Context())
			must(t, err)
			return len(m.Generations) == 1 && !w.db.Migrator().HasTable("notes_g1"), fmt.Sprintf("%+v", m)
		})
	})
}

func TestRule33_OneOfTwoRebuildsWins(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		p, q := w.run(w.projection(cfg)), w.run(w.projection(cfg))
		w.publish(1, 20, "a", "b")
		w.level(p.Projection)
		var won, lost atomic.Int64
		var both sync.WaitGroup
		for _, r := range []*running{p, q, p, q} {
			both.Go(func() {
				switch err := r.Rebuild(t.Context()); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, projection.ErrRebuilding):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		both.Wait()
		if won.Load() < 1 || won.Load()+lost.Load() != 4 {
			t.Fatalf("%d won, %d lost", won.Load(), lost.Load())
		}
		if got := w.generation(q.Projection); got != 1+won.Load() {
			t.Fatalf("generation %d is live after %d rebuilds", got, won.Load())
		}
		w.publish(21, 40, "a", "b")
		w.level(q.Projection)
		w.check(q.Projection)
	})
}

func TestRule33_RebuildWithoutSourceIsRefused(t *testing.T) {
	t.Parallel()
	refused := map[string]func(w *world, cfg *projection.Config){
		"no source":    func(_ *world, cfg *projection.Config) { cfg.Source = nil },
		"retention":    func(w *world, _ *projection.Config) { w.bus.retention = time.Hour },
		"compaction":   func(w *world, _ *projection.Config) { w.bus.compacted = true },
		"first offset": func(w *world, _ *projection.Config) { w.bus.trim(topic, 1, 3) },
		"no archive":   func(_ *world, cfg *projection.Config) { cfg.Source = projection.FromArchive(nil) },
		"no snapshot":  func(_ *world, cfg *projection.Config) { cfg.Source = projection.FromSnapshot(nil) },
	}
	for name, spoil := range refused {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, openSQLite(t))
			good := w.run(w.projection(w.config()))
			w.publish(1, 20, "a", "b")
			w.level(good.Projection)
			must(t, good.stop())
			cfg := w.config()
			spoil(w, &cfg)
			p := w.projection(cfg)
			w.run(p)
			if err := p.Rebuild(t.Context()); !errors.Is(err, projection.ErrNoSource) {
				t.Errorf("Rebuild: %v", err)
			}
			cfg.Version = 2
			if err := w.projection(cfg).Run(t.Context()); !errors.Is(err, projection.ErrNoSource) {
				t.Errorf("Run of version 2: %v", err)
			}
			if got := w.generation(p); got != 1 {
				t.Errorf("generation %d", got)
			}
		})
	}
}

func TestRule33_FirstGenerationNeedsAllOfItsTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	w.publish(1, 20, "a", "b")
	w.bus.trim(topic, 0, 2)
	if err := w.projection(w.config()).Run(t.Context()); !errors.Is(err, projection.ErrNoSource) {
		t.Fatal(err)
	}
	cfg := w.config()
	cfg.Source = nil // says: what there is
	p := w.projection(cfg)
	w.run(p)
	eventually(t, "what there is is applied", func() (bool, string) {
		rows := w.rows(p)
		return rows["a"] == "" || len(rows) == 2, fmt.Sprint(rows)
	})
}

// Events that the model has not seen are removed from the topic: going on would leave a hole.
func TestHistoryLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p := w.run(w.projection(w.config()))
	w.publish(1, 20, "a", "b")
	w.level(p.Projection)
	must(t, p.stop())
	w.publish(21, 40, "a", "b")
	w.bus.trim(topic, 0, 15)
	err := w.projection(w.config()).Run(t.Context())
	if !errors.Is(err, projection.ErrHistoryLost) {
		t.Fatal(err)
	}
	w.check(p.Projection)
}

func TestVersions(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		old := w.run(w.projection(cfg))
		w.publish(1, 20, "a", "b")
		w.level(old.Projection)

		cfg.Version = 2 // deployed beside the old one
		p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
		must(t, err)
		projection.On(p, func(ctx context.Context, events []Noted) error {
			for _, e := range events {
				if err := write(ctx, "v2-"+e.Key, fmt.Sprint(e.N)); err != nil {
					return err
				}
			}
			return nil
		})
		w.run(p)
		eventually(t, "version 2 is live", func() (bool, string) {
			ctx, err := p.Live(t.Context())
			must(t, err)
			return projection.GenerationOf(ctx).Version == 2, fmt.Sprint(projection.GenerationOf(ctx))
		})
		w.publish(21, 22, "a", "b")
		eventually(t, "version 2 is fed by its own code", func() (bool, string) {
			rows := w.rows(p)
			return rows["v2-a"] == "2,4,6,8,10,12,14,16,18,20,22" && rows["a"] == "", fmt.Sprint(rows)
		})
		must(t, old.stop()) // it was only idle
		cfg.Version = 1
		if err := w.projection(cfg).Run(t.Context()); !errors.Is(err, projection.ErrSuperseded) {
			t.Fatal(err)
		}
	})
}

func TestAbandon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	cfg.DropAfter = time.Millisecond
	var second atomic.Bool
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(t, err)
	projection.On(p, func(ctx context.Context, events []Noted) error {
		if projection.GenerationOf(ctx).Number == 2 {
			second.Store(true)
			return errors.New("the new code is wrong")
		}
		return note(ctx, events)
	})
	w.run(p)
	w.publish(1, 20, "a", "b")
	w.level(p)
	rebuilt := make(chan error, 1)
	go func() { rebuilt <- p.Rebuild(context.WithoutCancel(t.Context())) }()
	eventually(t, "the shadow fails", func() (bool, string) { return second.Load(), "" })
	must(t, p.Abandon(t.Context(), "wrong"))
	if err := <-rebuilt; !errors.Is(err, projection.ErrAbandoned) {
		t.Fatal(err)
	}
	w.publish(21, 22, "a", "b")
	w.level(p)
	eventually(t, "the shadow is dropped", func() (bool, string) {
		return !w.db.Migrator().HasTable("notes_g2"), ""
	})
	must(t, p.Rebuild(t.Context())) // generation 3
	w.level(p)
	w.check(p)
}

// The topic has forgotten its beginning, and the archive has not: nothing is missing where one takes over from the
// other, and nothing is doubled although both have the events between.
func TestRule33_ArchiveThenTopic(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		a := w.archived()
		cfg := w.config()
		cfg.Source, cfg.MaxBatch = projection.FromArchive(a.read), 8
		p := w.run(w.projection(cfg))
		w.publish(1, 60, "a", "b", "c")
		w.level(p.Projection)
		w.bus.trim(topic, 0, 20)
		w.bus.trim(topic, 1, 10)
		stop := w.stream(61)
		must(t, p.Rebuild(t.Context()))
		w.check(p.Projection)
		stop()
		w.level(p.Projection)
		w.check(p.Projection)
	})
}

// A process that dies while it loads the archive goes on where its last commit was.
func TestRule33_ArchiveIsResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	a := w.archived()
	w.publish(1, 100, "a", "b")
	w.bus.trim(topic, 0, 50)
	w.bus.trim(topic, 1, 50)
	reached := make(chan struct{})
	var read atomic.Int64
	a.before = func() {
		if read.Add(1) == 40 {
			close(reached)
			<-t.Context().Done() // hangs for good; the process is given up
		}
	}
	cfg := w.config()
	cfg.Source, cfg.MaxBatch = projection.FromArchive(a.read), 8
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = w.projection(cfg).Run(ctx) }()
	<-reached
	cancel()
	after := int64(-1)
	b := &archive{messages: a.messages}
	cfg.Source = projection.FromArchive(func(ctx context.Context, q projection.ArchiveQuery) archiveSeq {
		if after < 0 {
			after = q.After
		}
		return b.read(ctx, q)
	})
	p := w.run(w.projection(cfg))
	w.level(p.Projection)
	w.check(p.Projection)
	if after != 310 { // four batches of eight, ten positions each
		t.Fatalf("resumed after %d", after)
	}
}

func TestRule33_Snapshot(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		w.publish(1, 40, "a", "b")
		prefix := map[int32]int64{0: 9, 1: 14}
		snapshot := w.fold(prefix, -1)
		w.bus.trim(topic, 0, 10)
		w.bus.trim(topic, 1, 15)
		cfg := w.config()
		cfg.Takeover = time.Hour // the process that loads is only slow
		var loads atomic.Int64
		load := func(ctx context.Context, write1 func(func(context.Context) error) error) ([]cqrs.Position, error) {
			loads.Add(1)
			for k, v := range snapshot {
				if err := write1(func(ctx context.Context) error { return write(ctx, k, v) }); err != nil {
					return nil, err
				}
			}
			return []cqrs.Position{{Topic: topic, Partition: 0, Offset: 10}, {Topic: topic, Partition: 1, Offset: 15}}, nil
		}
		cfg.Source = projection.FromSnapshot(load)
		p, q := w.run(w.projection(cfg)), w.run(w.projection(cfg))
		w.level(p.Projection)
		w.level(q.Projection)
		w.check(p.Projection)
		if loads.Load() < 1 || w.generation(p.Projection) != 1 {
			t.Fatalf("%d loads, generation %d", loads.Load(), w.generation(p.Projection))
		}
	})
}

// A process dies in the middle of a snapshot: another generation is begun, and the half one is never followed.
func TestRule33_HalfASnapshotIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	w.publish(1, 4, "a", "b")
	cfg := w.config()
	var loads atomic.Int64
	first := make(chan struct{})
	cfg.Source = projection.FromSnapshot(
		func(ctx context.Context, write1 func(func(context.Context) error) error) ([]cqrs.Position, error) {
			n := loads.Add(1)
			if err := write1(func(ctx context.Context) error { return write(ctx, "a", fmt.Sprintf("load %d", n)) }); err != nil {
				return nil, err
			}
			if n == 1 {
				close(first)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []cqrs.Position{{Topic: topic, Partition: 0, Offset: 2}, {Topic: topic, Partition: 1, Offset: 2}}, nil
		})
	p := w.run(w.projection(cfg))
	<-first
	must(t, p.stop())
	q := w.run(w.projection(cfg))
	w.publish(6, 6, "a", "b")
	eventually(t, "the second load is live and followed", func() (bool, string) {
		if w.generation(q.Projection) != 2 {
			return false, ""
		}
		rows := w.rows(q.Projection)
		return rows["a"] == "load 2,6", fmt.Sprint(rows)
	})
}
