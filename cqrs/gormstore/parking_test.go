package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"pgregory.net/rapid"
)

const grp = "orders"

func parked(queue, id string) *cqrs.Parked {
	return &cqrs.Parked{Record: cqrs.Record{
		Group: grp, ID: id, Queue: queue, Topic: "orders.commands", Type: "orders.place", Key: queue,
		Payload: []byte(`{"a":1}`), Metadata: map[string]string{"ce_type": "orders.place", "x": "ü"},
		Attempt:  1,
		Failures: []cqrs.Failure{{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Error: "no luck"}},
	}}
}

func (f *fixture) append(t *testing.T, messages ...*cqrs.Parked) {
	t.Helper()
	f.do(t, func(ctx context.Context) error { return gormstore.NewParking().Append(ctx, messages) })
}

func (f *fixture) lease(t *testing.T, limit int, ttl time.Duration) []*cqrs.Parked {
	t.Helper()
	var leased []*cqrs.Parked
	f.do(t, func(ctx context.Context) (err error) {
		leased, err = gormstore.NewParking().Lease(ctx, grp, limit, ttl)
		return err
	})
	return leased
}

func (f *fixture) consume(t *testing.T, messages ...*cqrs.Parked) error {
	t.Helper()
	return f.work.Do(t.Context(), func(ctx context.Context) error {
		return gormstore.NewParking().Consume(ctx, messages)
	})
}

func (f *fixture) reschedule(t *testing.T, messages ...*cqrs.Parked) error {
	t.Helper()
	return f.work.Do(t.Context(), func(ctx context.Context) error {
		return gormstore.NewParking().Reschedule(ctx, messages)
	})
}

func idsOf(messages []*cqrs.Parked) string {
	var ids []string
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return strings.Join(ids, " ")
}

// What follows a head is leased with it, so that a queue does not cost a transaction per message.
func TestRule04_SuccessorsAreLeasedWithTheHead(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		head := parked("k1", "m1")
		head.Delay = time.Hour
		f.append(t, head, parked("k1", "m2"), parked("k2", "m3"))
		f.append(t, parked("k1", "m4"))
		if got := idsOf(f.lease(t, 10, time.Minute)); got != "m3" {
			t.Fatalf("leased %q while k1 waits", got)
		}
		must(t, f.consume(t, head))
		got := f.lease(t, 10, time.Minute)
		if idsOf(got) != "m2 m4" || got[0].Lease != got[1].Lease {
			t.Fatalf("leased %q behind the head", idsOf(got))
		}
	})
}

// A message that is parked under another queue, such as a scheduled one under its own ID, is ignored; what comes behind
// it is then its queue's head.
func TestRule04_WhatIsBehindAnIgnoredMessageIsTheHead(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		scheduled := parked("m1", "m1")
		scheduled.Delay = time.Hour
		f.append(t, scheduled)
		f.append(t, parked("k1", "m1"), parked("k1", "m2"))
		if got := idsOf(f.lease(t, 10, time.Minute)); got != "m2" {
			t.Errorf("leased %q, want m2", got)
		}
	})
}

func TestParkingNeedsATransaction(t *testing.T) {
	t.Parallel()
	p := gormstore.NewParking()
	if _, err := p.Lease(t.Context(), grp, 1, time.Second); !errors.Is(err, uow.ErrNoTransaction) {
		t.Errorf("Lease = %v", err)
	}
	if err := p.Append(t.Context(), []*cqrs.Parked{parked("k", "m")}); !errors.Is(err, uow.ErrNoTransaction) {
		t.Errorf("Append = %v", err)
	}
}

// However messages are parked, failed and consumed: each key keeps its order, nothing is lost or doubled.
func TestRule04_ParkingStateMachine(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	rapid.Check(t, func(rt *rapid.T) {
		must(t, f.db.Exec("DELETE FROM cqrs_parked").Error)
		model := map[string][]string{} // queue -> ids
		next := 0
		var held []*cqrs.Parked
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				var batch []*cqrs.Parked
				for range rapid.IntRange(1, 4).Draw(rt, "n") {
					q := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "queue")
					next++
					m := parked(q, fmt.Sprintf("m%d", next))
					batch = append(batch, m)
					model[q] = append(model[q], m.ID)
				}
				f.append(t, batch...)
			},
			"lease": func(rt *rapid.T) {
				if len(held) > 0 {
					rt.Skip("one worker")
				}
				held = f.lease(t, rapid.IntRange(1, 5).Draw(rt, "limit"), time.Hour)
				seen := map[string]int{}
				for _, m := range held {
					if model[m.Queue][seen[m.Queue]] != m.ID {
						rt.Fatalf("leased %q, but %s holds %v", idsOf(held), m.Queue, model[m.Queue])
					}
					seen[m.Queue]++
				}
				total := len(model["a"]) + len(model["b"]) + len(model["c"])
				if len(held) == 0 && total > 0 {
					rt.Fatalf("nothing is due, but %v wait", model)
				}
			},
			"consume some": func(rt *rapid.T) {
				if len(held) == 0 {
					rt.Skip("nothing is leased")
				}
				n := rapid.IntRange(0, len(held)).Draw(rt, "n")
				failed := map[string]bool{}
				var done, again []*cqrs.Parked
				for i, m := range held {
					failed[m.Queue] = failed[m.Queue] || i >= n
					if failed[m.Queue] {
						again = append(again, m)
						continue
					}
					done = append(done, m)
					model[m.Queue] = model[m.Queue][1:]
				}
				must(t, f.consume(t, done...))
				must(t, f.reschedule(t, again...))
				held = nil
			},
		})
	})
}
