package outbox

import (
	"context"
	"time"
)

// A call is a Publish under way.
type call struct {
	cancel context.CancelFunc
	shards uint64 // of its messages, one bit each
}

// call returns the context of the messages of a Publish, which ends with the Publish, and before anybody else may
// publish them: when one of their leases is lost, or is about to run out because it cannot be renewed.
func (r *Relay) call(recs []record) (ctx context.Context, end func()) {
	c := &call{}
	for i := range recs {
		c.shards |= 1 << recs[i].shard
	}
	ctx, c.cancel = context.WithCancel(r.sending)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[c] = struct{}{}
	if !r.fresh() { // the process slept since it looked, and the end of the leases was before there was something to end
		c.cancel()
	}
	return ctx, func() {
		c.cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.calls, c)
	}
}

// hangUp ends the contexts of what is under way for any of the shards. The caller holds mu.
func (r *Relay) hangUp(shards uint64) {
	for c := range r.calls {
		if c.shards&shards != 0 {
			c.cancel()
		}
	}
}

// expire has all calls end before the leases do, unless they are renewed until then. The caller holds mu.
func (r *Relay) expire() {
	s := r.state
	if s.expiry != nil {
		s.expiry.Stop()
	}
	early := r.cfg.Lease / 6
	s.expiry = time.AfterFunc(time.Until(r.valid)-early, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.state == s && !time.Now().Before(r.valid.Add(-early)) {
			r.hangUp(^uint64(0))
		}
	})
}

// unexpire stops the clock of the leases.
func (r *Relay) unexpire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expiry != nil {
		r.expiry.Stop()
	}
}
