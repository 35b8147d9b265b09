package cqrs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A lane runs the messages of some keys, batch by batch, each batch in one transaction.
type lane struct {
	r       *runner
	in      chan *item
	wg      *sync.WaitGroup
	held    held
	current []*item // the batch being processed
	active  []*item // those of them whose handler is running
	over    bool
}

func newLane(r *runner) *lane {
	return &lane{r: r, in: make(chan *item, r.p.cfg.MaxBatch), held: held{queues: map[string]*heldQueue{}}}
}

// put hands over an item, or reports that ctx ended first.
func (l *lane) put(ctx context.Context, it *item) bool {
	select {
	case l.in <- it:
		return true
	default:
	}
	select {
	case l.in <- it:
		return true
	case <-ctx.Done():
		return false
	}
}

// run works until in is closed and empty. A handler that ends the goroutine (runtime.Goexit, as t.FailNow does)
// ends this one; another goroutine then goes on with the batch, where that message counts as failed.
func (l *lane) run() {
	defer func() {
		if !l.over {
			l.blame()
			l.wg.Go(l.run)
		}
	}()
	if len(l.current) > 0 {
		l.process(l.current)
	}
	for batch := l.collect(); len(batch) > 0; batch = l.collect() {
		l.process(batch)
	}
	l.held.nackAll()
	l.over = true
}

func (l *lane) blame() {
	for _, it := range l.active {
		if len(l.active) == 1 {
			it.verdict = fmt.Errorf("%w: it ended its goroutine", ErrPanic)
		}
		it.single = true
	}
	l.active = nil
}

// collect waits for a message and takes what else is there. nil means that there will be no more.
func (l *lane) collect() []*item {
	limit := l.r.p.cfg.MaxBatch
	for {
		if batch := l.held.due(limit); len(batch) > 0 {
			return batch
		}
		it, ok := l.first()
		if !ok {
			return nil
		}
		if it == nil || l.held.follows(it) {
			continue
		}
		batch := l.fill(make([]*item, 0, limit), it)
		if linger := l.r.p.cfg.Linger; linger > 0 && len(batch) > 1 && len(batch) < limit {
			batch = l.linger(batch, linger)
		}
		return batch
	}
}

// first waits for a message, or (nil, true) for a held one to be due.
func (l *lane) first() (*item, bool) {
	wait, holds := l.held.wait()
	if !holds {
		it, ok := <-l.in
		return it, ok
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case it, ok := <-l.in:
		return it, ok
	case <-timer.C:
		return nil, true
	}
}

func (l *lane) fill(batch []*item, it *item) []*item {
	batch = append(batch, it)
	for len(batch) < cap(batch) {
		select {
		case it, ok := <-l.in:
			if !ok {
				return batch
			}
			if !l.held.follows(it) {
				batch = append(batch, it)
			}
		default:
			return batch
		}
	}
	return batch
}

func (l *lane) linger(batch []*item, d time.Duration) []*item {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for len(batch) < cap(batch) {
		select {
		case it, ok := <-l.in:
			if !ok {
				return batch
			}
			if !l.held.follows(it) {
				batch = append(batch, it)
			}
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// process runs a batch until each of its messages has a fate, or the intake has stopped and the database is away.
func (l *lane) process(batch []*item) {
	l.current = batch
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		rest := l.live(batch)
		if len(rest) == 0 {
			break
		}
		err := l.transact(rest)
		if err != nil && len(rest) > 1 {
			err = l.oneByOne(rest)
		} else if err != nil {
			err = l.alone(rest[0], err)
		}
		if err == nil {
			continue
		}
		l.r.p.log.Error("batch cannot commit, trying again", "messages", len(rest), "wait", wait, "error", err)
		if !sleep(l.r.intake, wait) {
			l.giveBack(rest)
			break
		}
	}
	l.current = nil
}

// live drops what is settled, and gives back what its session has taken from us.
func (l *lane) live(batch []*item) []*item {
	rest := make([]*item, 0, len(batch))
	for _, it := range batch {
		switch {
		case it.settled, it.held:
		case it.msg != nil && it.msg.Context().Err() != nil:
			it.release()
		default:
			it.prepare(l.r.p)
			rest = append(rest, it)
		}
	}
	return rest
}

func (l *lane) giveBack(rest []*item) {
	for _, it := range rest {
		if !it.held {
			it.release()
		}
	}
}

// oneByOne finds the message because of which a batch cannot commit.
func (l *lane) oneByOne(batch []*item) error {
	for _, it := range batch {
		err := l.transact([]*item{it})
		if err != nil {
			err = l.alone(it, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// alone settles a message whose own transaction did not commit. If the store takes it as failed, the message was to
// blame; otherwise the store is, and no attempt is consumed.
func (l *lane) alone(it *item, cause error) error {
	if errors.Is(cause, ErrLeaseLost) {
		it.release()
		return nil
	}
	before := it.verdict
	if before == nil {
		it.verdict = cause
	}
	if err := l.transact([]*item{it}); err != nil {
		it.verdict = before
		if errors.Is(err, ErrLeaseLost) {
			it.release()
			return nil
		}
		return errors.Join(cause, err)
	}
	return nil
}

// transact runs items in one transaction and acknowledges them.
func (l *lane) transact(items []*item) error {
	b := &batch{l: l, r: l.r, p: l.r.p, items: items}
	ctx := l.r.ctx
	if l.r.p.cfg.UnitOfWork != nil {
		ctx = &scope{Context: ctx, inTx: true}
	}
	names := b.locks()
	if len(names) > 0 && l.r.p.cfg.Locker == nil {
		unlock, err := l.r.p.locks.lock(ctx, names)
		if err != nil {
			return err
		}
		defer unlock()
	}
	start := time.Now()
	err := l.r.p.do(ctx, func(ctx context.Context) error { return b.run(ctx, names) })
	l.r.took(time.Since(start))
	if err != nil {
		return err
	}
	b.finish()
	return nil
}

// sleep waits for d, or reports that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
