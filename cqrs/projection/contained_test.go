package projection_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// nilError is an error whose methods need more than its nil.
type nilError struct{ cause error }

func (e *nilError) Error() string { return "wrong: " + e.cause.Error() }
func (e *nilError) Unwrap() error { return e.cause }

// What an apply function does to its goroutine, or returns, holds up its partition like any other failure, and nothing
// else: the projection goes on when it is healed.
func TestApplyIsContained(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]func() error{
		"Goexit":    func() error { runtime.Goexit(); return nil },
		"typed nil": func() error { var e *nilError; return e },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, openSQLite(t))
			p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, w.config())
			must(t, err)
			var healed atomic.Bool
			projection.On(p, func(ctx context.Context, events []Noted) error {
				for _, e := range events {
					if e.N == 7 && !healed.Load() {
						return wrong()
					}
				}
				return note(ctx, events)
			})
			w.run(p)
			w.publish(1, 20, "a", "b")
			eventually(t, "the stall shows", func() (bool, string) {
				err := stallOf(p)
				return errors.Is(err, projection.ErrPanic), fmt.Sprint(err)
			})
			healed.Store(true)
			w.level(p)
		})
	}
}

// A generation whose tables cannot be made, or whose source cannot be read, because the application's code panics or
// ends its goroutine, is tried again; so is one that cannot be dropped.
func TestCreateDropAndSourceAreContained(t *testing.T) {
	t.Parallel()
	wrong := []func(){runtime.Goexit, func() { panic("wrong") }}
	for _, where := range []string{"create", "drop", "archive"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, openSQLite(t))
			cfg, a := w.config(), w.archived()
			var calls atomic.Int32
			misbehave := func(at string) {
				if n := int(calls.Load()); at == where && n < len(wrong) {
					calls.Add(1)
					wrong[n]()
				}
			}
			cfg.Create = func(ctx context.Context) error { misbehave("create"); return w.create(ctx) }
			cfg.Drop = func(ctx context.Context) error { misbehave("drop"); return w.drop(ctx) }
			cfg.Source = projection.FromArchive(
				func(ctx context.Context, q projection.ArchiveQuery) iter.Seq2[projection.Archived, error] {
					misbehave("archive")
					return a.read(ctx, q)
				})
			cfg.DropAfter = time.Millisecond
			p := w.run(w.projection(cfg))
			w.publish(1, 10, "a", "b")
			w.level(p.Projection)
			must(t, p.Rebuild(t.Context()))
			eventually(t, "the old generation is dropped", func() (bool, string) {
				m, err := p.Model(t.Context())
				must(t, err)
				return len(m.Generations) == 1, fmt.Sprintf("%+v", m)
			})
			must(t, p.stop())
		})
	}
}

// What a generation that failed was given ends with it: it is tried again as often as it takes.
func TestAFailedGenerationLetsGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	cfg := w.config()
	var begun, ended atomic.Int32
	cfg.Create = func(ctx context.Context) error {
		if begun.Add(1) > 3 {
			return w.create(ctx)
		}
		context.AfterFunc(ctx, func() { ended.Add(1) })
		return errors.New("no room")
	}
	p := w.run(w.projection(cfg))
	w.publish(1, 10, "a", "b")
	w.level(p.Projection)
	eventually(t, "their contexts end", func() (bool, string) { return ended.Load() == 3, fmt.Sprint(ended.Load()) })
}

// Trap is an event whose decoding ends the goroutine.
type Trap struct{ Key string }

// UnmarshalJSON is the application's code too.
func (*Trap) UnmarshalJSON([]byte) error { runtime.Goexit(); return nil }

// An event whose decoding ends its goroutine holds up its partition, and not the reader of its topic.
func TestDecodingIsContained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	w.catalog = cqrs.NewCatalog(
		cqrs.Event[Noted]{Name: "notes.noted", Key: func(e Noted) string { return e.Key }},
		cqrs.Event[Trap]{Name: "notes.trap", Key: func(e Trap) string { return e.Key }},
	)
	var err error
	w.sender, err = cqrs.NewSender(w.catalog, w.bus, cqrs.SenderConfig{})
	must(t, err)
	p := w.projection(w.config())
	projection.On(p, func(context.Context, []Trap) error { return nil })
	w.run(p)
	must(t, w.sender.Publish(t.Context(), Trap{"b"}))
	w.publish(1, 4, "a", "b")
	eventually(t, "the other partition goes on", func() (bool, string) {
		rows := w.rows(p)
		return rows["a"] == "2,4", fmt.Sprint(rows)
	})
}
