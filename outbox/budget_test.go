package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// steal gives all leases to a relay that is not there, and waits until the fixture's relay knows.
func (f *fixture) steal(t *testing.T) {
	t.Helper()
	f.exec(t, "UPDATE outbox_lease SET owner = 'thief#1', epoch = epoch + 1, expires_at = 9000000000000000")
	f.renewed(t)
	f.renewed(t)
}

// After a Publish that took all of its lease, what was to follow it is another relay's, which may have published it
// and more, or given it up.
func TestRule15_LeaseIsCheckedJustBeforeSending(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	var refuse atomic.Bool
	refuse.Store(true)
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if refuse.Load() {
			return refusedError{}
		}
		if msgs[0].UUID == "1" {
			close(entered)
			<-gate
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Lease: 3 * time.Second, Attempts: 1000})
	f.publish(t, "topic", "k", "1", "2", "3")
	within(t, "they are in the retry table", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 3
	})
	refuse.Store(false)
	<-entered
	f.steal(t)
	f.exec(t, "DELETE FROM outbox_retry") // the other one has published them all
	close(gate)
	within(t, "it returns", func() bool { return f.relay.Publishing() == 0 })
	if got := fmt.Sprint(to.ids()); got != "[1]" {
		t.Errorf("published %s", got)
	}
}

// The context of what is being published ends when its lease is lost, and when it cannot be renewed in time.
func TestRule15_PublishHasTheTimeOfItsLease(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(t *testing.T, f *fixture){
		"lost": func(t *testing.T, f *fixture) { f.steal(t) },
		"not renewed": func(t *testing.T, f *fixture) {
			f.exec(t, "ALTER TABLE outbox_member RENAME TO outbox_elsewhere")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entered, ended := make(chan struct{}), make(chan struct{})
			to := &scripted{script: func(_ string, msgs []*message.Message) error {
				close(entered)
				<-msgs[0].Context().Done()
				close(ended)
				return msgs[0].Context().Err()
			}}
			f := run(t, to, outbox.RelayConfig{Lease: 3 * time.Second})
			f.publish(t, "topic", "k", "1")
			<-entered
			trouble(t, f)
			within(t, "its context ends", func() bool {
				select {
				case <-ended:
					return true
				default:
					return false
				}
			})
		})
	}
}

// A process that sleeps between its look at the leases and the Publish has slept through what ends the context.
func TestRule15_PublishThatBeginsTooLateHasNoTime(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	if err := outbox.CallContext(box, time.Minute); err != nil {
		t.Errorf("in time: %v", err)
	}
	if err := outbox.CallContext(box, -time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("too late: %v", err)
	}
}

// A Publish that hangs while its lease goes to another relay and comes back, holds its lane: though its message is in
// the retry table by then, no later one is sent before it returns.
func TestRule15_HungPublishHoldsItsLane(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	var hung atomic.Bool
	to := &scripted{script: func(_ string, _ []*message.Message) error {
		if hung.CompareAndSwap(false, true) {
			close(entered)
			<-gate
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Lease: 3 * time.Second})
	f.publish(t, "topic", "k", "1")
	<-entered
	f.steal(t)
	f.exec(t, `INSERT INTO outbox_retry SELECT seq, shard, id, topic, aggregateid, type, headers, payload, created_at,
		1, 0, '' FROM outbox`) // it was refused there
	f.exec(t, "DELETE FROM outbox")
	f.exec(t, "UPDATE outbox_lease SET expires_at = 0")
	f.renewed(t)
	f.publish(t, "topic", "k", "2")
	within(t, "the second waits behind the first", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 2 && s.Depth == 0
	})
	if got := to.ids(); len(got) != 0 {
		t.Errorf("published %v", got)
	}
	close(gate)
	within(t, "both leave", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 0
	})
	if got := fmt.Sprint(to.ids()); got != "[1 1 2]" {
		t.Errorf("published %s", got)
	}
}

// Whatever fails, and wherever messages wait, no more than Batch of a topic are published and not yet deleted: a crash
// publishes no more than these again.
func TestRelayIsNeverMoreThanABatchAhead(t *testing.T) {
	t.Parallel()
	for _, batch := range []int{1, 10, 40} {
		t.Run(fmt.Sprint("batch=", batch), func(t *testing.T) {
			t.Parallel()
			messages := min(600, 60*batch) // each batch is a commit
			db := openSQLite(t)
			var mu sync.Mutex
			var taken, calls, most int
			failing := map[string]int{} // how often a message was refused
			to := &scripted{script: func(_ string, msgs []*message.Message) error {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls%7 == 0 {
					return errors.New("down")
				}
				for _, m := range msgs {
					if len(m.UUID)%2 == 0 && m.UUID[len(m.UUID)-1] == '7' && failing[m.UUID] < 3 {
						failing[m.UUID]++
						return errors.New("refused")
					}
				}
				taken += len(msgs)
				var left int
				err := db.Raw("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM outbox_retry)").Row().Scan(&left)
				if err != nil {
					t.Error(err)
				}
				most = max(most, taken-(messages-left))
				return nil
			}}
			f := serve(t, db, to, outbox.RelayConfig{Batch: batch, Attempts: 1000})
			f.relay.Pause()
			ids := map[string][]string{}
			for i := range messages {
				k := fmt.Sprint("k", i%30)
				ids[k] = append(ids[k], fmt.Sprint("id", i))
			}
			for k, list := range ids {
				f.publish(t, "topic", k, list...)
			}
			f.relay.Resume()
			within(t, "all leave", func() bool {
				s, err := f.box.Stats(context.Background())
				return err == nil && s.Depth+s.Retrying == 0
			})
			if err := f.stop(); err != nil {
				t.Error(err)
			}
			if taken != messages || most > batch {
				t.Errorf("%d taken, at most %d of them not deleted; want %d, and no more than %d", taken, most, messages, batch)
			}
		})
	}
}
