package outbox_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// A nilError is what a nil pointer becomes when it is returned as an error.
type nilError struct{ inner error }

func (e *nilError) Error() string { return e.inner.Error() }
func (e *nilError) Unwrap() error { return e.inner }

// What a publisher does to its goroutine is a failure of its call, and no more.
func TestAPublisherThatEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"panic":                 func() error { panic("boom") },
		"Goexit":                func() error { runtime.Goexit(); return nil },
		"an error that panics":  func() error { return (*nilError)(nil) },
		"Failed, which panics":  func() error { return brokenPartial{} },
		"Refused, which panics": func() error { return brokenRefusal{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			to := &scripted{script: func(string, []*message.Message) error {
				if calls++; calls == 1 {
					return fail()
				}
				return nil
			}}
			f := run(t, to, outbox.RelayConfig{Concurrency: 1})
			f.publish(t, "orders", "k", "1", "2")
			f.drain(t)
			if ids := to.ids(); len(ids) != 2 || ids[0] != "1" {
				t.Errorf("published %v", ids)
			}
		})
	}
}

type brokenPartial struct{}

func (brokenPartial) Error() string { return "partial" }
func (brokenPartial) Failed() []int { panic("boom") }

type brokenRefusal struct{}

func (brokenRefusal) Error() string { return "refused" }
func (brokenRefusal) Refused() bool { panic("boom") }

// A shard is free for another relay only when the context of a Publish that hangs has ended.
func TestRule15_AHandOverEndsTheContextFirst(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, _ := newOutbox(t, db)
	unit, err := uow.New(db, uow.Config{Linger: 2 * time.Millisecond}) // the lease loop shares commits with what looks
	if err != nil {
		t.Fatal(err)
	}
	var sending atomic.Pointer[context.Context]
	gate := make(chan struct{})
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		ctx := msgs[0].Context()
		sending.Store(&ctx)
		<-gate
		return nil
	}}
	stop := start(t, newRelay(t, box, to, outbox.RelayConfig{UnitOfWork: unit, Lease: 600 * time.Millisecond, Owner: "m"}))
	defer func() { close(gate); stop() }()
	f := &fixture{db: db, box: box, unit: unit}
	f.publish(t, "orders", "k", "1")
	within(t, "it is published", func() bool { return sending.Load() != nil })
	shard := outbox.ShardOf("k")
	f.exec(t, "INSERT INTO outbox_member (owner, expires_at) VALUES (?, 9000000000000000)",
		map[bool]string{true: "0", false: "z"}[shard%2 == 0]) // the shards are dealt in turn
	var early, over atomic.Bool
	look := func() {
		var owner string
		err := db.Raw("SELECT owner FROM outbox_lease WHERE shard = ?", shard).Row().Scan(&owner)
		if err == nil && owner == "" {
			early.Store((*sending.Load()).Err() == nil)
			over.Store(true)
		}
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for end := time.Now().Add(time.Minute); !over.Load() && time.Now().Before(end); {
				if err := unit.Do(t.Context(), func(ctx context.Context) error { return uow.AfterCommit(ctx, look) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if !over.Load() || early.Load() {
		t.Errorf("handed over %v, before the context has ended %v", over.Load(), early.Load())
	}
}

func TestUnhealthyWhenItCannotBegin(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	relay := newRelay(t, box, &scripted{}, soon)
	pool, err := db.DB()
	if err := errors.Join(err, pool.Close()); err != nil {
		t.Fatal(err)
	}
	start(t, relay)
	(&fixture{db: db, box: box, unit: unit, relay: relay}).unwell(t, "cannot read messages")
}

// A lock on the archive holds a relay's start up for a second, not for as long as somebody holds it.
func TestStartDoesNotWaitForTheArchive(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	newOutbox(t, db) // its tables
	lock := db.Begin()
	defer lock.Rollback()
	statements(t, lock, "LOCK TABLE outbox_archive_rest IN ACCESS EXCLUSIVE MODE")
	to := &scripted{}
	f := serve(t, db, to, outbox.RelayConfig{Archive: time.Hour})
	f.publish(t, "orders", "k", "1")
	within(t, "it begins", func() bool { return len(to.ids()) == 1 })
}

// A topic whose policy cannot be had keeps the order of its keys.
func TestWhatIsNoPolicyBlocksTheKey(t *testing.T) {
	t.Parallel()
	for name, poison := range map[string]func(string) outbox.Poison{
		"panic":   func(string) outbox.Poison { panic("boom") },
		"unknown": func(string) outbox.Poison { return 7 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mended atomic.Bool
			to := &scripted{script: func(_ string, msgs []*message.Message) error {
				if msgs[0].UUID == "1" && !mended.Load() {
					return refusedError{}
				}
				return nil
			}}
			f := run(t, to, outbox.RelayConfig{Poison: poison, Attempts: 1 << 30, Batch: 1})
			f.publish(t, "orders", "k", "1", "2")
			f.publish(t, "orders", "other", "3")
			within(t, "the other key goes on", func() bool { return len(to.ids()) == 1 })
			mended.Store(true)
			within(t, "the key goes on", func() bool { return len(to.ids()) == 3 })
			if ids := to.ids(); ids[1] != "1" {
				t.Errorf("published %v", ids)
			}
		})
	}
}

// A listener that panics is called again, like one that fails.
func TestAListenerThatPanics(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	to := &scripted{}
	f := run(t, to, outbox.RelayConfig{Listen: func(ctx context.Context, _ func()) error {
		if calls.Add(1) == 1 {
			panic("boom")
		}
		<-ctx.Done()
		return nil
	}})
	within(t, "it is called again", func() bool { return calls.Load() == 2 })
	f.publish(t, "orders", "k", "1")
	f.drain(t)
}
