package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// A tick asks a transaction to take what is due.
type tick struct {
	limit int
	taken int // how many instances were due; set by every run of the transaction
}

// Run checks the definitions against those of other processes, then looks after timeouts, placeholders and instances
// that have ended, until ctx ends; then it returns nil. It returns the faults of registration, and [ErrChanged], at
// once. The processor must run too. Several processes may run engines of the same group: each due instance is taken
// by one of them.
func (e *Engine) Run(ctx context.Context) error {
	if err := e.work.Do(ctx, e.record); err != nil && ctx.Err() == nil {
		return fmt.Errorf("saga: engine: %w", err)
	}
	if e.cfg.MaxReplyAge > 0 { // what came while we were away is read first
		e.late.Store(time.Now().Add(e.cfg.MaxReplyAge).UnixMilli())
	}
	var measured, purged time.Time
	for wait := time.Duration(0); sleep(ctx, wait); {
		wait = e.cfg.Poll
		if time.Since(measured) > time.Minute {
			if err := e.work.Do(ctx, e.readClock); err != nil {
				e.log.Error("cannot read the database's clock", "error", err)
				continue
			}
			measured = time.Now()
		}
		if full := e.timeouts(ctx); full {
			wait = 0
		}
		if time.Since(purged) > time.Minute {
			purged = time.Now()
			e.clean(ctx)
		}
	}
	return nil
}

// timeouts fires what is due, and reports whether there may be more.
func (e *Engine) timeouts(ctx context.Context) bool {
	if e.heldBack(ctx) {
		return false
	}
	n, err := e.Tick(ctx)
	if err != nil && ctx.Err() == nil {
		e.log.Error("timeouts cannot be handled", "error", err)
	}
	return err == nil && n == e.cfg.TimeoutBatch
}

// Tick fires the timers of at most EngineConfig.TimeoutBatch due instances, whatever the lag, and returns how many
// there were. If they do not commit together, each does alone, as far as it can, and the error says which do not. Run
// calls it; it is for programs that have a rhythm of their own, and for tests.
func (e *Engine) Tick(ctx context.Context) (int, error) {
	t := &tick{limit: e.cfg.TimeoutBatch}
	err := e.work.Do(ctx, func(ctx context.Context) error { return e.take(ctx, work{tick: t}) })
	if err == nil || t.taken < 2 || ctx.Err() != nil {
		return t.taken, err
	}
	e.log.Warn("timeouts are handled one by one", "error", err)
	return e.tickEach(ctx)
}

// tickEach fires the timers of due instances, each in a transaction of its own.
func (e *Engine) tickEach(ctx context.Context) (int, error) {
	var due []*store.Row
	err := e.work.Do(ctx, func(ctx context.Context) (err error) {
		due, err = store.Due(ctx, e.now().UnixMilli(), e.known(), e.cfg.TimeoutBatch)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("saga: %w", err)
	}
	var faults []error
	for _, r := range due {
		timer := work{id: r.ID, input: flow.Input{Kind: flow.Timer}}
		if err := e.work.Do(ctx, func(ctx context.Context) error { return e.take(ctx, timer) }); err != nil {
			faults = append(faults, fmt.Errorf("saga: timer of %s %q: %w", r.Type, r.Key, err))
		}
	}
	return len(due), errors.Join(faults...)
}

// heldBack reports whether replies wait in line: a timer would take their lateness for silence.
func (e *Engine) heldBack(ctx context.Context) bool {
	if time.Now().UnixMilli() < e.late.Load() {
		return true
	}
	if e.cfg.MaxReplyLag < 0 {
		return false
	}
	lag, err := e.p.Lag(ctx)
	if err != nil {
		e.log.Warn("lag is unknown, timers wait", "error", err)
		return true
	}
	return lag[e.p.ReplyTopic()] > e.cfg.MaxReplyLag
}

// due adds the instances whose time has come, as far as they have a home here. They are taken last, without waiting
// for anybody who holds them, so timers never close a circle of locks.
func (b *batch) due(ctx context.Context, rows []*store.Row, works map[string][]work) ([]*store.Row, error) {
	ticks := b.ticks
	b.ticks = nil
	for _, t := range ticks {
		due, err := store.Due(ctx, b.e.now().UnixMilli(), b.e.known(), t.limit)
		if err != nil {
			return nil, fmt.Errorf("saga: %w", err)
		}
		t.taken = len(due)
		for _, r := range due {
			if works[r.ID] == nil {
				rows = append(rows, r)
			}
			works[r.ID] = append(works[r.ID], work{id: r.ID, input: flow.Input{Kind: flow.Timer}})
		}
	}
	return rows, nil
}

// expire turns what waited too long for a saga to be started into dead letters.
func (e *Engine) expire(ctx context.Context, r *store.Row) error {
	var place flow.Cursor
	if err := json.Unmarshal([]byte(r.Place), &place); err != nil {
		return fmt.Errorf("saga: %s has an unreadable place: %w", r.ID, err)
	}
	reason := fmt.Sprintf("no saga %s %q was started", r.Type, r.Key)
	e.log.Warn("early messages expired", "type", r.Type, "messages", len(place.Stash))
	if e.cfg.DeadLetters != nil {
		if err := e.cfg.DeadLetters.Put(ctx, e.letters(r, place.Stash, reason)); err != nil {
			return fmt.Errorf("saga: bury early messages: %w", err)
		}
	}
	return store.Delete(ctx, []string{r.ID})
}

func (e *Engine) letters(r *store.Row, stash []flow.Input, reason string) []*cqrs.DeadLetter {
	list := make([]*cqrs.DeadLetter, 0, len(stash))
	for i, in := range stash {
		if in.ID == "" {
			in.ID = fmt.Sprintf("%s-%d", r.ID, i)
		}
		list = append(list, &cqrs.DeadLetter{
			Record: cqrs.Record{
				Group: e.p.Group(), ID: in.ID, Queue: in.ID, Topic: in.Topic, Type: in.Headers[cqrs.HeaderType],
				Key: r.Key, Payload: in.Payload, Metadata: in.Headers,
				Failures: []cqrs.Failure{{At: time.Now(), Error: reason}},
			},
			Reason: reason, DiedAt: time.Now(),
		})
	}
	return list
}

// clean deletes instances that ended long ago, a bounded batch at a time.
func (e *Engine) clean(ctx context.Context) {
	if e.cfg.Keep < 0 {
		return
	}
	for ctx.Err() == nil {
		n, err := e.Purge(ctx, e.cfg.Keep)
		if err != nil {
			e.log.Error("old sagas cannot be purged", "error", err)
		}
		if err != nil || n < purgeBatch {
			return
		}
	}
}

const purgeBatch = 500

// Purge deletes at most 500 instances that ended longer ago than age, with their journals, and returns how many.
func (e *Engine) Purge(ctx context.Context, age time.Duration) (n int, err error) {
	err = e.work.Do(ctx, func(ctx context.Context) error {
		ids, err := store.Ended(ctx, e.now().Add(-age).UnixMilli(), purgeBatch)
		if err != nil {
			return err
		}
		n = len(ids)
		return store.Delete(ctx, ids)
	})
	return n, err
}

// sleep waits for d, or reports that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
