package outbox

import (
	"context"

	"gorm.io/gorm"
)

// A Reading is what a relay has read that has all leases and publishes nothing.
type Reading struct {
	relay *Relay
	rd    *reader
}

// NewReading returns one that has read nothing yet. It reads as from the database of a dialect, whichever it is.
func NewReading(ctx context.Context, o *Outbox, dialect string, cfg RelayConfig) (*Reading, error) {
	r, err := NewRelay(o, nobody{}, cfg)
	if err != nil {
		return nil, err
	}
	r.dialect.name = dialect
	r.Pause()
	r.reset(ctx, ctx)
	for shard := range Shards {
		r.held[shard] = 1
	}
	rd := &reader{relay: r, window: map[int64]struct{}{}, behind: map[string]*scan{}}
	rd.restart()
	return &Reading{r, rd}, nil
}

// Read reads once, on a connection.
func (r *Reading) Read(ctx context.Context, conn gorm.ConnPool) (more bool, err error) {
	r.rd.begin()
	_, more, err = r.rd.scans(query{execer{ctx, conn, r.relay.dialect}, r.rd}, r.relay.cfg.Buffer)
	return more, err
}

// Take takes so many messages at most from each of a topic's queues, and returns their numbers.
func (r *Reading) Take(topic string, most int) (seqs []int64) {
	r.relay.mu.Lock()
	defer r.relay.mu.Unlock()
	for _, s := range r.relay.topic(topic).strands {
		n := min(len(s.queue), most)
		for i := range s.queue[:n] {
			seqs = append(seqs, s.queue[i].seq)
		}
		s.drop(n)
	}
	return seqs
}

// Position returns how far the scan of all topics is.
func (r *Reading) Position() int64 { return r.rd.main.pos }
