package cqrs

import (
	"context"
	"errors"
	"time"
)

// A lane runs the messages of some keys, batch by batch, each batch in one transaction.
type lane struct {
	r      *runner
	in     chan *item
	held   held
	hand   *hand       // calls the application's code; nil until it is needed
	gaveUp *hand       // the last one that was left behind
	clock  *time.Timer // of call
	quits  bool        // something fresh was given back at the stop: what comes after it is given back, too
}

// backlog is how many batches may wait for a lane. What comes for a lane that is full holds up all the others, and keys
// are spread by chance.
const backlog = 4

func newLane(r *runner) *lane {
	l := &lane{r: r, in: make(chan *item, backlog*r.p.cfg.MaxBatch), held: newHeld()}
	l.clock = time.NewTimer(time.Hour)
	l.clock.Stop()
	return l
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

// run works until in is closed and empty.
func (l *lane) run() {
	defer l.dropHand()
	for batch := l.collect(); len(batch) > 0; batch = l.collect() {
		l.process(batch)
	}
	l.giveBack(l.held.drop(func(*item) bool { return true }))
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
		if it == nil {
			l.giveBack(l.held.drop((*item).isTaken))
			continue
		}
		if l.follows(it) {
			continue
		}
		batch := l.fill(make([]*item, 0, limit), it)
		if linger := l.r.p.cfg.Linger; linger > 0 && len(batch) > 1 && len(batch) < limit {
			batch = l.linger(batch, linger)
		}
		return batch
	}
}

// first waits for a message, or (nil, true) for a held one to be due, or taken away.
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
	case <-l.held.taken:
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
			if !l.follows(it) {
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
			if !l.follows(it) {
				batch = append(batch, it)
			}
		case <-timer.C:
			return batch
		}
	}
	return batch
}

// follows reports whether an item has to wait for one of its key that is held. A scheduled message, whose time has
// come, is leased again when its lease is over.
func (l *lane) follows(it *item) bool {
	if it.arrives && l.held.queues[it.queue] != nil {
		l.giveBack([]*item{it})
		return true
	}
	return l.held.follows(it)
}

// process runs a batch until each of its messages has a fate, or the intake has stopped and the database is away.
func (l *lane) process(batch []*item) {
	for wait := 10 * time.Millisecond; ; {
		rest := l.live(batch)
		if len(rest) == 0 {
			return
		}
		if l.quits {
			l.giveBack(rest)
			return
		}
		err := l.attempt(rest)
		if err == nil {
			continue // there is a rest if a handler hung
		}
		l.r.p.log.Error("batch cannot commit, trying again", "messages", len(rest), "wait", wait, "error", err)
		if !sleep(l.r.intake, wait) {
			l.quits = true
			l.giveBack(rest)
			return
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// live drops what is settled, gives back what its session has taken from us, and looks at what is new.
func (l *lane) live(batch []*item) []*item {
	rest, unseen := make([]*item, 0, len(batch)), make([]*item, 0, len(batch))
	var taken []*item
	for _, it := range batch {
		switch {
		case it.settled, it.held:
		case it.isTaken():
			taken = append(taken, it)
		default:
			rest = append(rest, it)
			l.held.place(it)
			it.stuck = l.r.p.hung.blocks(heldKey(it))
			if it.stuck == 0 && !it.ready && !l.r.isOver() && it.look(l.r.p) {
				unseen = append(unseen, it)
			}
		}
	}
	l.giveBack(taken)
	l.decode(unseen)
	return rest
}

// decode has the catalog decode and validate messages, which is the application's code.
func (l *lane) decode(items []*item) {
	if len(items) == 0 {
		return
	}
	ds := deliveries(items)
	decode := func(i int) (any, error) { return l.r.p.sender.catalog.Decode(ds[i]) }
	messages, errs := each(l, len(items), decode, func(i int) { l.leave(items[i]) })
	for i, it := range items {
		it.d.Message, it.verdict = messages[i], errs[i]
	}
}

// leave keeps account of the hand that was just given up with these messages. It has their deliveries for as long as it
// likes; the items go on with copies. Of a batch no key waits for it: one by one its messages tell which is to blame.
func (l *lane) leave(items ...*item) {
	e := hungHandler{hand: l.gaveUp, since: time.Now(), what: items[0].d.Envelope.Type}
	if len(items) == 1 {
		e.what += " " + items[0].d.Envelope.ID
		e.keys = []string{heldKey(items[0])}
	}
	for _, it := range items {
		d := it.d // without Err, which it may be writing
		it.d = &Delivery{
			Envelope: d.Envelope, Topic: d.Topic, Payload: d.Payload, Metadata: d.Metadata, Message: d.Message,
		}
	}
	l.r.p.hung.add(e)
	l.r.p.log.Error("handler does not return", "what", e.what, "messages", len(items))
}

func (l *lane) giveBack(rest []*item) {
	if l.r.vigil != nil {
		l.r.vigil.forget(rest)
	}
	for _, it := range rest {
		if !it.held {
			it.release()
		}
	}
}

// oneByOne finds the message because of which a batch cannot commit.
func (l *lane) oneByOne(batch []*item) error {
	for _, it := range batch {
		if it.settled || it.held || l.quits || l.follows(it) {
			continue
		}
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
// blame; otherwise the store is, and no attempt is consumed. A store that goes away may be back by then, so a message
// that was lost with it is first tried again. One that the store does not take although it answers is set aside, with
// its key: nobody else has to wait for it.
func (l *lane) alone(it *item, cause error) error {
	if errors.Is(cause, ErrLeaseLost) {
		l.giveBack([]*item{it})
		return nil
	}
	if away(cause) && it.losses < maxLosses {
		it.losses++
		return cause
	}
	before := it.verdict
	if before == nil {
		it.verdict = cause
	}
	if err := l.transact([]*item{it}); err != nil {
		it.verdict, it.losses = before, 0
		if errors.Is(err, ErrLeaseLost) {
			l.giveBack([]*item{it})
			return nil
		}
		if l.r.p.do(l.r.ctx, func(context.Context) error { return nil }) != nil {
			return errors.Join(cause, err)
		}
		l.setAside(it, errors.Join(cause, err))
	}
	return nil
}

// setAside keeps a message for a while that can be stored neither as done nor as failed.
func (l *lane) setAside(it *item, why error) {
	it.delay = l.r.p.cfg.Retry.Max
	l.r.p.log.Error("message cannot be stored, its key waits", "id", it.d.Envelope.ID, "type", it.d.Envelope.Type,
		"topic", it.d.Topic, "wait", it.delay, "error", why)
	if it.parked != nil { // it is leased again when its lease is over
		l.giveBack([]*item{it})
		return
	}
	it.timed = false
	l.held.hold([]*item{it})
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
		locked, unlock, err := l.r.p.locks.lock(ctx, names)
		if err != nil {
			return err
		}
		ctx = locked
		defer unlock()
	}
	over := func(error) {}
	if l.r.p.cfg.Observer != nil {
		ctx, over = b.observeBatch(ctx)
	}
	start := time.Now()
	err := l.r.p.do(ctx, func(ctx context.Context) error { return b.run(ctx, names) })
	l.r.took(time.Since(start))
	over(err)
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
