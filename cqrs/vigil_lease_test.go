package cqrs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// mortal is crashes whose signs of life expire.
type mortal struct {
	crashes
	until map[string]time.Time
	ttl   *time.Duration // of the last one
}

func (m mortal) Beat(ctx context.Context, group, run string, ttl time.Duration) ([]cqrs.Peer, error) {
	for name, p := range m.state.runs {
		p.Expired = m.until[name].Before(time.Now())
	}
	m.until[run], *m.ttl = time.Now().Add(ttl), ttl
	return m.crashes.Beat(ctx, group, run, ttl)
}

// leasing notes for how long it was last asked to lease.
type leasing struct {
	parking
	ttl *time.Duration
}

func (l leasing) Lease(ctx context.Context, group string, limit int, ttl time.Duration) ([]*cqrs.Parked, error) {
	*l.ttl = ttl
	return l.parking.Lease(ctx, group, limit, ttl)
}

// A parked message that kills its process runs with a note in the next one: that learns of the death before the lease
// ends, or replicas would die unawares, one after the other.
func TestRule06_ADeathIsKnownBeforeTheLeaseOfWhatKilledEnds(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"default": 0, "short handlers": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { diesOfALeasedMessage(t, timeout) })
		})
	}
}

// A death is known before a broker has given what the dead had to others.
func TestRule06_ADeathIsKnownBeforeASessionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const session = 10 * time.Second
		b := newDB()
		m := mortal{crashes{b}, map[string]time.Time{}, new(time.Duration)}
		cfg := b.config()
		cfg.Crashes = m
		s := newService(t, b, catalog(), cfg)
		noted := -1
		cqrs.On(s.p, func(_ context.Context, n note) error { noted = b.state.begun[n.Text]; return nil })
		s.run()
		time.Sleep(time.Minute + time.Millisecond) // it has just looked
		b.read(func(st *tables) {
			st.runs["other"] = &cqrs.Peer{Run: "other", Beats: 20}
			m.until["other"] = time.Now().Add(*m.ttl)
		})
		time.Sleep(session)
		s.deliver("shop.commands", noteMsg("1", "k", "1"))
		synctest.Wait()
		if noted != 1 {
			t.Errorf("it ran with %d notes, want 1; a sign of life lasts %v", noted, *m.ttl)
		}
	})
}

func diesOfALeasedMessage(t *testing.T, timeout time.Duration) {
	b := newDB()
	m := mortal{crashes{b}, map[string]time.Time{}, new(time.Duration)}
	leases := leasing{parking{b}, new(time.Duration)}
	cfg := b.config()
	cfg.Crashes, cfg.Parking, cfg.HandlerTimeout, cfg.MaxBatch = m, leases, timeout, 1
	s := newService(t, b, catalog(), cfg)
	noted := -1
	cqrs.On(s.p, func(_ context.Context, n note) error { noted = b.state.begun[n.Text]; return nil })
	s.run()
	time.Sleep(time.Minute)
	synctest.Wait()
	b.read(func(st *tables) { // another process beats, leases a message and dies of it
		st.runs["other"] = &cqrs.Peer{Run: "other", Beats: 20}
		m.until["other"] = time.Now().Add(*m.ttl)
		st.parked = append(st.parked, parkedRow{until: time.Now().Add(*leases.ttl), Parked: cqrs.Parked{Record: cqrs.Record{
			Group: "shop", ID: "1", Queue: "shop.commands|k", Topic: "shop.commands", Type: "shop.note", Key: "k",
			Payload: []byte(`{"Text":"1"}`), Metadata: noteMsg("1", "k", "1").Metadata,
		}}})
	})
	time.Sleep(time.Minute)
	synctest.Wait()
	if noted != 1 {
		t.Errorf("it ran with %d notes, want 1; lease %v, sign of life %v", noted, *leases.ttl, *m.ttl)
	}
}
