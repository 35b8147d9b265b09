package cqrs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// runner is one Run of a processor.
type runner struct {
	p      *Processor
	seed   maphash.Seed
	sub    message.Subscriber
	lanes  []*lane
	vigil  *vigil        // nil without Crashes
	next   atomic.Uint64 // round robin for messages without key
	topics []string

	byTopic map[string][]*handler
	byName  map[string][]*handler // consumers of types
	routes  sync.Map              // routeKey → *route

	ctx      context.Context // of what the runner does for itself; ends when the drain is over
	intake   context.Context // ends when the intake is to stop
	over     chan struct{}   // closed half of Grace after that: nothing is begun any more
	overtime chan struct{}   // closed Grace after that: what does not return is left behind
	clocks   []*time.Timer
	feed     feed
	failed   chan error
	pollNow  chan struct{}
	slowest  atomic.Int64 // nanoseconds of the longest transaction so far
	out      outstanding
	due      dues
}

// Run consumes until ctx ends, then drains: stop intake, finish batches, commit, ack.
// What is not finished [ProcessorConfig].Grace after that is given back, and a handler that has not returned by then is
// reported as [ErrHung], though its goroutine goes on.
// It reports the faults that registration recorded before it consumes anything, and refuses to start with
// [ErrHorizon], or when the bus has lost the position of a group whose inbox is not empty.
// It returns nil after an orderly stop, and an error when a subscription ends by itself. It can be called again after
// it has returned.
func (p *Processor) Run(ctx context.Context) error {
	r, err := p.prepare(ctx)
	if err != nil {
		return err
	}
	defer p.current.Store(nil)
	return r.run(ctx)
}

var errRunsAlready = errors.New("cqrs: the processor runs already")

// prepare fixes the registry and makes what a run needs.
func (p *Processor) prepare(ctx context.Context) (*runner, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if p.current.Load() != nil {
		return nil, errRunsAlready
	}
	var sub message.Subscriber
	if p.cfg.Subscribe != nil { // without the lock: it may ask for the topics
		var err error
		if sub, err = p.cfg.Subscribe(p.group); err != nil {
			return nil, fmt.Errorf("cqrs: subscriber of group %q: %w", p.group, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started.Store(true)
	r := &runner{
		p: p, seed: maphash.MakeSeed(), sub: sub,
		byTopic: map[string][]*handler{}, byName: map[string][]*handler{},
		failed: make(chan error, 1), pollNow: make(chan struct{}, 1),
		over: make(chan struct{}), overtime: make(chan struct{}),
		out: outstanding{byID: map[string]*leased{}},
	}
	if p.current.Load() != nil {
		return nil, errors.Join(errRunsAlready, r.close())
	}
	r.collectTopics()
	r.ctx = context.WithoutCancel(ctx)
	for range p.cfg.Lanes {
		r.lanes = append(r.lanes, newLane(r))
	}
	r.vigil = newVigil(r)
	p.current.Store(r) // complete: others look into it from now on
	return r, nil
}

// collectTopics is called with p.mu held.
func (r *runner) collectTopics() {
	seen := map[string]bool{}
	for t := range r.p.types {
		if e := r.p.sender.catalog.byType[t]; e != nil {
			seen[e.Topic] = true
		}
	}
	for _, c := range r.p.consumers {
		for _, name := range c.from.types {
			r.byName[name] = append(r.byName[name], c.h)
			if e := r.p.sender.catalog.byName[name]; e != nil { // else a fault, which Run reports
				seen[e.Topic] = true
			}
		}
		for _, topic := range c.from.topics {
			r.byTopic[topic] = append(r.byTopic[topic], c.h)
			seen[topic] = true
		}
	}
	for topic := range seen {
		r.topics = append(r.topics, topic)
	}
	slices.Sort(r.topics)
}

func (r *runner) run(ctx context.Context) error {
	var cancel, stopIntake context.CancelFunc
	r.ctx, cancel = context.WithCancel(r.ctx)
	defer cancel()
	r.intake, stopIntake = context.WithCancel(ctx)
	defer stopIntake()

	if err := errors.Join(r.checkHorizon(ctx), r.checkPosition(ctx)); err != nil {
		return errors.Join(err, r.close())
	}
	channels, err := r.subscribe()
	if err != nil {
		return errors.Join(err, r.close())
	}
	err = r.consume(ctx, stopIntake, channels)
	err = errors.Join(err, r.p.hung.wait(r.overtime), r.close())
	for _, c := range r.clocks {
		c.Stop()
	}
	return err
}

// close closes the subscriber.
func (r *runner) close() error {
	if r.sub == nil {
		return nil
	}
	return r.sub.Close()
}

// consume runs the lanes until ctx ends or a subscription does, and everything that was begun is done or over time.
func (r *runner) consume(ctx context.Context, stopIntake func(), channels []<-chan *message.Message) (err error) {
	var lanes, sources sync.WaitGroup
	defer r.watch()()
	for _, l := range r.lanes {
		lanes.Go(l.run)
	}
	for i, ch := range channels {
		sources.Go(func() { r.read(r.topics[i], ch) })
	}
	if r.p.cfg.Parking != nil {
		sources.Go(r.drainParked)
	}
	calls := func() error { return nil }
	if r.sub != nil {
		calls = r.p.calls.serve(r)
	}
	r.feed.set(true)
	r.p.once.Do(func() { close(r.p.ready) })

	select {
	case <-ctx.Done():
	case err = <-r.failed:
	}
	stopIntake()
	if grace := r.p.cfg.Grace; grace > 0 {
		r.clocks = append(r.clocks, time.AfterFunc(grace/2, func() { close(r.over) }),
			time.AfterFunc(grace, func() { close(r.overtime) }))
	}
	sources.Wait()
	r.feed.set(false)
	for _, l := range r.lanes {
		close(l.in)
	}
	lanes.Wait()
	return errors.Join(err, calls())
}

// watch keeps the vigil until the function that it returns is called.
func (r *runner) watch() (end func()) {
	if r.vigil == nil {
		return func() {}
	}
	r.vigil.beat()
	ctx, cancel := context.WithCancel(r.ctx)
	var kept sync.WaitGroup
	kept.Go(func() { r.vigil.keep(ctx) })
	return func() {
		cancel()
		kept.Wait()
	}
}

// isOver reports whether nothing may be begun any more.
func (r *runner) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

func (r *runner) subscribe() ([]<-chan *message.Message, error) {
	var all []<-chan *message.Message
	if r.sub == nil {
		return nil, nil
	}
	for _, topic := range r.topics {
		ch, err := r.sub.Subscribe(r.ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("cqrs: subscribe to %q: %w", topic, err)
		}
		all = append(all, ch)
	}
	return all, nil
}

// read moves a subscription's messages to their lanes until the intake stops.
func (r *runner) read(topic string, ch <-chan *message.Message) {
	for {
		changed, ok := r.p.gates.wait(r.intake, topic)
		if !ok {
			return
		}
		select {
		case <-changed:
		case <-r.intake.Done():
			return
		case m, ok := <-ch:
			if !ok {
				r.fail(fmt.Errorf("cqrs: the subscription to %q ended", topic))
				return
			}
			it := r.item(topic, m)
			if !r.laneOf(it).put(r.intake, it) {
				m.Nack()
				return
			}
		}
	}
}

func (r *runner) fail(err error) {
	if r.intake.Err() != nil {
		return // it was asked to end
	}
	select {
	case r.failed <- err:
	default:
	}
}

func (r *runner) laneOf(it *item) *lane {
	n := uint64(len(r.lanes))
	if it.d.Envelope.Key == "" {
		return r.lanes[r.next.Add(1)%n]
	}
	return r.lanes[maphash.String(r.seed, it.d.Envelope.Key)%n]
}

// wake has the parked worker look again after d, at once if that is 0.
func (r *runner) wake(d time.Duration) {
	at := time.Now().Add(d)
	if d == 0 {
		at = time.Time{}
	}
	r.due.add(at)
	select {
	case r.pollNow <- struct{}{}:
	default:
	}
}
