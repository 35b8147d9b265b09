package saga_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
	"gorm.io/gorm"
)

// Messages of the lab: all steps send the same command and differ in its field.
type (
	work struct {
		cqrs.Returns[worked]
		ID, Step string
	}
	worked struct{ Step string }
	unwork struct{ ID, Step string }
	ping   struct{ ID, Text string }
	quit   struct{ ID string }
	begin  struct{ ID string }
)

var labMessages = cqrs.NewCatalog(
	cqrs.Command[work]{Name: "lab.work", Key: func(m work) string { return m.ID }},
	cqrs.Command[unwork]{Name: "lab.unwork", Key: func(m unwork) string { return m.ID }},
	cqrs.Command[picky]{Name: "lab.picky", Key: picky.key, Validate: picky.check},
	cqrs.Command[measure]{Name: "lab.measure", Key: func(measure) string { return "" }},
	cqrs.Event[ping]{Name: "outside.ping", Key: func(m ping) string { return m.ID }},
	cqrs.Event[quit]{Name: "outside.quit", Key: func(m quit) string { return m.ID }},
	cqrs.Event[begin]{Name: "outside.begin", Key: func(m begin) string { return m.ID }},
)

// labState remembers what happened.
type labState struct {
	ID   string
	Log  string
	Flag bool
}

func (s *labState) note(what string) { s.Log = strings.TrimSpace(s.Log + " " + what) }

type labStep = saga.Step[labState, work, worked]

// quick makes a step that gives up after two tries of 300 ms.
func quick(name string) labStep {
	return labStep{
		Name: name, Timeout: 300 * time.Millisecond,
		Retry:    cqrs.Retry{Attempts: 2, Min: 5 * time.Millisecond},
		Do:       func(s *labState) work { return work{ID: s.ID, Step: name} },
		Done:     func(s *labState, r worked) { s.note(r.Step) },
		Rejected: func(s *labState, no *cqrs.Rejection) { s.note(name + ":" + no.Code) },
	}
}

func (l labT) undo(name string) labStep {
	s := quick(name)
	s.Undo = saga.Command(func(s *labState) unwork { return unwork{s.ID, name} })
	return s
}

func (l labT) pivot(name string) labStep {
	s := quick(name)
	s.Pivot = true
	return s
}

// patient is a step that waits for its reply for good.
func patient(s labStep) labStep {
	s.Timeout = time.Minute
	return s
}

// fleeting is a step whose time runs out, but not before its command has reached the participant of a busy machine:
// what comes after its deadline is not executed, and answered so.
func fleeting(s labStep) labStep {
	s.Timeout = 3 * time.Second
	return s
}

type labT struct{}

var def labT

// A lab is an engine and one participant that does as it is told.
type lab struct {
	*saga.Saga[labState]
	t           testing.TB
	bus         *localbus.Bus
	home, world *host.Service
	engine      *saga.Engine

	mu    sync.Mutex
	plans map[string]func(ctx context.Context) error
	log   []string
	envs  map[string]cqrs.Envelope
}

func newLab(t testing.TB, dialect string, d *saga.Definition[labState], cfg saga.EngineConfig, uc uow.Config) *lab {
	t.Helper()
	l := &lab{t: t, plans: map[string]func(context.Context) error{}, envs: map[string]cqrs.Envelope{}}
	l.bus = localbus.New(localbus.Config{InTransaction: uow.In, Discard: true})
	t.Cleanup(func() { must(t, l.bus.Close()) })
	hc := host.Config{
		Transport: l.bus, UnitOfWork: uc, Migrations: []func(context.Context, *gorm.DB) error{saga.Migrate},
		Processor: cqrs.ProcessorConfig{Poll: 20 * time.Millisecond, Retry: cqrs.Retry{Min: 5 * time.Millisecond}},
	}
	if testing.Verbose() {
		hc.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
		cfg.Logger = hc.Logger
	}
	var err error
	l.home, err = host.Open(t.Context(), "home", openers[dialect](t), labMessages, hc)
	must(t, err)
	l.world, err = host.Open(t.Context(), "world", openers[dialect](t), labMessages, hc)
	must(t, err)
	if cfg.Poll == 0 {
		cfg.Poll = 10 * time.Millisecond
	}
	if cfg.MaxReplyAge == 0 {
		cfg.MaxReplyAge = -1
	}
	cfg.DeadLetters = l.home.DeadLetters
	l.engine, err = saga.NewEngine(l.home.Processor, cfg)
	must(t, err)
	l.Saga = saga.Register(l.engine, d)
	saga.StartOn(l.Saga, func(e begin) (string, labState) { return e.ID, labState{ID: e.ID} })
	saga.CancelOn(l.Saga, func(e quit) (string, string) { return e.ID, "quit" })
	l.home.Add(l.engine)
	saga.Participant(l.world.Processor,
		func(ctx context.Context, c work) (worked, error) {
			return worked{c.Step}, l.perform(ctx, c.ID+" "+c.Step)
		},
		func(ctx context.Context, c unwork) error { return l.perform(ctx, c.ID+" undo "+c.Step) })
	return l
}

// plan says what a command does: "a-1 pay" or "a-1 undo pay". nil means that it works.
func (l *lab) plan(what string, f func(context.Context) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plans[what] = f
}

func (l *lab) perform(ctx context.Context, what string) error {
	l.mu.Lock()
	f := l.plans[what]
	l.envs[what], _ = cqrs.EnvelopeOf(ctx)
	l.mu.Unlock()
	if f != nil {
		if err := f(ctx); err != nil {
			return err
		}
	}
	return uow.AfterCommit(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.log = append(l.log, what)
	})
}

// did lists what an instance's commands did, in order, commits only.
func (l *lab) did(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, what := range l.log {
		if rest, ok := strings.CutPrefix(what, id+" "); ok {
			list = append(list, rest)
		}
	}
	return strings.Join(list, ", ")
}

// wantDid waits until the log is complete: its last line is written a moment after the commit.
func (l *lab) wantDid(id, want string) {
	l.t.Helper()
	eventually(l.t, func() bool { return len(l.did(id)) >= len(want) }, func() string {
		return fmt.Sprintf("%s did %q, want %q", id, l.did(id), want)
	})
	if got := l.did(id); got != want {
		l.t.Errorf("%s did %q, want %q", id, got, want)
	}
}

func (l *lab) envelope(what string) cqrs.Envelope {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.envs[what]
}

// answer answers a command that was deferred.
func (l *lab) answer(what string, r worked, err error) {
	l.t.Helper()
	must(l.t, l.world.Work.Do(l.t.Context(), func(ctx context.Context) error {
		return cqrs.Reply(ctx, l.world.Processor, l.envelope(what), r, err)
	}))
}

func deferred(context.Context) error { return cqrs.ErrDeferred }

func refuses(code string) func(context.Context) error {
	return func(context.Context) error { return cqrs.Reject(code, nil) }
}

func (l *lab) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx, l.home, l.world) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Errorf("run: %v", err)
		}
	})
	l.t.Cleanup(stop)
	return stop
}

func (l *lab) publish(events ...any) {
	l.t.Helper()
	must(l.t, l.world.Work.Do(l.t.Context(), func(ctx context.Context) error {
		return l.world.Sender.Publish(ctx, events...)
	}))
}

func (l *lab) start(id string) {
	l.t.Helper()
	must(l.t, l.home.Work.Do(l.t.Context(), func(ctx context.Context) error {
		return l.Start(ctx, id, labState{ID: id}, "lab")
	}))
}

// at waits until the instance has a status and stands at a step.
func (l *lab) at(id string, want saga.Status, step string) saga.Instance[labState] {
	l.t.Helper()
	var got saga.Instance[labState]
	var err error
	eventually(l.t, func() bool {
		got, err = l.Get(l.t.Context(), id)
		return err == nil && got.Status == want && got.Step == step
	}, func() string {
		journal, _ := l.engine.Journal(l.t.Context(), "lab", id)
		return fmt.Sprintf("%s: got %+v, %v; want %s at %q; journal %+v", id, got, err, want, step, journal)
	})
	return got
}

func (l *lab) inHome(f func(ctx context.Context) error) {
	l.t.Helper()
	must(l.t, l.home.Work.Do(l.t.Context(), f))
}
