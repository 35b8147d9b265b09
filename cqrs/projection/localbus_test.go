package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/outbox/uow"
)

// local moves the world to the bus of one process, which has no positions, behind an archive.
func (w *world) local() (*localbus.Bus, *archive) {
	w.t.Helper()
	bus := localbus.New(localbus.Config{InTransaction: uow.In, Wait: patience})
	w.t.Cleanup(func() { must(w.t, bus.Close()) })
	a := w.archived()
	a.to = bus.Publisher()
	return bus, a
}

// wrote is the model of everything in the archive.
func (w *world) wrote(a *archive) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := map[string]string{}
	for _, rec := range a.messages {
		v, err := w.catalog.Decode(&cqrs.Delivery{
			Envelope: cqrs.EnvelopeFrom(rec.Message), Topic: rec.Topic, Payload: rec.Message.Payload,
		})
		must(w.t, err)
		add(m, v.(Noted).Key, fmt.Sprint(v.(Noted).N))
	}
	return m
}

func (w *world) on(bus projection.Bus, cfg projection.Config) *projection.Projection {
	w.t.Helper()
	p, err := projection.New("notes", w.catalog, w.work, w.store, bus, cfg)
	must(w.t, err)
	projection.On(p, note)
	return p
}

// On the bus of one process the shadow takes over from the archive while events go on being published; it is
// stopped in the middle too, when its group has missed what the other processes' groups have acked.
func TestRule33_ArchiveThenLocalbus(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		bus, a := w.local()
		cfg := w.config()
		cfg.Source, cfg.MaxBatch = projection.FromArchive(a.read), 16
		p := w.on(bus, cfg)
		must(t, p.Declare(t.Context()))
		r := w.run(p)
		w.publish(1, 50, "a", "b", "c")
		stop := w.stream(51)
		for range 2 {
			must(t, p.Rebuild(t.Context()))
		}
		stop()
		must(t, r.stop())

		_, err := p.StartRebuild(t.Context())
		must(t, err)
		r = w.run(p)
		w.publish(1, 3, "a", "b", "c")
		must(t, r.stop())
		p = w.on(bus, cfg)
		w.run(p)
		eventually(t, "the last shadow is live", func() (bool, string) {
			m, err := p.Model(t.Context())
			must(t, err)
			return m.Live == 4, fmt.Sprintf("%+v", m)
		})
		w.publish(4, 9, "a", "b", "c")
		want := fmt.Sprint(w.wrote(a))
		eventually(t, "the model is level", func() (bool, string) {
			rows := w.rows(p)
			return fmt.Sprint(rows) == want, brief(rows) + " is not " + brief(w.wrote(a))
		})
		if lag := lagOf(t, p); lag.Behind() != 0 {
			t.Fatalf("%+v", lag)
		}
	})
}

// An event is published before the shadow has subscribed, and archived after the shadow has read the archive. The
// swap waits until the shadow has found it.
func TestRule33_ArchivedLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	cfg.Source, cfg.MaxBatch = projection.FromArchive(a.read), 4
	p := w.on(bus, cfg)
	must(t, p.Declare(t.Context()))
	w.run(p)
	w.publish(1, 40, "a", "b")
	reading, goOn, archived := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.before = func() {
		once.Do(func() {
			close(reading)
			<-goOn
		})
	}
	a.hold = func(n int) <-chan struct{} {
		if n == 40 {
			return archived
		}
		return nil
	}
	_, err := p.StartRebuild(t.Context())
	must(t, err)
	<-reading
	w.publish(41, 42, "b", "a") // the 41st, of key a, is held
	close(goOn)
	before := a.timesRead()
	eventually(t, "the archive is read again and again", func() (bool, string) { return a.timesRead() > before+3, "" })
	if got := w.generation(p); got != 1 {
		t.Fatalf("generation %d is live without an event that generation 1 has", got)
	}
	close(archived)
	eventually(t, "the shadow is live", func() (bool, string) { return w.generation(p) == 2, "" })
	if got, want := fmt.Sprint(w.rows(p)), fmt.Sprint(w.wrote(a)); got != want {
		t.Fatalf("%s is not %s", got, want)
	}
}

// The same with an event that the live model had before the rebuild began.
func TestRule33_ArchivedLaterThanTheRebuildBegan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	cfg.Source = projection.FromArchive(a.read)
	p := w.on(bus, cfg)
	must(t, p.Declare(t.Context()))
	w.run(p)
	archived := make(chan struct{})
	a.hold = func(int) <-chan struct{} { return archived }
	w.publish(1, 10, "a", "b")
	_, err := p.StartRebuild(t.Context())
	must(t, err)
	before := a.timesRead()
	eventually(t, "the archive is read again and again", func() (bool, string) { return a.timesRead() > before+3, "" })
	if got := w.generation(p); got != 1 {
		t.Fatalf("generation %d is live without what generation 1 has", got)
	}
	close(archived)
	eventually(t, "the shadow is live", func() (bool, string) { return w.generation(p) == 2, "" })
	eventually(t, "everything is archived", func() (bool, string) { return len(w.wrote(a)) == 2, "" })
	if got, want := fmt.Sprint(w.rows(p)), fmt.Sprint(w.wrote(a)); got != want {
		t.Fatalf("%s is not %s", got, want)
	}
}

func TestLocalbusHasNoHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	if err := w.on(bus, cfg).Run(t.Context()); !errors.Is(err, projection.ErrNoSource) {
		t.Errorf("from topics: %v", err)
	}
	cfg.Source = projection.FromSnapshot(
		func(context.Context, func(func(context.Context) error) error) ([]cqrs.Position, error) {
			return nil, nil
		})
	if err := w.on(bus, cfg).Run(t.Context()); !errors.Is(err, projection.ErrNoSource) {
		t.Errorf("from a snapshot, not guarded: %v", err)
	}
	cfg.Source, cfg.Inbox, cfg.Guarded = projection.FromArchive(a.read), nil, true
	if _, err := w.on(bus, cfg).StartRebuild(t.Context()); !errors.Is(err, projection.ErrNoSource) {
		t.Errorf("without an inbox: %v", err)
	}
}

// A new projection begins with what is published, before it runs too if it was declared.
func TestDeclare(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus, a := w.local()
	cfg := w.config()
	cfg.Source = nil
	p := w.on(bus, cfg)
	must(t, p.Declare(t.Context()))
	published := make(chan error, 1)
	go func() { published <- w.sender.Publish(context.WithoutCancel(t.Context()), Noted{"a", 1}) }()
	w.run(p)
	must(t, <-published)
	if got, want := fmt.Sprint(w.rows(p)), fmt.Sprint(w.wrote(a)); got != want {
		t.Fatalf("%s is not %s", got, want)
	}
}
