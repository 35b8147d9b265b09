package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// A relay deletes where its unit of work is: it must be the database that it reads.
func TestRelayRefusesTheUnitOfWorkOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	_, other := newOutbox(t, openSQLite(t))
	_, err := outbox.NewRelay(box, &scripted{}, outbox.RelayConfig{UnitOfWork: other})
	if err == nil || !strings.Contains(err.Error(), "RelayConfig.UnitOfWork") {
		t.Errorf("%v", err)
	}
}

func TestOwnerHasToBeStorable(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"a\x00b", "a\xff"} {
		err := outbox.RelayConfig{Owner: owner}.Validate()
		if err == nil || !strings.Contains(err.Error(), "RelayConfig.Owner") {
			t.Errorf("%q: %v", owner, err)
		}
	}
}

func TestLeaseHasLimits(t *testing.T) {
	t.Parallel()
	for _, lease := range []time.Duration{time.Millisecond, 25 * time.Hour, -1} {
		if err := (outbox.RelayConfig{Lease: lease}).Validate(); err == nil || !strings.Contains(err.Error(), "RelayConfig.Lease") {
			t.Errorf("%v: %v", lease, err)
		}
	}
}

// A negative limit is a mistake, and no wish for all.
func TestNegativeLimitsAreRefused(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	dead, by := outbox.DeadFilter{Limit: -1}, outbox.Action{Actor: "a", Reason: "r"}
	_, discard := box.Discard(t.Context(), dead, by)
	_, replay := box.Replay(t.Context(), dead, by)
	var list, archived error
	for _, list = range box.Dead(t.Context(), dead) {
	}
	for _, archived = range box.Archived(t.Context(), outbox.ArchiveFilter{Limit: -1}) {
	}
	for _, err := range []error{discard, replay, list, archived} {
		if err == nil || !strings.Contains(err.Error(), "Limit is -1") {
			t.Errorf("%v", err)
		}
	}
}

// A message whose transaction has ended is refused with all that came with it.
func TestPublishTakesAllMessagesOrNone(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	in := func(ctx context.Context, id string) *message.Message {
		m := message.NewMessage(id, nil)
		m.SetContext(ctx)
		return m
	}
	var old context.Context
	err := unit.Do(t.Context(), func(ctx context.Context) error { old = ctx; return nil })
	if err != nil {
		t.Fatal(err)
	}
	err = unit.Do(t.Context(), func(ctx context.Context) error {
		if err := box.Publish("t", in(ctx, "1"), in(old, "2")); !errors.Is(err, uow.ErrNoTransaction) {
			t.Errorf("%v", err)
		}
		return nil
	})
	var n int
	if err := errors.Join(err, db.Raw("SELECT count(*) FROM outbox").Row().Scan(&n)); err != nil || n != 0 {
		t.Errorf("%d messages were taken, %v", n, err)
	}
}

// A time that is further away than a duration can say is in the future all the same.
func TestAMessageThatIsDueInTheYear9999(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, outbox.RelayConfig{StuckAfter: 50 * time.Millisecond, MaxPoll: time.Hour})
	err := f.unit.Do(t.Context(), func(ctx context.Context) error {
		m := message.NewMessage("1", nil)
		m.Metadata.Set(outbox.HeaderDeliverAt, "9999-12-31T23:59:59Z")
		m.SetContext(ctx)
		return f.box.Publish("t", m)
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := stats(t, f.box); s.Overdue != 0 || s.Scheduled != 1 {
		t.Errorf("overdue by %v, %d scheduled", s.Overdue, s.Scheduled)
	}
	f.publish(t, "t", "k", "now") // wakes the scheduler, too
	f.drain(t)
	time.Sleep(100 * time.Millisecond)
	f.well(t)
	if s := stats(t, f.box); s.Scheduled != 1 {
		t.Errorf("%d scheduled", s.Scheduled)
	}
}
