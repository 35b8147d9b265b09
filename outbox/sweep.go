package outbox

import (
	"slices"
	"time"
)

const (
	probes    = 4  // failures in a row, before any success, after which a sweep takes the publisher to be down
	thorough  = 64 // the same, for the sweep that follows when all lanes have failed in turn
	breakdown = 16 // failures in a row, after a success, after which it takes it to have gone down
)

// A sweep publishes messages one by one after a batch has failed, to tell a publisher that is down from messages
// that it refuses. It holds no lock; only the worker of its strand has it.
type sweep struct {
	relay   *Relay
	strand  *strand
	batch   []record
	outcome []outcome
	held    map[lane]bool // lanes with a message that was not published
	tried   int           // index of the last message tried
	order   []int         // indexes of those tried
	row     int           // failures in a row
	some    bool          // something was published
	taken   int           // so many were
	all     bool          // every lane was tried
	cut     bool          // given up before the end
	err     error
}

// outcome is what became of one message of a sweep.
type outcome struct {
	published bool
	err       error // of a message tried and not published
}

// sweep publishes the queues of a topic one by one, skipping what is behind a message that failed. While the publisher
// is down nothing costs an attempt; a message that fails while others pass does.
func (r *Relay) sweep(of *strand, batch []record) {
	t := of.topic
	s := &sweep{relay: r, strand: of, batch: batch, outcome: make([]outcome, len(batch)), held: map[lane]bool{}}
	next := 1 + slices.IndexFunc(batch, func(rec record) bool { return rec.seq == t.probed })
	s.run(next % len(batch))

	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.returned(of)
	// Queues that let no more in and whose every lane fails may hide messages that would pass: set their lanes aside,
	// for nothing.
	aside := s.all && !s.some && len(batch) > r.cfg.Buffer/2
	var back []record
	blocked := map[lane]bool{}
	for i := range batch {
		rec, o := batch[i], s.outcome[i]
		switch {
		case o.published:
			r.accept(of, rec)
		case o.err != nil && r.mine(&rec) && (aside || s.some || refused(o.err)):
			r.refuse(t, rec, o.err, s.some || refused(o.err))
			if r.policy(t.name) == BlockKey {
				blocked[rec.lane()] = true
			}
		case blocked[rec.lane()]:
			r.moves = append(r.moves, move{rec: rec})
		default:
			back = append(back, rec)
		}
	}
	r.follow(t, blocked)
	r.giveBack(t, back)
	switch {
	case s.some || len(back) < len(batch):
		r.recover(t)
	case s.err != nil:
		t.cycled = false
		t.probed = batch[s.tried].seq // so that a few bad messages in front cannot pass for an outage
		r.fail(t, s.err)
	case !s.cut: // no lane begins behind that message
		t.probed, t.cycled = 0, true
	}
}

// run tries the messages from the given index on, and then those in front of it if the publisher proves to be up:
// they failed before, and now it is known who is to blame.
func (s *sweep) run(from int) {
	for i := range s.batch[:from] {
		s.held[s.batch[i].lane()] = true
	}
	s.pass(from, len(s.batch))
	s.all = from == 0 && !s.cut
	if from > 0 && s.some && !s.cut {
		clear(s.held)
		s.pass(0, from)
	}
}

// pass tries the messages from one index up to another.
func (s *sweep) pass(from, to int) {
	limit := probes
	if s.strand.topic.cycled {
		limit = thorough
	}
	for i := from; i < to; i++ {
		if share := s.relay.cfg.perCall(); s.some && max(i, s.taken) >= share {
			return // it is up
		}
		l := s.batch[i].lane()
		if s.held[l] {
			continue
		}
		ours, on := s.relay.sendable(s.strand, &s.batch[i])
		if !on {
			s.cut = true
			return
		}
		if s.held[l] = !ours; s.held[l] {
			continue
		}
		_, err := s.relay.send(s.strand.topic.name, s.batch[i:i+1])
		s.tried, s.order = i, append(s.order, i)
		if err == nil {
			s.outcome[i].published, s.some, s.row = true, true, 0
			s.taken++
			continue
		}
		s.outcome[i].err, s.err = err, err
		s.held[l] = true
		if refused(err) {
			continue
		}
		s.row++
		if !s.some && s.row == limit {
			s.cut = true
			return
		}
		if s.row == breakdown {
			s.forgive()
			s.cut = true
			return
		}
	}
}

// forgive takes back the failures in a row that came last: the publisher went down.
func (s *sweep) forgive() {
	for _, i := range slices.Backward(s.order) {
		if s.outcome[i].published {
			return
		}
		if !refused(s.outcome[i].err) {
			s.outcome[i].err = nil
		}
	}
}

// sendable reports whether the relay may still publish a message, and whether it goes on at all: it is not to pause or
// to stop, and its leases last.
func (r *Relay) sendable(s *strand, rec *record) (ours, on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.sentAt = time.Now()
	return r.mine(rec), !r.paused && !r.ending() && r.fresh()
}
