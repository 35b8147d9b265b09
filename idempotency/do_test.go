package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
)

func doTx(ctx context.Context, b *bench, id string, in any, fn func(context.Context) (int, error)) (int, bool, error) {
	k := idempotency.Key{Scope: "s", Operation: "o", ID: id}
	n, info, err := idempotency.DoTx(ctx, b.store, k, in, fn)
	return n, info.Replayed, err
}

func TestRule29_DoTxCommitsWithItsResult(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		fails := func(ctx context.Context) (int, error) { return 1, errors.Join(place(ctx, "a"), errBoom) }
		works := func(ctx context.Context) (int, error) { return 2, place(ctx, "a") }
		_, _, err := doTx(t.Context(), b, "k", 1, fails)
		wantErr(t, err, errBoom)
		if n := b.count(t, "orders", "1 = 1") + b.count(t, "idempotency_keys", "1 = 1"); n != 0 {
			t.Errorf("%d rows are left of a call that failed", n)
		}
		for _, replayed := range []bool{false, true} {
			if n, r, err := doTx(t.Context(), b, "k", 1, works); n != 2 || r != replayed || err != nil {
				t.Errorf("got %d, %v, %v", n, r, err)
			}
		}
		_, _, err = doTx(t.Context(), b, "k", 2, works)
		wantErr(t, err, idempotency.ErrMismatch)
		_, _, err = doTx(t.Context(), b, "", 1, works)
		wantErr(t, err, idempotency.ErrKey)
	})
}

// Inside a transaction DoTx is a part of it: it is there if the whole is.
func TestRule29_DoTxJoins(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, b *bench) {
		outer := func(end error) error {
			return b.work.Do(t.Context(), func(ctx context.Context) error {
				_, _, err := doTx(ctx, b, "failed", 1, func(ctx context.Context) (int, error) {
					return 0, errors.Join(place(ctx, "undone"), errBoom)
				})
				if !errors.Is(err, errBoom) {
					return err
				}
				_, _, err = doTx(ctx, b, "k", 1, func(ctx context.Context) (int, error) { return 1, place(ctx, "a") })
				return errors.Join(err, end)
			})
		}
		wantErr(t, outer(errBoom), errBoom)
		if n := b.count(t, "orders", "1 = 1") + b.count(t, "idempotency_keys", "1 = 1"); n != 0 {
			t.Errorf("%d rows are left of a call that failed", n)
		}
		must(t, outer(nil))
		if n := b.count(t, "orders", "id = 'a'"); n != 1 || b.count(t, "orders", "1 = 1") != 1 {
			t.Errorf("%d orders", n)
		}
		if n := b.count(t, "idempotency_keys", "state = 1"); n != 1 || b.count(t, "idempotency_keys", "1 = 1") != 1 {
			t.Errorf("%d keys", n)
		}
	})
}

// Callers of one key at once, on two replicas, until each has its result: the function's effect is there once.
func TestRule29_DoTxRace(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, a *bench) {
		benches := []*bench{a, replica(t, a, 0)}
		const keys = 10
		var wg sync.WaitGroup
		for n := range 20 * keys {
			wg.Go(func() {
				id := fmt.Sprint(n % keys)
				for deadline := time.Now().Add(20 * time.Second); ; {
					got, _, err := doTx(t.Context(), benches[n/keys%2], id, 1, func(ctx context.Context) (int, error) {
						return n % keys, place(ctx, id)
					})
					if errors.Is(err, idempotency.ErrInFlight) && time.Now().Before(deadline) {
						continue
					}
					if err != nil || got != n%keys {
						t.Errorf("%s: %d, %v", id, got, err)
					}
					return
				}
			})
		}
		wg.Wait()
		if n := a.count(t, "orders", "1 = 1"); n != keys {
			t.Errorf("%d orders", n)
		}
	})
}

// Of many callers of Do one runs; the others are told that it does, or get its result.
func TestRule30_DoRace(t *testing.T) {
	t.Parallel()
	onEach(t, 0, func(t *testing.T, a *bench) {
		benches := []*bench{a, replica(t, a, 0)}
		k := idempotency.Key{Scope: "s", Operation: "o", ID: "k"}
		var runs atomic.Int64
		var wg sync.WaitGroup
		for n := range 40 {
			wg.Go(func() {
				got, _, err := idempotency.Do(t.Context(), benches[n%2].store, k, 1,
					func(ctx context.Context, at *idempotency.Attempt) (int64, error) {
						return idempotency.Step(ctx, at, "effect", func(context.Context, string) (int64, error) {
							return runs.Add(1), nil
						})
					})
				if !errors.Is(err, idempotency.ErrInFlight) && (err != nil || got != 1) {
					t.Errorf("got %d, %v", got, err)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
	})
}

// A panic passes through Do, and the key is as free as after an error.
func TestRule30_DoPanics(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	k := idempotency.Key{Scope: "s", Operation: "o", ID: "k"}
	for _, started := range []bool{false, true} {
		func() {
			defer func() {
				if v := recover(); v != "ouch" {
					t.Errorf("panic is %v", v)
				}
			}()
			_, _, _ = idempotency.Do(t.Context(), b.store, k, 1, func(ctx context.Context, a *idempotency.Attempt) (int, error) {
				if started {
					must(t, a.Start(ctx))
				}
				panic("ouch")
			})
		}()
		c, err := b.store.Begin(t.Context(), idempotency.ClaimRequest{Key: k, Fingerprint: idempotency.Fingerprint{1}})
		must(t, err)
		want := map[bool]idempotency.State{false: idempotency.Acquired, true: idempotency.Mismatch}[started]
		if c.State != want {
			t.Errorf("started %v: %v, want %v", started, c.State, want)
		}
		if c.State == idempotency.Acquired {
			must(t, b.store.Release(t.Context(), c))
		}
	}
}
