package outbox

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Relay moves messages from the table to a publisher: at least once, in order per topic and key, and each topic
// at its own pace. Any number of relays may run on one database; they share the shards evenly.
type Relay struct {
	outbox  *Outbox
	to      message.Publisher
	cfg     RelayConfig
	unit    *uow.UnitOfWork
	pool    *sql.DB
	dialect dialect
	resweep time.Duration // between two sweeps from the beginning of the table

	running  atomic.Bool
	reading  signal
	deleting signal
	retrying signal
	waiting  signal // of the scheduler
	leasing  signal

	mu sync.Mutex
	*state
}

// state is what one Run knows. Relay.mu guards it.
type state struct {
	owner    string          // unique to this Run
	sending  context.Context // of the messages; ends when Grace is over
	writing  context.Context // of what is written down about them; ends as long after the last Publish
	workers  sync.WaitGroup
	stopping chan struct{} // closed when nothing new is to be published

	held    map[int]int64     // epoch of each shard's lease
	valid   time.Time         // until when the leases last
	flying  [Shards]int       // messages taken and not yet deleted
	closing [Shards]bool      // shards to be handed over
	closeAt [Shards]time.Time // until when what is under way for a closing shard is waited for
	barred  [Shards]int       // messages that block their shard

	calls   map[*call]struct{} // of Publish, under way
	expiry  *time.Timer        // ends their contexts before the leases run out
	topics  map[string]*topic
	blocked map[lane]*blockade
	moves   []move     // to the retry table
	freeing time.Time  // when lanes were last looked for that were erased there
	tried   []*trial   // from the retry table
	acked   []ack      // published, to be deleted
	freed   *sync.Cond // a topic may publish more, or the relay stops
	removed []int64    // no longer in our hands
	rescan  bool       // read again from the beginning
	due     int64      // the first message that was due when another relay moved some; only the scheduler uses it
	paused  bool

	published uint64
	rate      rate
	health    health
}

// writers is how many loops of a relay write. Each has a transaction of its own, so that the renewal of the leases
// waits neither for handlers nor for what else the relay does.
const writers = 5

// NewRelay returns a Relay that publishes what o wrote. The publisher stays the caller's to close, after Run.
// It has to be safe for concurrent use: topics are published at the same time, and so are keys of one topic, by
// [RelayConfig.Concurrency] calls at most.
//
// If an error of Publish has a method Failed() []int, it lists the indexes of the messages that were not published,
// and the others count as published. If it has a method Refused() bool that returns true for a single message,
// this message can never be published, and it is not asked for proof that others can.
func NewRelay(o *Outbox, to message.Publisher, cfg RelayConfig) (*Relay, error) {
	if o == nil || to == nil {
		return nil, errors.New("outbox: NewRelay needs an outbox and a publisher, got nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	pool, err := o.db.DB()
	if err != nil {
		return nil, fmt.Errorf("outbox: database handle: %w", err)
	}
	if o.dialect.sqlite() && cfg.UnitOfWork != nil && !cfg.UnitOfWork.Uses(pool) {
		return nil, errors.New("outbox: RelayConfig.UnitOfWork is over another database handle than the outbox")
	}
	if cfg.UnitOfWork == nil || !o.dialect.sqlite() {
		cfg.UnitOfWork, err = uow.New(o.db, uow.Config{Writers: writers, MaxShare: 1, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
	}
	return &Relay{
		outbox: o, to: to, cfg: cfg, unit: cfg.UnitOfWork, pool: pool, dialect: o.dialect, resweep: time.Minute,
		reading: newSignal(), deleting: newSignal(), retrying: newSignal(), waiting: newSignal(), leasing: newSignal(),
		state: &state{},
	}, nil
}

// Run relays until ctx ends, then lets each Publish under way finish, deletes what it published, gives the leases
// back and returns nil once all its goroutines have ended. Failures of the database and of the publisher are retried
// for ever, with backoff. Errors: [ErrShards], [ErrRunning], [ErrHung], and what the database said when the tables
// are missing or may not be read. A Relay may run again after Run has returned, but not after ErrHung.
func (r *Relay) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	err := r.run(ctx)
	if !errors.Is(err, ErrHung) {
		r.running.Store(false)
	}
	return err
}

func (r *Relay) run(ctx context.Context) error {
	sending, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	writing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	r.reset(sending, writing)
	for tries := 0; ; tries++ {
		r.begin(choreRead)
		err := r.outbox.verify(ctx, r.outbox.db.Statement.ConnPool)
		r.end(choreRead, err)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if lasting(err) {
			return err
		}
		r.cfg.Logger.Warn("outbox cannot begin", "error", err)
		_ = sleep(ctx, r.backoff(tries))
	}
	r.begin(choreRead)
	if err := r.tendArchive(ctx); err != nil { // before the first row goes there
		r.cfg.Logger.Warn("outbox cannot tend its archive", "error", err)
	}
	r.end(choreRead, nil)
	r.outbox.attach(r)
	defer r.outbox.detach(r)

	var first, second sync.WaitGroup // the second outlives the calls of Publish under way
	for _, loop := range []func(context.Context){r.readLoop, r.scheduleLoop, r.listenLoop, r.watchLoop, r.tendLoop} {
		first.Go(func() { loop(ctx) })
	}
	lasting, finish := context.WithCancel(context.WithoutCancel(ctx))
	defer finish()
	for _, loop := range []func(context.Context){r.leaseLoop, r.deleteLoop, r.retryLoop} {
		second.Go(func() { loop(lasting) })
	}
	<-ctx.Done()
	r.stop()
	first.Wait()
	err := r.awaitWorkers(abandon)
	finish()
	late := time.AfterFunc(r.cfg.Grace, giveUp)
	second.Wait()
	late.Stop()
	r.unexpire()
	if err == nil {
		r.release(context.WithoutCancel(ctx))
	}
	return err
}

// stop keeps workers from starting and from publishing more.
func (r *Relay) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.stopping)
	r.freed.Broadcast()
}

func (r *Relay) reset(sending, writing context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	paused := r.paused
	r.state = &state{
		freed: sync.NewCond(&r.mu),
		owner: r.cfg.Owner + "#" + rand.Text()[:8], sending: sending, writing: writing, stopping: make(chan struct{}),
		held: map[int]int64{}, topics: map[string]*topic{}, calls: map[*call]struct{}{}, blocked: map[lane]*blockade{},
		paused: paused, rate: rate{began: time.Now()},
	}
}

// awaitWorkers waits for the Publish calls under way.
func (r *Relay) awaitWorkers(abandon func()) error {
	ended := make(chan struct{})
	go func() { r.workers.Wait(); close(ended) }()
	for range 2 {
		grace := time.NewTimer(r.cfg.Grace)
		select {
		case <-ended:
			grace.Stop()
			return nil
		case <-grace.C:
			abandon()
		}
	}
	return ErrHung
}

// Pause stops publishing, keeps the leases, and returns at once; a Publish under way goes on. It holds for this
// relay alone and survives Run.
func (r *Relay) Pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = true
}

// Resume ends a pause.
func (r *Relay) Resume() {
	r.mu.Lock()
	r.paused = false
	for _, t := range r.topics {
		r.start(t)
	}
	r.mu.Unlock()
	r.hint()
}

// Drain waits until every message that was committed before the call has left the outbox table, whoever published
// it. Messages in the retry table, dead rows and scheduled messages are not waited for. A relay must be running.
func (r *Relay) Drain(ctx context.Context) error {
	var last sql.NullInt64
	if err := r.pool.QueryRowContext(ctx, "SELECT max(seq) FROM outbox").Scan(&last); err != nil {
		return fmt.Errorf("outbox: drain: %w", err)
	}
	return r.drain(ctx, last.Int64)
}

func (r *Relay) drain(ctx context.Context, last int64) error {
	first := int64(0)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		oldest, err := r.oldest(ctx, first, last)
		if err != nil {
			return fmt.Errorf("outbox: drain: %w", err)
		}
		if !oldest.Valid {
			return nil
		}
		first = oldest.Int64 // what came before the call and is in front of it has left for good
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("outbox: drain: %w", err)
		}
	}
}

// oldest returns the first message between two numbers, both included.
func (r *Relay) oldest(ctx context.Context, from, to int64) (seq sql.NullInt64, err error) {
	err = r.outbox.reads(ctx, func(conn gorm.ConnPool) error {
		return conn.QueryRowContext(ctx, r.dialect.sql("SELECT min(seq) FROM outbox WHERE seq >= ? AND seq <= ?"),
			from, to).Scan(&seq)
	})
	return seq, err
}

// hint wakes the reader and the scheduler.
func (r *Relay) hint() {
	r.reading.set()
	r.waiting.set()
}

// listenLoop lets another process's commits wake the relay.
func (r *Relay) listenLoop(ctx context.Context) {
	if r.cfg.Listen == nil {
		return
	}
	for tries := 0; ctx.Err() == nil; tries++ {
		began := time.Now()
		err := guarded("Listen", func() error { return r.cfg.Listen(ctx, r.hint) })
		if ctx.Err() != nil {
			return
		}
		r.cfg.Logger.Warn("outbox listener ended", "error", err)
		if time.Since(began) > time.Minute {
			tries = 0
		}
		if sleep(ctx, r.backoff(tries)) != nil {
			return
		}
	}
}

// A signal is set any number of times and taken once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// wait returns when the signal is set, d is over or ctx has ended; it reports whether the signal was set.
func (s signal) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff doubles with each try.
func (r *Relay) backoff(tries int) time.Duration {
	d := r.cfg.Backoff
	for ; tries > 0; tries-- {
		if d > r.cfg.MaxBackoff/2 {
			return r.cfg.MaxBackoff
		}
		d *= 2
	}
	return d
}
