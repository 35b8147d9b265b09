package host

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/surge-go/surge/cqrs"
)

var (
	// ErrGrace is returned by Run when something did not stop within [Config.Grace].
	ErrGrace = errors.New("host: not stopped in time")
	// ErrKilled is returned by Run after [Service.Kill], and is the cause of its parts' contexts.
	ErrKilled = errors.New("host: killed")
	// ErrRunning is returned by Run for a service that runs.
	ErrRunning = errors.New("host: the service runs already")
)

// Run starts groups, then the relay, then parts; when ctx ends, or one of them fails, it stops them as the package
// documentation says. It returns nil after an orderly stop, else the joined errors. A service that was stopped
// can run again; one that was killed cannot.
func (s *Service) Run(ctx context.Context) error { return Run(ctx, s) }

// Run runs services that share a process and a transport: all groups are known before the first relay starts.
// All of them stop when one fails. Parts are stopped first, of all services, then groups and relays.
func Run(ctx context.Context, services ...*Service) error {
	if len(services) == 0 {
		return errors.New("host: Run needs a service")
	}
	l := &life{services: services, failed: make(chan struct{}, 1)}
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	for _, stage := range l.stages() {
		for _, t := range stage {
			t.start(ctx, l)
		}
	}
	killed, release := l.anyKilled()
	defer release()
	select {
	case <-ctx.Done():
	case <-l.failed:
	case <-killed:
		l.stopping.Store(true)
		return l.abort()
	}
	l.stopping.Store(true)
	return l.stop(killed)
}

// life is one Run.
type life struct {
	services []*Service
	failed   chan struct{}
	stopping atomic.Bool

	groups, relays, parts []*task
}

func (l *life) begin() error {
	var faults []error
	for i, s := range l.services {
		if err := s.claim(l); err != nil {
			for _, s := range l.services[:i] {
				s.life.Store(nil)
			}
			return err
		}
		faults = append(faults, s.validate())
	}
	if err := errors.Join(faults...); err != nil {
		l.end()
		return err
	}
	for _, s := range l.services {
		s.Declare()
		l.add(s)
	}
	return nil
}

func (s *Service) claim(l *life) error {
	select {
	case <-s.killed:
		return fmt.Errorf("%w: %s", ErrKilled, s.name)
	default:
	}
	if !s.life.CompareAndSwap(nil, l) {
		return fmt.Errorf("%w: %s", ErrRunning, s.name)
	}
	return nil
}

// validate joins what registration has recorded.
func (s *Service) validate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := append([]error(nil), s.faults...)
	for _, p := range s.groups {
		faults = append(faults, p.Validate())
	}
	return errors.Join(faults...)
}

func (l *life) end() {
	for _, s := range l.services {
		s.life.Store(nil)
	}
}

// watched returns what runs a group, whose counters telemetry reads meanwhile.
func (s *Service) watched(p *cqrs.Processor) func(ctx context.Context) error {
	if s.cfg.Telemetry == nil {
		return p.Run
	}
	return func(ctx context.Context) error {
		stop, err := s.cfg.Telemetry.Watch(p)
		if err != nil {
			return err
		}
		return errors.Join(p.Run(ctx), stop())
	}
}

// add makes the tasks of a service.
func (l *life) add(s *Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	grace := s.cfg.Grace
	for _, p := range s.groups {
		l.groups = append(l.groups, newTask("group "+p.Group(), grace, s.watched(p)))
	}
	if d := s.unheard(); d != nil {
		s.own.Declare(d.group, d.topics...)
		l.groups = append(l.groups, newTask("group "+d.group, grace, d.Run))
	}
	if s.Relay != nil {
		l.relays = append(l.relays, newTask("relay of "+s.name, grace, s.Relay.Run))
	} else {
		l.relays = append(l.relays, newTask("pruner of "+s.name, grace, s.Pruner.Run))
	}
	l.relays = append(l.relays, newTask("sweeper of "+s.name, grace, s.sweeper().Run))
	for i, p := range s.parts {
		l.parts = append(l.parts, newTask(fmt.Sprintf("part %d of %s (%T)", i+1, s.name, p), grace, p.Run))
	}
}

// stages are in the order of starting.
func (l *life) stages() [][]*task { return [][]*task{l.groups, l.relays, l.parts} }

// stop ends everything in order.
func (l *life) stop(killed <-chan struct{}) error {
	var faults []error
	for _, step := range l.steps() {
		faults = append(faults, step(killed))
		select {
		case <-killed:
			return l.abort()
		default:
		}
	}
	return errors.Join(faults...)
}

// steps are in the order of stopping: parts one after the other, the last one first, then the rest of a stage at
// once. Over a broker the relays come last, so that what the groups have sent can leave.
func (l *life) steps() []func(<-chan struct{}) error {
	var steps []func(<-chan struct{}) error
	for _, p := range slices.Backward(l.parts) {
		steps = append(steps, stopping(p))
	}
	if _, ok := l.services[0].transport.(declarer); ok {
		return append(steps, stopping(l.relays...), stopping(l.groups...))
	}
	return append(steps, stopping(l.groups...), l.drain, stopping(l.relays...))
}

func stopping(tasks ...*task) func(<-chan struct{}) error {
	return func(killed <-chan struct{}) error {
		for _, t := range tasks {
			t.cancel(nil)
		}
		var faults []error
		for _, t := range tasks {
			faults = append(faults, t.stop(killed))
		}
		return errors.Join(faults...)
	}
}

// drain lets the relays send what the groups have left behind, for half of Grace at most.
func (l *life) drain(<-chan struct{}) error {
	for _, s := range l.services {
		if s.Relay == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Grace/2)
		if err := s.Relay.Drain(ctx); err != nil {
			s.cfg.Logger.Warn("messages are left for the next start", "service", s.name, "error", err)
		}
		cancel()
	}
	return nil
}

// abort ends everything at once.
func (l *life) abort() error {
	for _, stage := range l.stages() {
		for _, t := range stage {
			t.cancel(ErrKilled)
		}
	}
	for _, stage := range l.stages() {
		for _, t := range stage {
			_ = t.stop(nil) // what a killed service complains about is of no interest
		}
	}
	return ErrKilled
}

// anyKilled returns a channel that is closed when one of the services is killed.
func (l *life) anyKilled() (<-chan struct{}, func()) {
	killed, over := make(chan struct{}), make(chan struct{})
	first := make(chan struct{}, 1)
	for _, s := range l.services {
		go func() {
			select {
			case <-s.killed:
				select {
				case first <- struct{}{}:
					close(killed)
				default:
				}
			case <-over:
			}
		}()
	}
	return killed, func() { close(over) }
}

// A task is one goroutine of a life.
type task struct {
	name   string
	grace  time.Duration
	run    func(context.Context) error
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // set before done is closed
	early  bool  // err came before anybody wanted an end; set like it
}

func newTask(name string, grace time.Duration, run func(context.Context) error) *task {
	return &task{name: name, grace: grace, run: run, cancel: func(error) {}, done: make(chan struct{})}
}

func (t *task) start(whole context.Context, l *life) {
	ctx, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(whole), graceKey{}, t.grace))
	t.cancel = cancel
	t.err = fmt.Errorf("%w: it ended its goroutine", cqrs.ErrPanic) // unless it returns or panics
	go func() {
		defer close(t.done)
		defer func() {
			if v := recover(); v != nil {
				t.err = fmt.Errorf("%w: %v\n%s", cqrs.ErrPanic, v, debug.Stack())
			}
			if t.err != nil && ctx.Err() == nil {
				t.early = whole.Err() == nil && !l.stopping.Load()
				select {
				case l.failed <- struct{}{}:
				default:
				}
			}
		}()
		t.err = t.run(ctx)
	}()
}

type graceKey struct{}

// graceOf is how long a part has to stop.
func graceOf(ctx context.Context) time.Duration {
	if d, ok := ctx.Value(graceKey{}).(time.Duration); ok {
		return d
	}
	return 10 * time.Second
}

// stop ends a task and returns what went wrong with it.
func (t *task) stop(killed <-chan struct{}) error {
	t.cancel(nil)
	timer := time.NewTimer(t.grace)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-killed:
		return nil // all end now
	case <-timer.C:
		return fmt.Errorf("%w: %s within %v", ErrGrace, t.name, t.grace)
	}
	if t.err == nil || !t.early && canceled(t.err) {
		return nil
	}
	return fmt.Errorf("host: %s: %w", t.name, t.err)
}

// canceled reports whether an error says that its context was canceled and nothing else.
func canceled(err error) bool {
	all, joined := err.(interface{ Unwrap() []error })
	if !joined {
		inner := errors.Unwrap(err)
		return inner != nil && canceled(inner) || inner == nil && errors.Is(err, context.Canceled)
	}
	return !slices.ContainsFunc(all.Unwrap(), func(e error) bool { return !canceled(e) })
}

// Kill ends a running service as a crash would, for tests: its database handle is closed, so that nothing more
// commits than what is committing already, and everything is told to stop at once, with nothing drained. Run
// returns [ErrKilled]. What a crash would leave behind is left behind; the service cannot be used again: open
// the database and the service anew. Services in the same Run are ended with it, theirs in order of nothing.
func (s *Service) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.killed:
		return
	default:
	}
	if pool, err := s.db.DB(); err == nil {
		_ = pool.Close()
	}
	close(s.killed)
}
