package cqrs

import "time"

// held keeps messages that wait for their next try unacknowledged in memory, where there is no [Parking].
// It belongs to one lane and is not safe for concurrent use.
type held struct{ queues map[string]*heldQueue }

type heldQueue struct {
	due   time.Time
	items []*item
}

// heldKey gives a message without key, and one that is scheduled, a queue of its own.
func heldKey(it *item) string {
	if it.queue == "" || it.timed {
		return "\x00" + it.d.Envelope.ID
	}
	return it.queue
}

// hold keeps items, failed ones and those behind them, in front of what their queues already have.
func (h *held) hold(items []*item) {
	front := map[string][]*item{}
	now := time.Now()
	for _, it := range items {
		it.held = true
		k := heldKey(it)
		front[k] = append(front[k], it)
	}
	for k, its := range front {
		q := h.queues[k]
		if q == nil {
			q = &heldQueue{}
			h.queues[k] = q
		}
		q.items = append(its, q.items...)
		q.due = now.Add(its[0].delay)
	}
}

// follows keeps a message whose queue is held.
func (h *held) follows(it *item) bool {
	if len(h.queues) == 0 || it.queue == "" {
		return false
	}
	q := h.queues[it.queue]
	if q == nil {
		return false
	}
	it.held = true
	q.items = append(q.items, it)
	return true
}

// due takes up to limit messages whose time has come, queue by queue, in order.
func (h *held) due(limit int) []*item {
	if len(h.queues) == 0 {
		return nil
	}
	var batch []*item
	now := time.Now()
	for k, q := range h.queues {
		if q.due.After(now) {
			continue
		}
		if h.arrives(q.items[0]) {
			delete(h.queues, k)
			continue
		}
		n := min(limit-len(batch), len(q.items))
		for _, it := range q.items[:n] {
			it.held, it.timed = false, false
			batch = append(batch, it)
		}
		if q.items = q.items[n:]; len(q.items) == 0 {
			delete(h.queues, k)
		}
		if len(batch) == limit {
			break
		}
	}
	return batch
}

// arrives puts a scheduled message, whose time has come, behind what is held of its key.
func (h *held) arrives(it *item) bool {
	if !it.timed || h.queues[it.queue] == nil {
		return false
	}
	it.timed = false
	return h.follows(it)
}

// wait says how long it is to the next due message.
func (h *held) wait() (d time.Duration, holds bool) {
	var first time.Time
	for _, q := range h.queues {
		if !holds || q.due.Before(first) {
			first, holds = q.due, true
		}
	}
	return max(0, time.Until(first)), holds
}

// nackAll gives everything back, to be delivered again.
func (h *held) nackAll() {
	for _, q := range h.queues {
		for _, it := range q.items {
			it.release()
		}
	}
	clear(h.queues)
}
