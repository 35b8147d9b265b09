package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// A partition has been idle for longer than its topic keeps messages, so a shadow has nothing to read there: what it
// was built from has it.
func TestRule33_AnIdlePartitionDoesNotKeepAShadowFromGoingLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	a := w.archived()
	cfg := w.config()
	cfg.Source, cfg.MaxBatch = projection.FromArchive(a.read), 8
	p := w.run(w.projection(cfg))
	w.publish(1, 60, "a", "b")
	w.level(p.Projection)
	w.bus.trim(topic, 0, w.bus.end(topic, 0))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, p.Rebuild(ctx))
	w.publish(61, 80, "a", "b")
	w.level(p.Projection)
}

func (b *logbus) end(topic string, partition int) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.partitions(topic)[partition].records))
}

// However much stands behind an event that cannot be applied, other partitions of its topic go on.
func TestAPoisonedPartitionStandsStillAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	cfg.MaxBatch = 4
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(t, err)
	projection.On(p, func(ctx context.Context, events []Noted) error {
		for _, e := range events {
			if e.Key == "b" {
				return errors.New("poison")
			}
		}
		return note(ctx, events)
	})
	w.run(p)
	w.publish(1, 100, "b")
	eventually(t, "a partition stands still", func() (bool, string) {
		lags, err := p.Lag(t.Context())
		if err != nil {
			return false, err.Error()
		}
		for _, l := range lags[0].Partitions {
			if l.Stalled != nil {
				return true, ""
			}
		}
		return false, fmt.Sprint(lags)
	})
	w.publish(1, 1, "a")
	eventually(t, "the other partition goes on", func() (bool, string) {
		rows := w.rows(p)
		return rows["a"] == "1", fmt.Sprint(rows)
	})
}

// A shadow that does not get level has the live model held now and then, however many processes try.
func TestTheLiveModelIsNotHeldAllTheTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	cfg.HoldFor = 20 * time.Millisecond
	cfg.Retry = cqrs.Retry{Min: time.Second, Max: time.Second}
	live := w.run(w.projection(cfg))
	w.publish(1, 20, "a", "b")
	w.level(live.Projection)
	cfg.Version = 2
	for range 6 {
		p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
		must(t, err)
		projection.On(p, func(context.Context, []Noted) error { return errors.New("the new code is wrong") })
		w.run(p)
	}
	var last time.Time
	for holds := 0; holds < 4; {
		eventually(t, "the live model is held", func() (bool, string) {
			m, err := live.Model(t.Context())
			must(t, err)
			if m.Hold.IsZero() || m.Hold.Equal(last) {
				return false, fmt.Sprintf("%+v", m)
			}
			if gap := m.Hold.Sub(last); !last.IsZero() && gap < 5*cfg.HoldFor {
				t.Fatalf("held again after %v, for %v each time", gap, cfg.HoldFor)
			}
			last = m.Hold
			holds++
			return true, ""
		})
	}
}

// A lane that stands still gives its messages back when its session ends: the whole group may wait for that.
func TestAPoisonedPartitionIsGivenUpAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	var mu sync.Mutex
	var delivered []*message.Message
	w.bus.ends = true
	w.bus.delivered = func(m *message.Message) {
		mu.Lock()
		defer mu.Unlock()
		delivered = append(delivered, m)
	}
	cfg := w.config()
	cfg.MaxBatch, cfg.Retry = 4, cqrs.Retry{Min: time.Hour, Max: time.Hour}
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(t, err)
	var tried atomic.Bool
	projection.On(p, func(context.Context, []Noted) error { tried.Store(true); return errors.New("poison") })
	w.run(p)
	w.publish(1, 20, "b")
	eventually(t, "all are delivered", func() (bool, string) {
		mu.Lock()
		defer mu.Unlock()
		return tried.Load() && len(delivered) == 20, fmt.Sprint(len(delivered))
	})
	mu.Lock()
	old := delivered
	mu.Unlock()
	w.bus.rebalance()
	eventually(t, "the old session's messages are given back", func() (bool, string) {
		for i, m := range old {
			select {
			case <-m.Nacked():
			default:
				return false, fmt.Sprint(i)
			}
		}
		return true, ""
	})
}

// Who waits for a bound does not wait for brokers that do not answer.
func TestWaitEndsThoughTheBusDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	r := w.run(w.projection(w.config()))
	w.publish(1, 2, "a", "b")
	w.level(r.Projection)
	cfg := w.config()
	p, err := projection.New("notes", w.catalog, w.work, w.store, silent{w.bus}, cfg)
	must(t, err)
	projection.On(p, note)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- p.Wait(ctx, projection.Message("never"), time.Millisecond) }()
	select {
	case err := <-answer:
		if !errors.Is(err, projection.ErrStale) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it waits for the bus")
		cancel()
		<-answer
	}
}

// Neither for a store that does not.
func TestWaitEndsThoughTheStoreDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	p, err := projection.New("notes", w.catalog, w.work, mute{w.store}, w.bus, w.config())
	must(t, err)
	projection.On(p, note)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx, projection.Message("1"), time.Millisecond); !errors.Is(err, projection.ErrStale) {
		t.Error(err)
	}
}

// mute is a store whose database does not answer.
type mute struct{ projection.Store }

func (mute) Read(ctx context.Context, _ string) (projection.Model, error) {
	<-ctx.Done()
	return projection.Model{}, ctx.Err()
}

// silent is a bus whose brokers do not answer.
type silent struct{ *logbus }

func (silent) Latest(ctx context.Context, _ string) (map[int32]int64, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// stallOf returns why a partition stands still, if one does.
func stallOf(p *projection.Projection) error {
	lags, err := p.Lag(context.Background())
	if err != nil {
		return nil //nolint:nilerr // there is no model yet
	}
	for _, l := range lags[0].Partitions {
		if l.Stalled != nil {
			return l.Stalled
		}
	}
	return nil
}

// A partition that another process has now does not stand still in this one.
func TestAStallEndsWithTheSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	cfg.Retry = cqrs.Retry{Min: time.Hour, Max: time.Hour}
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(t, err)
	projection.On(p, func(context.Context, []Noted) error { return errors.New("poison") })
	r := w.run(p)
	w.publish(1, 20, "b")
	eventually(t, "the stall shows", func() (bool, string) { return stallOf(p) != nil, "" })
	must(t, r.stop())
	if err := stallOf(p); err != nil {
		t.Errorf("it stands still in a process that does not run: %v", err)
	}
}

// Messages that are gone are not behind the model: they will never be applied.
func TestWhatIsGoneIsNotBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	w.publish(1, 20, "a", "b")
	w.bus.trim(topic, 0, w.bus.end(topic, 0))
	w.bus.trim(topic, 1, w.bus.end(topic, 1)-3)
	cfg := w.config()
	cfg.Source = nil
	p := w.projection(cfg)
	w.run(p)
	eventually(t, "the model is level", func() (bool, string) {
		lags, err := p.Lag(t.Context())
		return err == nil && lags[0].Behind() == 0 && lags[0].Age() == 0, fmt.Sprintf("%+v", lags)
	})
}
