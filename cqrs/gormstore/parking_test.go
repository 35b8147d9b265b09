package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
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

func TestRule04_WhatIsParkedComesBackAsItWas(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		want := parked("k1", "m1")
		f.append(t, want)
		got := f.lease(t, 10, time.Minute)
		if len(got) != 1 || got[0].Lease == "" || got[0].Blocked || got[0].Dead {
			t.Fatalf("leased %+v", got)
		}
		if !reflect.DeepEqual(got[0].Record, want.Record) {
			t.Fatalf("got  %+v\nwant %+v", got[0].Record, want.Record)
		}
	})
}

func TestRule04_AMessageWithoutPayloadIsParked(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		m := parked("k1", "m1")
		m.Payload, m.Metadata, m.Failures = nil, nil, nil
		f.append(t, m)
		if got := f.lease(t, 1, time.Minute); len(got) != 1 || len(got[0].Payload) != 0 {
			t.Fatalf("leased %+v", got)
		}
	})
}

func TestRule04_SuccessorsWaitBehindTheHead(t *testing.T) {
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

func TestRule04_ParkedQueues(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		other := parked("k3", "m9")
		other.Group = "elsewhere"
		f.append(t, parked("k2", "m1"), parked("k2", "m2"), other)
		look := func() (got []bool) {
			f.do(t, func(ctx context.Context) (err error) {
				got, err = gormstore.NewParking().Parked(ctx, grp, []string{"k1", "k2", "k3"})
				return err
			})
			return got
		}
		if got := look(); !slices.Equal(got, []bool{false, true, false}) {
			t.Fatalf("parked %v", got)
		}
		leased := f.lease(t, 1, time.Minute)
		must(t, f.consume(t, leased...))
		if got := look(); !slices.Equal(got, []bool{false, true, false}) {
			t.Fatalf("a queue with one message left is not parked: %v", got)
		}
		must(t, f.consume(t, parked("k2", "m2")))
		if got := look(); !slices.Equal(got, []bool{false, false, false}) {
			t.Fatalf("an empty queue is parked: %v", got)
		}
	})
}

func TestRule04_AppendIgnoresWhatIsThere(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		f.append(t, parked("k1", "m1"), parked("k1", "m2"))
		f.append(t, parked("k1", "m1"), parked("k1", "m3"))
		if got := idsOf(f.lease(t, 10, time.Minute)); got != "m1 m2 m3" {
			t.Fatalf("leased %q", got)
		}
	})
}

func TestRule04_ALeaseKeepsOthersAway(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		f.append(t, parked("k1", "m1"))
		first := f.lease(t, 10, time.Nanosecond) // over at once
		if len(first) != 1 {
			t.Fatalf("leased %q", idsOf(first))
		}
		second := f.lease(t, 10, time.Hour)
		if len(second) != 1 || second[0].Lease == first[0].Lease {
			t.Fatalf("a lease that ran out was not taken over: %q", idsOf(second))
		}
		if third := f.lease(t, 10, time.Hour); len(third) != 0 {
			t.Fatalf("leased %q twice", idsOf(third))
		}
		if err := f.consume(t, first...); !errors.Is(err, cqrs.ErrLeaseLost) {
			t.Fatalf("Consume with a lost lease = %v", err)
		}
		if err := f.reschedule(t, first...); !errors.Is(err, cqrs.ErrLeaseLost) {
			t.Fatalf("Reschedule with a lost lease = %v", err)
		}
		must(t, f.consume(t, second...))
	})
}

func TestRule04_RescheduleEndsTheLease(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		f.append(t, parked("k1", "m1"), parked("k1", "m2"))
		leased := f.lease(t, 10, time.Hour)
		leased[0].Attempt = 2
		leased[0].Failures = append(leased[0].Failures, cqrs.Failure{Error: "again"})
		leased[0].Payload = []byte("edited")
		must(t, f.reschedule(t, leased...))
		again := f.lease(t, 1, time.Hour)
		if idsOf(again) != "m1" || again[0].Attempt != 2 || string(again[0].Payload) != "edited" ||
			len(again[0].Failures) != 2 {
			t.Fatalf("leased %+v", again)
		}
		again[0].Delay = time.Hour
		must(t, f.reschedule(t, again...))
		if got := f.lease(t, 10, time.Hour); len(got) != 0 {
			t.Fatalf("leased %q before its time", idsOf(got))
		}
	})
}

func TestRule05_ABlockedHeadHoldsItsQueue(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		f.append(t, parked("k1", "m1"), parked("k1", "m2"))
		head := f.lease(t, 1, time.Hour)
		head[0].Blocked, head[0].Dead = true, true
		must(t, f.reschedule(t, head...))
		if got := f.lease(t, 10, time.Hour); len(got) != 0 {
			t.Fatalf("leased %q behind a dead letter", idsOf(got))
		}
		head[0].Blocked, head[0].Lease = false, ""
		must(t, f.reschedule(t, head...))
		got := f.lease(t, 10, time.Hour)
		if idsOf(got) != "m1 m2" || !got[0].Dead || got[1].Dead {
			t.Fatalf("leased %q after the replay", idsOf(got))
		}
	})
}

// A lane appends behind a head while a worker consumes that head: the message must not stay behind.
func TestRule04_AppendMeetsConsume(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		for i := range 20 {
			f.append(t, parked("k1", fmt.Sprintf("head-%d", i)))
			head := f.lease(t, 1, time.Hour)
			done := make(chan error, 1)
			next := parked("k1", fmt.Sprintf("next-%d", i))
			go func() {
				done <- f.work.Do(t.Context(), func(ctx context.Context) error {
					return gormstore.NewParking().Append(ctx, []*cqrs.Parked{next})
				})
			}()
			must(t, f.consume(t, head...))
			must(t, <-done)
			got := f.lease(t, 10, time.Hour)
			if idsOf(got) != next.ID {
				t.Fatalf("round %d: leased %q, the message is stuck", i, idsOf(got))
			}
			must(t, f.consume(t, got...))
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
