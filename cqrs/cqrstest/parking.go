package cqrstest

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// ParkingFixture is an empty store and the transactions that its methods join.
type ParkingFixture struct {
	Parking cqrs.Parking
	Work    cqrs.UnitOfWork
}

// RunParking is the conformance suite of [cqrs.Parking]. It runs as subtests, each on a fixture of its own.
func RunParking(t *testing.T, open func(t *testing.T) ParkingFixture) {
	t.Helper()
	runCases(t, open, map[string]func(*testing.T, ParkingFixture){
		"RoundTrip":         parkRoundTrip,
		"NoPayload":         parkNoPayload,
		"BinaryMetadata":    parkBinaryMetadata,
		"Order":             parkOrder,
		"Delay":             parkDelay,
		"Parked":            parkLook,
		"AppendTwice":       parkAppendTwice,
		"GroupsApart":       parkGroups,
		"LeaseLimit":        parkLeaseLimit,
		"LeaseExcludes":     parkLeaseExcludes,
		"LeasePassesBy":     parkLeasePassesBy,
		"LostLeaseUndoes":   parkLostLease,
		"Reschedule":        parkReschedule,
		"RescheduleUnknown": parkUnknown,
		"Blocked":           parkBlocked,
		"ConsumeMiddle":     parkConsumeMiddle,
		"ConsumeBlocked":    parkConsumeBlocked,
		"Undo":              parkUndo,
		"OddNames":          parkOddNames,
		"Many":              parkMany,
		"AppendMeetsEnd":    parkAppendMeetsEnd,
		"AppendMeetsAppend": parkAppendMeetsAppend,
		"Workers":           parkWorkers,
		"RandomWalk":        parkRandomWalk,
	})
}

func parked(queue, id string) *cqrs.Parked {
	return &cqrs.Parked{Record: record(queue, id)}
}

func record(queue, id string) cqrs.Record {
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = byte(i)
	}
	return cqrs.Record{
		Group: group, ID: id, Queue: queue, Topic: "orders.commands", Type: "orders.place", Key: queue,
		Payload: payload, Metadata: map[string]string{"ce_type": "orders.place", "x": "ü\n\"'\\", "empty": ""},
		Attempt:  3,
		Failures: []cqrs.Failure{{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Error: "no luck: \"100%\""}},
	}
}

func (f ParkingFixture) append(t testing.TB, messages ...*cqrs.Parked) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) error { return f.Parking.Append(ctx, messages) })
}

func (f ParkingFixture) lease(t testing.TB, limit int, ttl time.Duration) (leased []*cqrs.Parked) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) (err error) {
		leased, err = f.Parking.Lease(ctx, group, limit, ttl)
		return err
	})
	if len(leased) > limit {
		t.Fatalf("leased %d messages, %d were asked for", len(leased), limit)
	}
	return leased
}

func (f ParkingFixture) consume(t testing.TB, messages ...*cqrs.Parked) error {
	t.Helper()
	return f.Work.Do(t.Context(), func(ctx context.Context) error { return f.Parking.Consume(ctx, messages) })
}

func (f ParkingFixture) reschedule(t testing.TB, messages ...*cqrs.Parked) error {
	t.Helper()
	return f.Work.Do(t.Context(), func(ctx context.Context) error { return f.Parking.Reschedule(ctx, messages) })
}

func (f ParkingFixture) look(t testing.TB, queues ...string) (got []bool) {
	t.Helper()
	commit(t, f.Work, func(ctx context.Context) (err error) {
		got, err = f.Parking.Parked(ctx, group, queues)
		return err
	})
	return got
}

// drain leases and consumes until nothing is due, and returns the IDs in the order in which they were leased.
func (f ParkingFixture) drain(t testing.TB) string {
	t.Helper()
	var all []*cqrs.Parked
	for leased := f.lease(t, 100, time.Hour); len(leased) > 0; leased = f.lease(t, 100, time.Hour) {
		must(t, f.consume(t, leased...))
		all = append(all, leased...)
	}
	return idsOf(all)
}

func idsOf(messages []*cqrs.Parked) string {
	var ids []string
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return strings.Join(ids, " ")
}

func parkRoundTrip(t *testing.T, f ParkingFixture) {
	whole := parked("k1", "m1")
	whole.Dead = true
	f.append(t, whole)
	got := f.lease(t, 10, time.Minute)
	if len(got) != 1 || got[0].Lease == "" || got[0].Blocked || !got[0].Dead {
		t.Fatalf("leased %+v", got)
	}
	if !reflect.DeepEqual(got[0].Record, whole.Record) {
		t.Fatalf("got  %+v\nwant %+v", got[0].Record, whole.Record)
	}
}

func parkNoPayload(t *testing.T, f ParkingFixture) {
	m := parked("k1", "m1")
	m.Payload, m.Metadata, m.Failures, m.Key, m.Type, m.Attempt = nil, nil, nil, "", "", 0
	f.append(t, m)
	got := f.lease(t, 1, time.Minute)
	if len(got) != 1 || len(got[0].Payload) != 0 || len(got[0].Metadata) != 0 || len(got[0].Failures) != 0 {
		t.Fatalf("leased %+v", got)
	}
}

// Metadata may be any bytes: what a producer has put into a header, or a key that is no text.
func parkBinaryMetadata(t *testing.T, f ParkingFixture) {
	m := parked("k1", "m1")
	m.Metadata = map[string]string{"key": "\x00\xff\x01", "\xfe": "text", "x": "\uFFFD", "empty": ""}
	f.append(t, m)
	got := f.lease(t, 1, time.Minute)
	if len(got) != 1 {
		t.Fatalf("leased %+v", got)
	}
	want(t, "appended", got[0].Metadata, m.Metadata)
	m.Metadata["key"] = "\xc3\x28"
	must(t, f.reschedule(t, m))
	want(t, "rescheduled", f.lease(t, 1, time.Minute)[0].Metadata, m.Metadata)
}

func parkOrder(t *testing.T, f ParkingFixture) {
	head := parked("k1", "m1")
	head.Delay = time.Hour
	f.append(t, head, parked("k1", "m2"), parked("k2", "m3"))
	f.append(t, parked("k1", "m4"))
	if got := idsOf(f.lease(t, 10, time.Minute)); got != "m3" {
		t.Fatalf("leased %q while the head of k1 waits", got)
	}
	must(t, f.consume(t, head))
	if got := f.drain(t); got != "m2 m4" {
		t.Fatalf("leased %q behind the head", got)
	}
}

func parkDelay(t *testing.T, f ParkingFixture) {
	past, next := parked("k1", "m1"), parked("k1", "m2")
	past.Delay, next.Delay = -time.Hour, time.Hour
	f.append(t, past, next)
	leased := f.lease(t, 10, time.Minute)
	want(t, "a delay of less than 0 is none", idsOf(leased), "m1")
	must(t, f.consume(t, leased...))
	want(t, "the next head keeps its own delay", idsOf(f.lease(t, 10, time.Minute)), "")
}

func parkLook(t *testing.T, f ParkingFixture) {
	want(t, "in an empty store", f.look(t, "k1", "k2"), []bool{false, false})
	f.append(t, parked("k2", "m1"), parked("k2", "m2"))
	want(t, "parked", f.look(t, "k1", "k2", "k3"), []bool{false, true, false})
	must(t, f.consume(t, f.lease(t, 1, time.Minute)...))
	want(t, "with one message left", f.look(t, "k1", "k2", "k3"), []bool{false, true, false})
	must(t, f.consume(t, parked("k2", "m2")))
	want(t, "with none left", f.look(t, "k1", "k2", "k3"), []bool{false, false, false})
}

func parkAppendTwice(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k1", "m2"))
	f.append(t, parked("k1", "m1"), parked("k1", "m3"))
	want(t, "appended twice", f.drain(t), "m1 m2 m3")
}

func parkGroups(t *testing.T, f ParkingFixture) {
	other := parked("k1", "m1")
	other.Group = elsewhere
	f.append(t, other)
	want(t, "another group's queue", f.look(t, "k1"), []bool{false})
	want(t, "another group's message", f.drain(t), "")
	f.append(t, parked("k1", "m1"))
	must(t, f.consume(t, parked("k1", "m1")))
	var left []*cqrs.Parked
	commit(t, f.Work, func(ctx context.Context) (err error) {
		left, err = f.Parking.Lease(ctx, elsewhere, 10, time.Minute)
		return err
	})
	want(t, "the other group's", idsOf(left), "m1")
}

func parkLeaseLimit(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k2", "m2"), parked("k3", "m3"))
	want(t, "with a limit of 0", len(f.lease(t, 0, time.Minute)), 0)
	want(t, "with a limit of 2", len(f.lease(t, 2, time.Minute)), 2)
	want(t, "what is left", len(f.lease(t, 2, time.Minute)), 1)
}

func parkLeaseExcludes(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"))
	first := f.lease(t, 10, time.Nanosecond) // over at once
	want(t, "leased", idsOf(first), "m1")
	second := f.lease(t, 10, time.Hour)
	if len(second) != 1 || second[0].Lease == first[0].Lease {
		t.Fatalf("a lease that ran out was not taken over: %q", idsOf(second))
	}
	want(t, "leased twice", idsOf(f.lease(t, 10, time.Hour)), "")
	if err := f.consume(t, first...); !errors.Is(err, cqrs.ErrLeaseLost) {
		t.Fatalf("Consume with a lost lease = %v", err)
	}
	if err := f.reschedule(t, first...); !errors.Is(err, cqrs.ErrLeaseLost) {
		t.Fatalf("Reschedule with a lost lease = %v", err)
	}
	must(t, f.consume(t, second...))
	if err := f.consume(t, second...); !errors.Is(err, cqrs.ErrLeaseLost) {
		t.Fatalf("Consume of what is gone, with its lease = %v", err)
	}
}

// A head whose followers are still leased has to wait, perhaps. It takes no place of a queue that has not.
func parkLeasePassesBy(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k1", "m2"), parked("k2", "m3"), parked("k2", "m4"))
	leased := f.lease(t, 10, time.Hour)
	for _, m := range leased {
		if m.ID == "m1" || m.ID == "m3" {
			must(t, f.reschedule(t, m))
		}
	}
	f.append(t, parked("k3", "m5"))
	want(t, "with a limit of 1, while something is due", len(f.lease(t, 1, time.Hour)), 1)
}

func parkLostLease(t *testing.T, f ParkingFixture) {
	f.append(t, parked("k1", "m1"), parked("k2", "m2"))
	leased := f.lease(t, 10, time.Hour)
	stale := *leased[1]
	stale.Lease = "somebody else's"
	for name, write := range map[string]func(testing.TB, ...*cqrs.Parked) error{
		"Consume": f.consume, "Reschedule": f.reschedule,
	} {
		if err := write(t, leased[0], &stale); !errors.Is(err, cqrs.ErrLeaseLost) {
			t.Fatalf("%s with one lost lease of two = %v", name, err)
		}
		want(t, name+" wrote", f.look(t, "k1", "k2"), []bool{true, true})
		want(t, name+" ended a lease", idsOf(f.lease(t, 10, time.Hour)), "")
	}
	must(t, f.consume(t, leased...))
}
