package outbox

import (
	"maps"
	"slices"
	"time"
)

// rateSpan is the time, in seconds, over which a rate is taken.
const rateSpan = 10

// A rate counts what happened in each of the last seconds.
type rate struct {
	began   time.Time
	seconds [rateSpan + 1]int64 // which second since began a count is of
	counts  [rateSpan + 1]int64
}

func (r *rate) add(n int, now time.Time) {
	second := int64(now.Sub(r.began) / time.Second)
	i := second % int64(len(r.counts))
	if r.seconds[i] != second {
		r.seconds[i], r.counts[i] = second, 0
	}
	r.counts[i] += int64(n)
}

// perSecond is the mean of the last seconds that are over.
func (r *rate) perSecond(now time.Time) float64 {
	second := int64(now.Sub(r.began) / time.Second)
	var sum int64
	for i, s := range r.seconds {
		if s < second && s >= second-rateSpan {
			sum += r.counts[i]
		}
	}
	return float64(sum) / float64(max(1, min(second, rateSpan)))
}

// Progress is what one relay does, by its own word.
type Progress struct {
	Owner     string          // its name in the lease table; "" before Run
	Shards    int             // leases it has
	Published uint64          // messages that its publisher took since Run began
	Rate      float64         // messages a second that it took in the last 10 s
	Topics    []TopicProgress // those with anything under way or failing, by name
}

// TopicProgress is what a relay does for one topic.
type TopicProgress struct {
	Topic      string
	Buffered   int           // messages in memory, not counting those being published
	Publishing time.Duration // for how long the oldest call of Publish under way has run; 0 if none is
	Failures   int           // calls that failed in a row; those under way together count once
	Failing    time.Duration // since the first of them
	Err        error         // of the last of them
}

// Progress tells what the relay does. It does not touch the database.
func (r *Relay) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	p := Progress{Owner: r.owner, Shards: len(r.held), Published: r.published, Rate: r.rate.perSecond(now)}
	for _, name := range slices.Sorted(maps.Keys(r.topics)) {
		t := r.topics[name]
		sentAt, calls := t.sending()
		if t.queued() == 0 && calls == 0 && t.failures == 0 {
			continue
		}
		tp := TopicProgress{Topic: name, Buffered: t.queued(), Failures: t.failures, Err: t.err}
		if calls > 0 {
			tp.Publishing = now.Sub(sentAt)
		}
		if t.failures > 0 {
			tp.Failing = now.Sub(t.since)
		}
		p.Topics = append(p.Topics, tp)
	}
	return p
}

// took notes that the publisher took messages. The caller holds mu.
func (r *Relay) took(n int) {
	r.published += uint64(n) //nolint:gosec // a count
	r.rate.add(n, time.Now())
}

// Published returns how many messages this relay's publisher took since Run began.
func (r *Relay) Published() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.published
}

// Publishing returns how many calls of Publish are under way, at most [RelayConfig.Concurrency] for each topic.
func (r *Relay) Publishing() (calls int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.topics {
		_, n := t.sending()
		calls += n
	}
	return calls
}
