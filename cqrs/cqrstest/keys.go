package cqrstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/cqrs"
)

// KeysFixture is an empty store and the transactions that its method joins.
type KeysFixture struct {
	Keys cqrs.Keys
	Work cqrs.UnitOfWork
	// Request runs fn within a request that has this idempotency key, with the context that carries it.
	// Requests with the same key are the same request, sent again.
	Request func(ctx context.Context, key string, fn func(ctx context.Context))
	// InFlight reports whether an error says that the same request is under way elsewhere. nil: a second one waits.
	InFlight func(err error) bool
}

// RunKeys is the conformance suite of [cqrs.Keys]. It runs as subtests, each on a fixture of its own.
func RunKeys(t *testing.T, open func(t *testing.T) KeysFixture) {
	t.Helper()
	runCases(t, open, map[string]func(*testing.T, KeysFixture){
		"NoKey":      keysNoKey,
		"Replay":     keysReplay,
		"KeysApart":  keysApart,
		"Failure":    keysFailure,
		"Undo":       keysUndo,
		"SameAnswer": keysSameAnswer,
		"Race":       keysRace,
	})
}

// A receipt is a result as commands have them.
type receipt struct {
	Order string            `json:"order"`
	Units int               `json:"units"`
	Notes map[string]string `json:"notes,omitempty"`
}

// once runs a request under a key; run is what its command does.
func (f KeysFixture) once(t testing.TB, key string, run func(r *receipt) error) (r receipt, err error) {
	f.Request(t.Context(), key, func(ctx context.Context) { r, err = f.command(ctx, run) })
	return r, err
}

func (f KeysFixture) command(ctx context.Context, run func(r *receipt) error) (r receipt, err error) {
	err = f.Work.Do(ctx, func(ctx context.Context) error {
		r = receipt{}
		return f.Keys.Once(ctx, &r, func(context.Context) error { return run(&r) })
	})
	return r, err
}

func placed(order string) func(*receipt) error {
	return func(r *receipt) error {
		*r = receipt{Order: order, Units: 2, Notes: map[string]string{"é": "\"\n"}}
		return nil
	}
}

func notAgain(*receipt) error { return errors.New("it was run again") }

func keysNoKey(t *testing.T, f KeysFixture) {
	for i := range 2 {
		id := fmt.Sprint("o-", i)
		r, err := f.command(t.Context(), placed(id))
		must(t, err)
		want(t, "without a key", r.Order, id)
	}
}

func keysReplay(t *testing.T, f KeysFixture) {
	first, err := f.once(t, "k1", placed("o-1"))
	must(t, err)
	want(t, "the first answer", first.Order, "o-1")
	for range 2 {
		again, err := f.once(t, "k1", notAgain)
		must(t, err)
		want(t, "the replay", again, first)
	}
}

func keysApart(t *testing.T, f KeysFixture) {
	for _, key := range []string{"k1", "K1", "k2"} {
		r, err := f.once(t, key, placed("order of "+key))
		must(t, err)
		want(t, "a key of its own", r.Order, "order of "+key)
	}
}

func keysFailure(t *testing.T, f KeysFixture) {
	errNo := errors.New("no luck")
	if _, err := f.once(t, "k1", func(*receipt) error { return errNo }); !errors.Is(err, errNo) {
		t.Fatalf("a failure came back as %v", err)
	}
	r, err := f.once(t, "k1", placed("o-1"))
	must(t, err)
	want(t, "after a failure", r.Order, "o-1")
}

// The transaction fails after the command has succeeded: nothing of it may be replayed.
func keysUndo(t *testing.T, f KeysFixture) {
	f.Request(t.Context(), "k1", func(ctx context.Context) {
		undoIn(ctx, t, f.Work, func(ctx context.Context) error {
			var r receipt
			return f.Keys.Once(ctx, &r, func(context.Context) error { return placed("o-lost")(&r) })
		})
	})
	r, err := f.once(t, "k1", placed("o-1"))
	must(t, err)
	want(t, "after an undo", r.Order, "o-1")
}

// keysSameAnswer has the result filled in anew, whatever was in it before.
func keysSameAnswer(t *testing.T, f KeysFixture) {
	first, err := f.once(t, "k1", func(r *receipt) error { r.Order = "o-1"; return nil })
	must(t, err)
	var again receipt
	f.Request(t.Context(), "k1", func(ctx context.Context) {
		err = f.Work.Do(ctx, func(ctx context.Context) error {
			again = receipt{Units: 99, Notes: map[string]string{"left": "over"}}
			return f.Keys.Once(ctx, &again, func(context.Context) error { return notAgain(nil) })
		})
	})
	must(t, err)
	want(t, "the replay", again, first)
}

// keysRace sends each request several times at once: one run commits, and all that get an answer get that one.
func keysRace(t *testing.T, f KeysFixture) {
	const senders, requests = 4, 10
	var runs atomic.Int64
	var mu sync.Mutex
	answers := map[string]map[string]bool{}
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for n := range requests {
				key := fmt.Sprint("k", n)
				r, err := f.once(t, key, func(r *receipt) error {
					return placed(fmt.Sprint("run ", runs.Add(1)))(r)
				})
				if err != nil {
					if f.InFlight == nil || !f.InFlight(err) {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				if answers[key] == nil {
					answers[key] = map[string]bool{}
				}
				answers[key][r.Order] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n := range requests {
		key := fmt.Sprint("k", n)
		if len(answers[key]) != 1 {
			t.Errorf("%s was answered with %v", key, answers[key])
		}
	}
}
