package cqrstest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

func parkReschedule(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k1", "m2"))
	m := f.lease(t, 10, time.Hour)
	m[0].Attempt, m[0].Payload, m[0].Metadata = 4, []byte("edited"), map[string]string{"x": "edited"}
	m[0].Failures = append(m[0].Failures, cqrs.Failure{At: time.Unix(1, 0).UTC(), Error: "again"})
	must(t, f.reschedule(t, m...))
	isErr(t, "Consume with a lease that Reschedule ended", f.consume(t, m...), cqrs.ErrLeaseLost)
	again := f.lease(t, 1, time.Hour)
	if idsOf(again) != "m1" {
		t.Fatalf("leased %q after Reschedule ended the lease", idsOf(again))
	}
	want(t, "rewritten", again[0].Record, m[0].Record)
	again[0].Delay = time.Hour
	must(t, f.reschedule(t, again...))
	want(t, "before its time", f.drain(t), "")
	again[0].Delay, again[0].Lease = 0, "" // not checked
	must(t, f.reschedule(t, again...))
	want(t, "after it", f.drain(t), "m1 m2")
}

func parkUnknown(t *testing.T, f ParkingFixture) {
	must(t, f.reschedule(t, parked("k1", "m1")))
	must(t, f.consume(t, parked("k1", "m1")))
	want(t, "unknown messages came to be", f.look(t, "k1"), []bool{false})
}

func parkBlocked(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k1", "m2"))
	head := f.lease(t, 1, time.Hour)
	head[0].Blocked, head[0].Dead = true, true
	must(t, f.reschedule(t, head...))
	want(t, "behind a blocked head", f.drain(t), "")
	want(t, "a blocked queue is parked", f.look(t, "k1"), []bool{true})
	head[0].Blocked, head[0].Lease = false, ""
	must(t, f.reschedule(t, head...))
	got := f.lease(t, 1, time.Hour)
	if idsOf(got) != "m1" || !got[0].Dead || got[0].Blocked {
		t.Fatalf("leased %+v after the replay", got)
	}
	must(t, f.consume(t, got...))
	want(t, "behind it", f.drain(t), "m2")
}

func parkConsumeMiddle(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k1", "m2"), parked("k1", "m3"))
	must(t, f.consume(t, parked("k1", "m2")))
	want(t, "without the middle", f.drain(t), "m1 m3")
}

// A message that is blocked does not become due because the one before it goes.
func parkConsumeBlocked(t *testing.T, f ParkingFixture) {
	blocked := parked("k1", "m2")
	blocked.Blocked = true
	f.append(t, parked("k1", "m1"), blocked, parked("k1", "m3"))
	want(t, "up to the blocked one", f.drain(t), "m1")
	must(t, f.consume(t, blocked))
	want(t, "behind it", f.drain(t), "m3")
}

func parkUndo(t *testing.T, f ParkingFixture) {
	undo(t, f.Work, func(ctx context.Context) error {
		return f.Parking.Append(ctx, []*cqrs.Parked{parked("k1", "m1")})
	})
	want(t, "an undone Append", f.look(t, "k1"), []bool{false})
	f.append(t, parked("k1", "m1"), parked("k1", "m2"))
	undo(t, f.Work, func(ctx context.Context) error {
		_, err := f.Parking.Lease(ctx, group, 1, time.Hour)
		return err
	})
	leased := f.lease(t, 1, time.Hour)
	want(t, "an undone Lease", idsOf(leased), "m1")
	undo(t, f.Work, func(ctx context.Context) error { return f.Parking.Consume(ctx, leased) })
	undo(t, f.Work, func(ctx context.Context) error { return f.Parking.Reschedule(ctx, leased) })
	want(t, "an undone Consume or Reschedule ended the lease", idsOf(f.lease(t, 10, time.Hour)), "")
	must(t, f.consume(t, leased...))
	want(t, "behind it", f.drain(t), "m2")
}

func parkOddNames(t *testing.T, f ParkingFixture) {
	names := oddNames()
	all := make([]*cqrs.Parked, len(names))
	for i, name := range names {
		all[i] = parked(name, name)
		all[i].Topic = strings.Repeat("t", 249)
		all[i].Type = name
	}
	f.append(t, all...)
	leased := map[string]cqrs.Record{}
	for _, m := range f.lease(t, len(names), time.Hour) {
		leased[m.ID] = m.Record
	}
	for i, name := range names {
		want(t, "stored as "+name, leased[name], all[i].Record)
	}
	must(t, f.consume(t, all[0])) // "m1", not "M1"
	parkedQueues := f.look(t, "M1", "m1", "m1 ")
	want(t, "similar names", parkedQueues, []bool{true, false, true})
}

func parkMany(t *testing.T, f ParkingFixture) {
	ids := numbered("m", many)
	queues := numbered("q", many/10)
	all := make([]*cqrs.Parked, many)
	for i, id := range ids {
		all[i] = parked(queues[i%len(queues)], id)
		all[i].Payload = all[i].Payload[:8]
	}
	f.append(t, all...)
	look := numbered("q", many) // a tenth of them are there
	for i, is := range f.look(t, look...) {
		if is != (i < len(queues)) {
			t.Fatalf("%s is parked: %v", look[i], is)
		}
	}
	last, n := map[string]string{}, 0
	for leased := f.lease(t, many, time.Hour); len(leased) > 0; leased = f.lease(t, many, time.Hour) {
		for _, m := range leased {
			if m.ID <= last[m.Queue] {
				t.Fatalf("%s came after %s", m.ID, last[m.Queue])
			}
			last[m.Queue] = m.ID
		}
		n += len(leased)
		must(t, f.consume(t, leased...))
	}
	want(t, "leased in all", n, many)
}
