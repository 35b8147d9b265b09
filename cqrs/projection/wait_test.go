package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// last returns the ID and the place of the message that was published last to the partition.
func (b *logbus) last(partition int) (id string, offset int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.topics[topic][partition].records
	return all[len(all)-1].UUID, int64(len(all) - 1)
}

// A writer reads what it has written, in this process and in another one, by ID and by place.
func TestWait(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		cfg := w.config()
		here := w.projection(cfg)
		elsewhere := w.projection(cfg)
		w.run(here)
		for n := 2; n <= 20; n += 2 {
			w.publish(n, n, "a", "b")
			id, offset := w.bus.last(partitionOf("a"))
			token := projection.Message(id)
			p := here
			switch n % 4 {
			case 0:
				token = projection.At(topic, int32(partitionOf("a")), offset)
			default:
				p = elsewhere
			}
			must(t, p.Wait(t.Context(), token, patience))
			if rows := w.rows(p); !hasLast(rows["a"], n) {
				t.Fatalf("%v was waited for, and the row is %q", token, rows["a"])
			}
		}
		id, _ := w.bus.last(partitionOf("a"))
		must(t, here.Rebuild(t.Context()))
		must(t, here.Wait(t.Context(), projection.Message(id), patience)) // the new generation has it too
	})
}

func hasLast(row string, n int) bool {
	last := fmt.Sprint(n)
	return len(row) >= len(last) && row[len(row)-len(last):] == last
}

func TestWaitIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p := w.run(w.projection(w.config()))
	w.publish(1, 10, "a", "b")
	w.level(p.Projection)
	must(t, p.stop())
	w.publish(11, 14, "a", "b")
	id, offset := w.bus.last(0)
	for _, token := range []projection.Token{projection.Message(id), projection.At(topic, 0, offset)} {
		var stale *projection.StaleError
		eventually(t, "it is told how far the model is", func() (bool, string) { // in a second, which may be too short
			err := p.Wait(t.Context(), token, 30*time.Millisecond)
			if !errors.Is(err, projection.ErrStale) || !errors.As(err, &stale) {
				t.Fatal(err)
			}
			return stale.Lag.Generation.Number != 0, err.Error()
		})
		if stale.Lag.Behind() != 4 || stale.Waited < 30*time.Millisecond || stale.Token != token {
			t.Fatalf("%+v", stale)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ctx, projection.Message(id), patience); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// countingStore counts reads: who waits in this process is woken, and does not ask all the time.
type countingStore struct {
	projection.Store
	reads atomic.Int64
}

func (s *countingStore) Read(ctx context.Context, name string) (projection.Model, error) {
	s.reads.Add(1)
	return s.Store.Read(ctx, name)
}

func TestWaitDoesNotAskHot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	store := &countingStore{Store: w.store}
	cfg := w.config()
	cfg.Poll = time.Hour
	p, err := projection.New("notes", w.catalog, w.work, store, w.bus, cfg)
	must(t, err)
	gate := make(chan struct{})
	projection.On(p, func(ctx context.Context, events []Noted) error {
		<-gate
		return note(ctx, events)
	})
	w.run(p)
	w.publish(2, 2, "a", "b")
	eventually(t, "there is a model", func() (bool, string) {
		_, err := p.Live(t.Context())
		return err == nil, fmt.Sprint(err)
	})
	id, _ := w.bus.last(partitionOf("a"))
	store.reads.Store(0)
	waited := make(chan error, 1)
	go func() { waited <- p.Wait(context.WithoutCancel(t.Context()), projection.Message(id), patience) }()
	eventually(t, "it asks once", func() (bool, string) { return store.reads.Load() == 1, "" })
	close(gate)
	must(t, <-waited)
	if n := store.reads.Load(); n > 2 {
		t.Fatalf("%d reads", n)
	}
}

// plainInbox has no Seen: messages of other processes cannot be looked up, those of this one are heard of.
type plainInbox struct{ cqrs.Inbox }

func TestWaitWithoutSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	cfg.Inbox = plainInbox{w.inbox}
	p := w.run(w.projection(cfg))
	w.publish(1, 2, "a", "b")
	w.level(p.Projection)
	id, _ := w.bus.last(partitionOf("a"))
	elsewhere := w.projection(cfg)
	if err := elsewhere.Wait(t.Context(), projection.Message(id), time.Millisecond); !errors.Is(err, projection.ErrStale) {
		t.Fatal(err)
	}
}
