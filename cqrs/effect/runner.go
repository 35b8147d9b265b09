package effect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// ErrRunning is returned by a second Run of a [Runner] that runs.
var ErrRunning = errors.New("effect: the runner runs already")

// ErrHung is returned by [Runner.Run] when calls that ignore their context have not returned.
var ErrHung = errors.New("effect: calls do not return")

// A Runner carries out recorded intents. It is safe for concurrent use. Without a Run intents are recorded
// and wait.
type Runner struct {
	store Store
	cfg   Config
	reply func(ctx context.Context, env cqrs.Envelope, result any, err error) error
	due   chan struct{} // something may be claimable
	hung  atomic.Int32  // calls left behind

	catalog *cqrs.Catalog // nil: there is none

	mu      sync.Mutex
	faults  []error
	lanes   map[string]*lane
	owner   string // "" while it does not run
	beaten  time.Time
	known   map[holding]bool      // what it holds and will carry out: queued, or at work
	leaving map[holding]int       // what is being given back, and by how many
	unknown map[holding]time.Time // what the store says it holds beside that, since when
	astray  []*Record             // what was unknown for too long, to be given back
	launch  func(*lane, *Record)  // starts a call; nil while it does not run
	stopped bool
	wg      sync.WaitGroup
}

// New makes a runner that keeps intents in store and replies through p.
func New(p *cqrs.Processor, store Store, cfg Config) (*Runner, error) {
	if p == nil || store == nil {
		return nil, errors.New("effect: New needs a processor and a store")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	reply := func(ctx context.Context, env cqrs.Envelope, result any, err error) error {
		return cqrs.Reply(ctx, p, env, result, err)
	}
	r := newRunner(reply, store, cfg)
	r.catalog = p.Catalog()
	return r, nil
}

func newRunner(reply func(context.Context, cqrs.Envelope, any, error) error, store Store, cfg Config) *Runner {
	return &Runner{
		store: store, cfg: cfg.withDefaults(), reply: reply,
		due: make(chan struct{}, 1), lanes: map[string]*lane{}, known: map[holding]bool{}, leaving: map[holding]int{},
	}
}

type caller interface {
	call(ctx context.Context, rec *Record) (*settlement, error)
}

func (r *Runner) register(name string, timeout time.Duration, fault error, c caller) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if timeout == 0 {
		timeout = r.cfg.Timeout
	}
	switch {
	case fault != nil:
		r.faults = append(r.faults, fault)
	case timeout > r.cfg.longest():
		r.faults = append(r.faults, fmt.Errorf("effect: %q: Effect.Timeout is %v, at most a third of Config.Lease, %v,"+
			" is allowed", name, timeout, r.cfg.longest()))
	case r.lanes[name] != nil:
		r.faults = append(r.faults, fmt.Errorf("effect: %q is registered twice", name))
	case r.owner != "":
		r.faults = append(r.faults, fmt.Errorf("effect: %q is registered after Run", name))
	default:
		r.lanes[name] = &lane{name: name, timeout: timeout, caller: c, left: make(chan struct{}, r.cfg.Concurrency)}
	}
}

// Validate joins the faults of all registrations.
func (r *Runner) Validate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.faults...)
}

// envelope is that of the command being handled. Where there is none, because cmd is executed, by the handler of an
// event perhaps, it names cmd, so that its handler's cqrs.OnReply hears of the reply.
func (r *Runner) envelope(ctx context.Context, cmd any) cqrs.Envelope {
	env, _ := cqrs.EnvelopeOf(ctx)
	if env.Kind == cqrs.KindCommand || env.Kind == "" && env.Type != "" || r.catalog == nil {
		return env
	}
	if info, ok := r.catalog.Lookup(cmd); ok {
		env.Type, env.Version, env.Kind, env.OccurredAt = info.Name, info.Version, info.Kind, time.Now()
		env.Key = r.catalog.KeyOf(cmd)
	}
	return env
}

// record stores an intent and, once it is committed, starts it.
func (r *Runner) record(ctx context.Context, rec *Record) error {
	rec.Owner = r.holder(rec.Name)
	rec.Doubt = rec.Owner != "" // if we die, nobody will know whether we have called
	began := time.Now()
	err := r.store.Add(ctx, rec, func() {
		if rec.Owner == "" || time.Since(began) >= r.cfg.Lease { // then it may have been found astray already
			r.wake()
			return
		}
		fresh := *rec
		fresh.Doubt = false
		r.push(&fresh)
	})
	if err != nil {
		return fmt.Errorf("effect: record %s: %w", rec.Name, err)
	}
	return nil
}

// holder returns who holds a new intent: this runner if it can start it soon, else nobody.
func (r *Runner) holder(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[name]
	if l == nil || r.stopped || len(l.queue) >= r.cfg.Backlog || !r.alive() {
		return ""
	}
	return r.owner
}

// alive says whether the lease certainly holds, with r.mu held.
func (r *Runner) alive() bool {
	return r.owner != "" && time.Since(r.beaten) < r.cfg.Lease-r.cfg.Lease/3
}

func (r *Runner) wake() {
	select {
	case r.due <- struct{}{}:
	default:
	}
}

// Run carries out intents until ctx ends: those recorded through this runner as soon as they are committed,
// and those that nobody holds, of runs that ended or died. Then it starts no more calls, lets those under way
// end, each within its timeout and a second, and gives back the rest. It returns the faults of the registrations, if
// any, and [ErrHung] if there are calls that were left behind and have not returned, though their goroutines go on;
// otherwise nil: while the store fails, it tries again.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { r.keepBeating(ctx) })
	loops.Go(func() { r.keepClaiming(ctx) })
	<-ctx.Done()
	r.stop()
	loops.Wait()
	r.wg.Wait()
	r.end(ctx)
	if n := r.hung.Load(); n > 0 {
		return fmt.Errorf("%w: %d", ErrHung, n)
	}
	return nil
}

func (r *Runner) begin(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.launch != nil {
		return ErrRunning
	}
	r.launch = func(l *lane, rec *Record) { r.wg.Go(func() { r.work(ctx, l, rec) }) }
	r.stopped = false
	return nil
}

func (r *Runner) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, l := range r.lanes {
		r.clear(l)
	}
}

func (r *Runner) end(ctx context.Context) {
	r.mu.Lock()
	owner := r.owner
	r.owner, r.launch = "", nil
	r.mu.Unlock()
	if owner == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := r.store.Beat(ctx, owner, 0); err != nil {
		r.cfg.Logger.Warn("effects are not given back, they wait for the lease to run out", "error", err)
	}
}

// keepBeating holds the lease. A lease that was lost is replaced by another owner's: what the old one held
// belongs to whoever claims it.
func (r *Runner) keepBeating(ctx context.Context) {
	owner, last := "", time.Time{}
	for {
		if r.lapsed(last) { // others may have taken and settled all of it
			owner, last = "", time.Time{}
			r.beat("", time.Now())
		}
		if owner == "" {
			owner = r.cfg.Owner + ownerMark + rand.Text()
		}
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, r.cfg.Lease/3)
		held, err := r.store.Beat(limited, owner, r.cfg.Lease)
		cancel()
		switch {
		case err == nil && r.lapsed(last):
			continue // it may have been renewed when others had looked
		case err == nil:
			last = began
			r.compare(held)
			r.beat(owner, began)
		case errors.Is(err, ErrLost):
			r.cfg.Logger.Warn("the lease on effects was lost", "owner", owner)
			owner, last = "", time.Time{}
			r.beat("", began)
			continue
		case ctx.Err() == nil:
			r.cfg.Logger.Warn("the lease on effects is not renewed", "error", err)
		}
		pause := r.cfg.Lease / 3
		if err != nil {
			pause = min(pause, r.cfg.Poll)
		}
		if !sleep(ctx, pause, nil) {
			return
		}
	}
}

// lapsed says that a lease which was renewed last at that time may have ended.
func (r *Runner) lapsed(last time.Time) bool {
	return !last.IsZero() && time.Since(last) >= r.cfg.Lease
}

func (r *Runner) beat(owner string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owner != owner {
		for _, l := range r.lanes {
			r.clear(l)
		}
	}
	r.owner, r.beaten = owner, at
	for _, l := range r.lanes {
		r.dispatch(l) // it may have waited for the lease
	}
	r.wake()
}

// keepClaiming looks for intents that nobody holds: at once when one is known to be due, else now and then.
func (r *Runner) keepClaiming(ctx context.Context) {
	for {
		more, err := r.claim(ctx)
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("effects cannot be claimed", "error", err)
		}
		if more {
			continue
		}
		if !sleep(ctx, r.cfg.Poll, r.due) {
			return
		}
	}
}

// claim fills the lanes from the store and reports whether there may be more at once.
func (r *Runner) claim(ctx context.Context) (more bool, err error) {
	if err := r.release(ctx); err != nil {
		return false, err
	}
	owner, names, room := r.room()
	if len(names) == 0 {
		return false, nil
	}
	records, err := r.store.Claim(ctx, owner, names, room)
	if err != nil {
		return false, err
	}
	for _, rec := range records {
		r.push(rec)
	}
	return len(records) == room, nil
}

// room returns the effects that can take more, and how many each of them can.
func (r *Runner) room() (owner string, names []string, room int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive() || r.stopped {
		return "", nil, 0
	}
	room = maxClaim
	for name, l := range r.lanes {
		free := r.cfg.Backlog - len(l.queue)
		l.full = free <= 0
		if free > 0 && !l.paused() {
			names = append(names, name)
			room = min(room, free)
		}
	}
	slices.Sort(names)
	return r.owner, names, room
}

const maxClaim = 256

// sleep waits for d, or for wake, or for the end of ctx: then it returns false.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return true
}
