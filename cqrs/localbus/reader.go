package localbus

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// headerKey is the metadata name of a message's key, as in the Kafka binding of CloudEvents.
const headerKey = "ce_partitionkey"

// A reader is one group on one topic.
type reader struct {
	bus       *Bus
	group     string
	topic     string
	parts     []*partition
	depth     atomic.Int64  // messages not acked
	version   atomic.Uint64 // counts changes of subs
	closed    atomic.Bool
	forgotten atomic.Bool
	subs      []*subscription // guarded by bus.mu
}

func newReader(b *Bus, group, topic string) *reader {
	r := &reader{bus: b, group: group, topic: topic, parts: make([]*partition, b.cfg.Partitions)}
	for i := range r.parts {
		r.parts[i] = &partition{reader: r, index: i, wake: make(chan struct{}, 1)}
	}
	return r
}

// enqueue appends the batch to its partitions; the caller holds bus.mu.
func (r *reader) enqueue(c *call) {
	items := make([]item, len(c.msgs))
	r.depth.Add(int64(len(items)))
	touched := make([]*partition, 0, min(len(items), len(r.parts)))
	for i, m := range c.msgs {
		items[i] = item{call: c, index: i}
		p := r.parts[r.partition(m.Metadata[headerKey], m.UUID)]
		if p.push(&items[i]) {
			touched = append(touched, p)
		}
	}
	for _, p := range touched {
		p.start()
	}
}

var seed = maphash.MakeSeed()

// partition spreads messages that have no key, and keeps those of one key together.
func (r *reader) partition(key, id string) uint64 {
	if key == "" {
		key = id
	}
	return maphash.String(seed, key) % uint64(len(r.parts))
}

// join and leave change who reads; the caller holds bus.mu.
func (r *reader) join(s *subscription) {
	r.subs = append(slices.Clip(r.subs), s)
	r.version.Add(1)
}

func (r *reader) leave(s *subscription) {
	r.subs = slices.DeleteFunc(slices.Clone(r.subs), func(o *subscription) bool { return o == s })
	r.version.Add(1)
}

// acquire returns the subscription that partition i belongs to, and keeps its channel open until
// release. It returns nil when the group has none.
func (r *reader) acquire(i int) *subscription {
	r.bus.mu.RLock()
	defer r.bus.mu.RUnlock()
	if len(r.subs) == 0 {
		return nil
	}
	s := r.subs[i%len(r.subs)]
	s.senders.Add(1)
	return s
}

// kick makes running partitions look around.
func (r *reader) kick() {
	for _, p := range r.parts {
		p.kick()
	}
}

// purge makes partitions drop messages whose publisher has given up.
func (r *reader) purge() {
	for _, p := range r.parts {
		p.stale.Store(true)
		p.kick()
	}
}

func (r *reader) forget() {
	r.forgotten.Store(true)
	r.close()
}

// close ends the reader's subscriptions and the partitions that run.
func (r *reader) close() {
	r.closed.Store(true)
	r.kick()
	r.bus.mu.RLock()
	subs := r.subs
	r.bus.mu.RUnlock()
	for _, s := range subs {
		s.leave()
	}
}
