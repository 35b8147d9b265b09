package cqrs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// How often a run says that it lives, how long that is believed, by how much clocks may differ, and how long after a
// death messages are suspects whose age is not known. A death must be known, beatLasts+beatEvery after the last beat,
// before the broker moves what the dead had: after a session timeout, which is 10 s at Kafka's default.
const (
	beatEvery = 2 * time.Second
	beatLasts = 3 * beatEvery
	clockSkew = time.Minute
	ageless   = 15 * time.Minute
)

// errKills says that the process has died whenever the message ran.
var errKills = errors.New("cqrs: the process died whenever the message ran")

// A vigil finds the message that kills the process. After a run of the group has ended without a word, messages from
// before that are suspects: batches of them are noted, in a transaction of its own, before they run. What is noted
// and comes again was running when the process died: it runs alone, and is noted each time before it does.
type vigil struct {
	r     *runner
	store Crashes
	run   string

	before  atomic.Int64     // what occurred before, in unix nanoseconds, is a suspect; 0: nothing is
	begun   bool             // the first beat has succeeded
	doubts  map[string]int64 // runs that were there before, and their beats then: alive or not?
	crashed map[string]bool

	turn  chan struct{} // held by who wants to be alone
	slots chan struct{} // one is held by each batch of suspects, all by one that runs alone
}

func newVigil(r *runner) *vigil {
	if r.p.cfg.Crashes == nil {
		return nil
	}
	return &vigil{
		r: r, store: r.p.cfg.Crashes, run: newID(), crashed: map[string]bool{},
		turn: make(chan struct{}, 1), slots: make(chan struct{}, r.p.cfg.Lanes),
	}
}

// keep beats until ctx ends, then says good-bye.
func (v *vigil) keep(ctx context.Context) {
	for sleep(ctx, beatEvery) {
		v.beat()
	}
	err := v.r.p.do(v.r.ctx, func(ctx context.Context) error { return v.store.Leave(ctx, v.r.p.group, v.run) })
	if err != nil {
		v.r.p.log.Warn("the end of the run cannot be noted", "error", err)
	}
}

// beat says that this run lives and looks at the others. If that fails, the worst is assumed.
func (v *vigil) beat() {
	var peers []Peer
	err := v.r.p.do(v.r.ctx, func(ctx context.Context) (err error) {
		peers, err = v.store.Beat(ctx, v.r.p.group, v.run, beatLasts)
		return err
	})
	if err != nil {
		v.r.p.log.Warn("a sign of life cannot be stored", "error", err)
		if !v.begun && v.before.Load() == 0 {
			v.suspect()
		}
		return
	}
	v.note(peers)
}

func (v *vigil) suspect() { v.before.Store(time.Now().Add(clockSkew).UnixNano()) }

// note finds runs that have crashed. One that was there before this run is in doubt until it beats or leaves.
func (v *vigil) note(peers []Peer) {
	first := !v.begun
	v.begun = true
	if first {
		v.doubts = map[string]int64{}
	}
	there := make(map[string]bool, len(peers))
	for _, p := range peers {
		there[p.Run] = true
		if !p.Expired {
			delete(v.crashed, p.Run) // it could only not reach the database; next time it may be dead
		}
		beats, doubted := v.doubts[p.Run]
		switch {
		case p.Expired:
			delete(v.doubts, p.Run)
			if !v.crashed[p.Run] {
				v.crashed[p.Run] = true
				v.suspect()
				v.r.p.log.Warn("a process of the group has died; what it may have been running is run with care", "run", p.Run)
			}
		case first:
			v.doubts[p.Run] = p.Beats
			v.suspect()
		case doubted && p.Beats > beats:
			delete(v.doubts, p.Run)
		}
	}
	for run := range v.doubts {
		if !there[run] {
			delete(v.doubts, run)
		}
	}
	if len(v.doubts) == 0 && len(v.crashed) == 0 {
		v.before.Store(0)
	}
}

// suspects returns those of the items that may have been running when a process died. A message without a time, or
// whose sender's clock is wrong, is one for a while: what was running comes again soon.
func (v *vigil) suspects(items []*item) []*item {
	before := int64(0)
	if v != nil {
		before = v.before.Load()
	}
	if before == 0 {
		return nil
	}
	var found []*item
	now := time.Now()
	for _, it := range items {
		at := it.d.Envelope.OccurredAt
		old := at.UnixNano() < before
		if at.IsZero() || at.After(now.Add(clockSkew)) {
			old = now.Add(-ageless).UnixNano() < before
		}
		if old && it.d.Envelope.ID != "" && !it.marked {
			found = append(found, it)
		}
	}
	return found
}

// mark notes that items are about to run, unless one of them was running when a process died: then it reports true.
func (v *vigil) mark(items []*item) (alone bool, err error) {
	ids := make([]string, len(items))
	for i, it := range items {
		ids[i] = it.d.Envelope.ID
	}
	ids = lockNames(ids)
	var begun []int
	err = v.r.p.do(v.r.ctx, func(ctx context.Context) (err error) {
		if begun, err = v.store.Begun(ctx, v.r.p.group, ids); err != nil {
			return err
		}
		if alone = slices.Max(begun) > 0; alone {
			return nil
		}
		return v.store.Begin(ctx, v.r.p.group, ids)
	})
	if err != nil {
		return false, fmt.Errorf("cqrs: note what is about to run: %w", err)
	}
	for _, it := range items {
		it.marked = !alone
		if at, ok := slices.BinarySearch(ids, it.d.Envelope.ID); ok {
			it.begun = begun[at]
		}
	}
	return alone, nil
}

// forget notes that items which were about to run are given back: this process lives, whatever became of them.
func (v *vigil) forget(items []*item) {
	var ids []string
	for _, it := range items {
		if it.marked {
			ids = append(ids, it.d.Envelope.ID)
		}
	}
	if ids = lockNames(ids); len(ids) == 0 {
		return
	}
	err := v.r.p.do(v.r.ctx, func(ctx context.Context) error { return v.store.End(ctx, v.r.p.group, ids) })
	if err != nil {
		v.r.p.log.Warn("the end of messages that are given back cannot be noted", "messages", len(ids), "error", err)
	}
}

// begin notes that one item is about to run alone, and returns how often it has begun before.
func (v *vigil) begin(it *item) (before int, err error) {
	id := []string{it.d.Envelope.ID}
	err = v.r.p.do(v.r.ctx, func(ctx context.Context) error {
		begun, err := v.store.Begun(ctx, v.r.p.group, id)
		if err != nil {
			return err
		}
		before = begun[0]
		return v.store.Begin(ctx, v.r.p.group, id)
	})
	if err != nil {
		return 0, fmt.Errorf("cqrs: note what is about to run: %w", err)
	}
	it.marked = true
	return before, nil
}

// enter waits while a suspect runs alone.
func (v *vigil) enter() (leave func()) {
	v.slots <- struct{}{}
	return func() { <-v.slots }
}

// alone waits until nothing else that is suspected runs, and keeps it from running.
func (v *vigil) alone() (leave func()) {
	v.turn <- struct{}{}
	for range cap(v.slots) {
		v.slots <- struct{}{}
	}
	return func() {
		for range cap(v.slots) {
			<-v.slots
		}
		<-v.turn
	}
}

// attempt runs items, with care if they are suspects.
func (l *lane) attempt(items []*item) error {
	v := l.r.vigil
	if found := v.suspects(items); len(found) > 0 {
		alone, err := v.mark(found)
		switch {
		case err != nil:
			return err
		case alone:
			return l.trials(items)
		}
		defer v.enter()()
	}
	err := l.transact(items)
	switch {
	case err == nil:
		return nil
	case len(items) > 1:
		return l.oneByOne(items)
	}
	return l.alone(items[0], err)
}

// trials runs items one after the other, each alone if it is a suspect.
func (l *lane) trials(items []*item) error {
	for _, it := range items {
		if it.settled || it.held || l.quits || l.follows(it) {
			continue
		}
		if err := l.trial(it); err != nil {
			return err
		}
	}
	return nil
}

func (l *lane) trial(it *item) error {
	v := l.r.vigil
	if len(v.suspects([]*item{it})) > 0 {
		if it.begun > 1 { // another group's message may be to blame: it should not meet the same neighbor again
			sleep(l.r.intake, rand.N(100*time.Millisecond))
		}
		defer v.alone()()
		before, err := v.begin(it)
		if err != nil {
			return err
		}
		if before >= l.r.p.cfg.Retry.Attempts {
			it.kills = before
			it.verdict = fmt.Errorf("%w, %d times", errKills, before)
		}
	}
	if err := l.transact([]*item{it}); err != nil {
		return l.alone(it, err)
	}
	return nil
}
