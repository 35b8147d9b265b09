package cqrs

import (
	"context"
	"slices"
	"time"
)

// held keeps messages that wait for their next try unacknowledged in memory, where there is no [Parking], or it does
// not take them.
// It belongs to one lane and is not safe for concurrent use.
type held struct {
	queues map[string]*heldQueue
	places int           // given out
	taken  chan struct{} // a session has ended in which messages came that are held
}

func newHeld() held { return held{queues: map[string]*heldQueue{}, taken: make(chan struct{}, 1)} }

type heldQueue struct {
	due   time.Time
	items []*item // in the order of their places
}

// place gives an item its place in the order of its lane.
func (h *held) place(it *item) {
	if it.place == 0 {
		h.places++
		it.place = h.places
	}
}

func (q *heldQueue) add(it *item) {
	i := len(q.items)
	for i > 0 && q.items[i-1].place > it.place {
		i--
	}
	q.items = slices.Insert(q.items, i, it)
}

// heldKey gives a message without key, and one that is scheduled, a queue of its own.
func heldKey(it *item) string {
	if it.queue == "" || it.timed {
		return "\x00" + it.d.Envelope.ID
	}
	return it.queue
}

// hold keeps items, failed ones and those behind them: of each queue until the first of them is due.
func (h *held) hold(items []*item) {
	seen := map[string]bool{}
	now := time.Now()
	for _, it := range items {
		h.keep(it)
		k := heldKey(it)
		q := h.queues[k]
		if q == nil {
			q = &heldQueue{}
			h.queues[k] = q
		}
		q.add(it)
		if !seen[k] {
			seen[k], q.due = true, now.Add(it.delay)
		}
	}
}

// follows keeps a message if one before it in its queue is held. Parked ones were there before.
func (h *held) follows(it *item) bool {
	if len(h.queues) == 0 || it.queue == "" || it.parked != nil {
		return false
	}
	q := h.queues[it.queue]
	if q == nil {
		return false
	}
	h.place(it)
	if q.items[0].place > it.place {
		return false
	}
	h.keep(it)
	q.add(it)
	return true
}

// keep marks an item as held, and watches its session: who waits for it to end must not wait until the item is due.
func (h *held) keep(it *item) {
	it.held = true
	it.unwatch = context.AfterFunc(it.msg.Context(), func() {
		select {
		case h.taken <- struct{}{}:
		default:
		}
	})
}

// free undoes keep. A scheduled message gets its place when its time has come.
func (it *item) free() {
	it.unwatch()
	if it.timed {
		it.place = 0
	}
	it.held, it.timed = false, false
}

// drop returns the items for which drop holds. They are not held any longer.
func (h *held) drop(drop func(*item) bool) (dropped []*item) {
	for k, q := range h.queues {
		q.items = slices.DeleteFunc(q.items, func(it *item) bool {
			if !drop(it) {
				return false
			}
			it.free()
			dropped = append(dropped, it)
			return true
		})
		if len(q.items) == 0 {
			delete(h.queues, k)
		}
	}
	return dropped
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
			it.free()
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
	it.free()
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
