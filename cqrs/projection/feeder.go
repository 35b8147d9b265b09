package projection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A feeder feeds one generation in this process.
type feeder struct {
	p     *Projection
	gen   Generation
	group string
	log   *slog.Logger

	positioned bool
	level      atomic.Bool   // it follows; on a bus without positions only this process can know
	failure    chan error    // what ends it
	missing    chan struct{} // the shadow lacks what the live model has: the archive is to be read again

	stop  context.CancelFunc
	ended chan struct{}
	err   error // once ended

	mu     sync.Mutex
	bounds map[string]bounds // by topic
}

type bounds struct {
	first, next map[int32]int64
	until       time.Time
}

func (p *Projection) newFeeder(g Generation) *feeder {
	_, at := p.bus.(positioned)
	return &feeder{
		p: p, gen: g, group: p.group(g.Number), positioned: at,
		log: p.log.With("generation", g.Number), failure: make(chan error, 1), ended: make(chan struct{}),
		missing: make(chan struct{}, 1),
		bounds:  map[string]bounds{},
	}
}

// start runs the feeder until ctx ends, stop is called or it fails; then err is set and ended closed.
func (f *feeder) start(ctx context.Context, ended chan<- *feeder) {
	ctx, f.stop = context.WithCancel(ctx)
	go func() {
		defer f.stop()
		f.err = contain(func() error { return f.run(ctx) })
		close(f.ended)
		select {
		case ended <- f:
		case <-ctx.Done():
		}
	}()
}

// over reports whether the feeder has ended.
func (f *feeder) over() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

func (f *feeder) run(ctx context.Context) error {
	if f.p.cfg.Create != nil {
		if err := f.p.cfg.Create(within(ctx, f.gen)); err != nil {
			return fmt.Errorf("projection: create generation %d: %w", f.gen.Number, err)
		}
	}
	if err := f.goLive(ctx); err != nil {
		return err
	}
	_, archive := f.p.cfg.Source.(fromArchive)
	loading := f.gen.State == Loading
	if loading && (f.positioned || archive) {
		if err := f.p.cfg.Source.load(ctx, f); err != nil {
			return err
		}
	}
	if loading && f.positioned {
		if err := f.follows(ctx); err != nil {
			return err
		}
	}
	sub, channels, err := f.subscribe(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := sub.Close(); err != nil {
			f.log.Warn("subscriber closes", "error", err)
		}
	}()
	if err := f.join(ctx, loading); err != nil {
		return err
	}
	return f.consume(ctx, channels)
}

// goLive lets queries read the first generation from its beginning.
func (f *feeder) goLive(ctx context.Context) error {
	if f.p.live.Load() != 0 {
		return nil
	}
	_, err := f.p.change(ctx, func(_ context.Context, m *Model) error {
		switch {
		case m.fed(f.gen.Number) == nil:
			return errRetired
		case m.Live == 0:
			m.Live = f.gen.Number
		}
		return nil
	})
	return err
}

// join closes the gap between the source and the subscription on a bus without positions: what was published before
// the subscription is read once more, while what comes after it waits.
func (f *feeder) join(ctx context.Context, loading bool) error {
	if f.positioned {
		return nil
	}
	archive, ok := f.p.cfg.Source.(fromArchive)
	shadow := f.gen.Number != f.p.live.Load()
	switch {
	case ok && (loading || shadow):
		if err := archive.again(ctx, f); err != nil {
			return err
		}
	case loading:
		if err := f.p.cfg.Source.load(ctx, f); err != nil {
			return err
		}
	case shadow: // its snapshot is older than what it has missed since
		return f.replace(ctx, "the process ended before the swap")
	}
	if loading {
		if err := f.follows(ctx); err != nil {
			return err
		}
	}
	f.level.Store(true)
	return nil
}

// follows notes that the source is read.
func (f *feeder) follows(ctx context.Context) error {
	_, err := f.p.change(ctx, func(_ context.Context, m *Model) error { return f.follow(m) })
	return err
}

func (f *feeder) follow(m *Model) error {
	g := m.fed(f.gen.Number)
	if g == nil {
		return errRetired
	}
	if g.State == Loading {
		g.State, g.Since = Following, m.Now
	}
	return nil
}

func (f *feeder) subscribe(ctx context.Context) (message.Subscriber, map[string]<-chan *message.Message, error) {
	var sub message.Subscriber
	var err error
	if bus, ok := f.p.bus.(positioned); ok {
		sub, err = bus.SubscriberAt(f.group, f.begin)
	} else {
		sub, err = f.p.bus.Subscriber(f.group)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("projection: subscriber of group %q: %w", f.group, err)
	}
	channels := map[string]<-chan *message.Message{}
	for _, topic := range f.p.topics() {
		if channels[topic], err = sub.Subscribe(ctx, topic); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("projection: subscribe to %q: %w", topic, err), sub.Close())
		}
	}
	return sub, channels, nil
}

// consume moves messages to their lanes until ctx ends or a lane fails.
func (f *feeder) consume(ctx context.Context, channels map[string]<-chan *message.Message) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for topic, ch := range channels {
		running.Go(func() { f.read(ctx, &running, topic, ch) })
	}
	return f.attend(ctx)
}

// attend waits for the end, and reads the archive again when something is missing: what was published before the
// subscription and noted after the archive was read.
func (f *feeder) attend(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-f.failure:
			return err
		case <-f.missing:
			if archive, ok := f.p.cfg.Source.(fromArchive); ok {
				if err := archive.again(ctx, f); err != nil {
					return err
				}
			}
			pause(ctx, f.p.cfg.Poll)
		}
	}
}

func (f *feeder) fail(err error) {
	select {
	case f.failure <- err:
	default:
	}
}

// read gives each partition of a topic a lane. Without positions a topic has one.
func (f *feeder) read(ctx context.Context, running *sync.WaitGroup, topic string, ch <-chan *message.Message) {
	lanes := map[int32]*lane{}
	for {
		var m *message.Message
		select {
		case <-ctx.Done():
			return
		case next, ok := <-ch:
			if !ok {
				if ctx.Err() == nil {
					f.fail(fmt.Errorf("projection: the subscription to %q ended", topic))
				}
				return
			}
			m = next
		}
		at, ok := cqrs.PositionOf(m.Context())
		if ok != f.positioned {
			m.Nack()
			f.fail(fmt.Errorf("projection: a message of topic %q: position %t, but its bus: %t", topic, ok, f.positioned))
			return
		}
		l := lanes[at.Partition]
		if l == nil {
			l = f.newLane(topic, at.Partition, f.positioned)
			lanes[at.Partition] = l
			running.Go(func() {
				if err := l.run(ctx); err != nil && ctx.Err() == nil {
					f.fail(err)
				}
			})
		}
		e := f.p.event(topic, m, at.Offset)
		e.origin = at
		if !l.in.put(e) {
			m.Nack()
			return
		}
	}
}

// enter makes sure, until the transaction ends, that the generation is to be fed.
func (f *feeder) enter(ctx context.Context) (context.Context, error) {
	m, err := f.p.store.Lock(ctx, f.p.name, false)
	if err != nil {
		return nil, fmt.Errorf("projection: lock model: %w", err)
	}
	switch g := m.fed(f.gen.Number); {
	case g == nil:
		return nil, errRetired
	case m.held(g.Number):
		return nil, errHeld
	}
	return within(ctx, f.gen), nil
}

// claim tells which of the messages were applied before.
func (f *feeder) claim(ctx context.Context, events map[string]*event) (known map[string]bool, err error) {
	if len(events) == 0 {
		return nil, nil
	}
	ids := slices.Sorted(maps.Keys(events))
	fresh, err := f.p.cfg.Inbox.Claim(ctx, f.group, ids)
	if err != nil {
		return nil, fmt.Errorf("projection: claim messages: %w", err)
	}
	if len(fresh) != len(ids) {
		return nil, fmt.Errorf("projection: the inbox answered for %d of %d messages", len(fresh), len(ids))
	}
	for i, id := range ids {
		if !fresh[i] {
			if known == nil {
				known = map[string]bool{}
			}
			known[id] = true
		}
	}
	return known, nil
}

// begin tells the bus where a partition goes on. A partition without a checkpoint begins with what there is.
func (f *feeder) begin(ctx context.Context, topic string, partition int32) (int64, bool, error) {
	all, err := f.p.store.List(ctx, f.p.name, f.gen.Number)
	if err != nil {
		return 0, false, err
	}
	next := int64(oldest)
	if _, whole := f.p.cfg.Source.(fromTopics); whole {
		next = 0
	}
	for _, c := range all {
		if c.Topic == topic && c.Partition == partition {
			next = c.Position + 1
		}
	}
	if next == oldest {
		return oldest, true, nil
	}
	for _, renew := range []bool{false, true} { // what is remembered may be older than the checkpoint
		b, err := f.boundsOf(ctx, topic, renew)
		if err != nil {
			return 0, false, err
		}
		first, ok := b.first[partition]
		if !ok || first <= next && next <= b.next[partition] {
			return next, true, nil
		}
		err = fmt.Errorf("%w: topic %q, partition %d: offset %d is next, but it has %d to %d",
			ErrHistoryLost, topic, partition, next, first, b.next[partition])
		if renew {
			f.fail(err)
			return 0, false, err
		}
	}
	return next, true, nil
}

// boundsOf asks what a topic has, and remembers it for a moment: partitions are assigned many at once.
func (f *feeder) boundsOf(ctx context.Context, topic string, renew bool) (bounds, error) {
	bus, ok := f.p.bus.(bounded)
	if !ok {
		return bounds{}, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.bounds[topic]; ok && !renew && time.Now().Before(b.until) {
		return b, nil
	}
	first, err := bus.Earliest(ctx, topic)
	if err != nil {
		return bounds{}, err
	}
	next, err := bus.Latest(ctx, topic)
	if err != nil {
		return bounds{}, err
	}
	f.bounds[topic] = bounds{first, next, time.Now().Add(time.Second)}
	return f.bounds[topic], nil
}

// id is the message's ID as stores take it.
func (e *event) id() string { return storable(e.delivery.Envelope.ID) }

const maxStored = 200

// storable returns a name that every store takes, whatever a foreign sender wrote.
func storable(name string) string {
	if len(name) <= maxStored && utf8.ValidString(name) && strings.IndexByte(name, 0) < 0 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}
