package cqrs

import (
	"context"
	"fmt"
	"slices"
)

// A batch is what a lane does in one transaction. The unit of work may run it more than once; each run starts anew.
type batch struct {
	l       *lane
	r       *runner
	p       *Processor
	items   []*item
	blocked map[string]bool // queues whose later messages go behind what is parked of them
	left    map[string]bool // queues of which a message was left out: what is behind it waits for it
	cut     bool            // a handler hung: what has not started waits for the next transaction
}

func (b *batch) run(ctx context.Context, locks []string) error {
	b.blocked, b.left, b.cut = map[string]bool{}, map[string]bool{}, false
	for _, it := range b.items {
		it.reset()
	}
	if err := b.claim(ctx); err != nil {
		return fmt.Errorf("cqrs: claim messages: %w", err)
	}
	if err := b.joinQueues(ctx); err != nil {
		return fmt.Errorf("cqrs: look up parked queues: %w", err)
	}
	if len(locks) > 0 && b.p.cfg.Locker != nil {
		if err := b.p.cfg.Locker.Lock(ctx, locks); err != nil {
			return fmt.Errorf("cqrs: lock: %w", err)
		}
	}
	for _, w := range b.waves() {
		b.wave(ctx, w)
	}
	return b.settle(ctx)
}

// locks is the union of what the messages declare, sorted. A message whose declaration fails has failed.
func (b *batch) locks() []string {
	var asked []*item
	for _, it := range b.items {
		if it.verdict == nil && it.stuck == 0 && it.d.Message != nil && it.route.locks {
			asked = append(asked, it)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	ds := deliveries(asked)
	ask := func(i int) (names []string, _ error) {
		for _, h := range asked[i].route.handlers {
			if h.locks != nil {
				names = append(names, h.locks(ds[i].Message)...)
			}
		}
		return names, nil
	}
	declared, errs := each(b.l, len(asked), ask, func(i int) { b.l.leave(asked[i]) })
	for i, it := range asked {
		it.verdict = errs[i]
	}
	return lockNames(slices.Concat(declared...))
}

// claim asks the inbox, in one statement, which of the fresh messages are new.
func (b *batch) claim(ctx context.Context) error {
	if b.p.cfg.Inbox == nil {
		return nil
	}
	first := make(map[string]*item, len(b.items))
	ids := make([]string, 0, len(b.items))
	for _, it := range b.items {
		id := it.d.Envelope.ID
		if it.parked != nil || id == "" {
			continue
		}
		if first[id] != nil {
			it.fate = duplicate
			continue
		}
		first[id] = it
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	fresh, err := b.p.cfg.Inbox.Claim(ctx, b.p.group, ids)
	if err != nil {
		return err
	}
	if len(fresh) != len(ids) {
		return fmt.Errorf("the inbox answered for %d of %d messages", len(fresh), len(ids))
	}
	for i, id := range ids {
		if !fresh[i] {
			first[id].fate = duplicate
		}
	}
	return nil
}

// joins reports whether the message goes to the queue of its key now, and so behind what is there.
func (it *item) joins() bool {
	return it.fate == undecided && it.queue != "" && !it.skip && it.later == 0 && (it.parked == nil || it.arrives)
}

// isLeased reports whether the message is to run and then to be taken out of the queue that it is in.
func (it *item) isLeased() bool { return it.fate == undecided && it.parked != nil && !it.arrives }

// joinQueues puts fresh messages of parked queues behind what is there. The heads of these queues are locked, and in
// the same order those of which messages are leased: locked only at the end, when a message is consumed, they would
// come after the rows of handlers, and for a fresh message of the queue in another process before them.
func (b *batch) joinQueues(ctx context.Context) error {
	for _, it := range b.items {
		if it.parked != nil && it.chain.broken.Load() {
			it.fate = behind
		}
	}
	if b.p.cfg.Parking == nil {
		return nil
	}
	var queues []string
	for _, it := range b.items {
		switch {
		case it.joins():
			queues = append(queues, it.queue)
		case it.isLeased():
			queues = append(queues, it.parked.Queue)
		}
	}
	if queues = lockNames(queues); len(queues) == 0 {
		return nil
	}
	parked, err := b.p.cfg.Parking.Parked(ctx, b.p.group, queues)
	if err != nil {
		return err
	}
	if len(parked) != len(queues) {
		return fmt.Errorf("the store answered for %d of %d queues", len(parked), len(queues))
	}
	waiting := make(map[string]bool, len(queues))
	for i, q := range queues {
		waiting[q] = parked[i]
	}
	for _, it := range b.items {
		if it.joins() && waiting[it.queue] && !it.isTaken() { // what is taken comes again, with what was before it
			it.fate = behind
		}
	}
	return nil
}

// A wave is a run of messages that go to the same handlers and do not depend on each other's outcome,
// except those of one queue, which are in order.
type wave struct {
	route *route // nil: a message with a verdict, or one that runs alone
	items []*item
}

// waves groups messages by handlers, so that batch handlers see many at once. A message joins the earliest wave of
// its handlers that is not before a message of its queue.
func (b *batch) waves() []*wave {
	var all []*wave
	last := map[string]int{} // queue → index of the wave of its last message
	open := map[*route]int{} // route → index of its last wave
	for _, it := range b.items {
		if it.fate != undecided {
			continue
		}
		rt := it.route
		if it.verdict != nil || it.later > 0 || it.single || it.skip {
			rt = nil
		}
		i, ok := open[rt]
		if rt == nil || !ok || (it.queue != "" && last[it.queue] > i) {
			i = len(all)
			all = append(all, &wave{route: rt})
			if rt != nil {
				open[rt] = i
			}
		}
		all[i].items = append(all[i].items, it)
		if it.queue != "" {
			last[it.queue] = i
		}
	}
	return all
}
