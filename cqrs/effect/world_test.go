package effect_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

type pay struct {
	cqrs.Returns[receipt]
	ID    string
	Cents int
}

type receipt struct{ Ref string }

type charge struct{ Cents int }

type approval struct{ Ref string }

// A provider that treats equal keys as one request.
type provider struct {
	mu      sync.Mutex
	charged map[string]int // by key
	calls   []string       // "call k" and "ask k"
	during  int            // calls under way
	most    int
	// answer decides what a caller sees of the nth call, after the charge. nil: the approval.
	answer func(n int, key string) error
	before func(n int, key string) error // turns a call away before it has an effect
	takes  time.Duration
}

func (p *provider) call(ctx context.Context, key string, c charge) (approval, error) {
	if inTx(ctx) {
		return approval{}, errors.New("called inside a transaction")
	}
	n := p.enter("call " + key)
	defer p.leave()
	if p.takes > 0 {
		select {
		case <-time.After(p.takes):
		case <-ctx.Done():
			return approval{}, ctx.Err()
		}
	}
	if p.before != nil {
		if err := p.before(n, key); err != nil {
			return approval{}, err
		}
	}
	p.mu.Lock()
	p.charged[key] = c.Cents
	p.mu.Unlock()
	if p.answer != nil {
		if err := p.answer(n, key); err != nil {
			return approval{}, err
		}
	}
	return approval{"ref-" + key}, nil
}

func (p *provider) ask(_ context.Context, key string, _ charge) (approval, error) {
	p.enter("ask " + key)
	defer p.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.charged[key] == 0 {
		return approval{}, effect.ErrNotSeen
	}
	return approval{"ref-" + key}, nil
}

func (p *provider) enter(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, what)
	p.during++
	p.most = max(p.most, p.during)
	return len(p.calls)
}

func (p *provider) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.during--
}

func (p *provider) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.calls, ", ")
}

// A world is a store, a provider, and what was replied and applied.
type world struct {
	t        *testing.T
	store    *memory
	provider *provider

	mu      sync.Mutex
	replies map[string]string
	applied []string
}

func newWorld(t *testing.T) *world {
	return &world{t: t, store: newMemory(), provider: &provider{charged: map[string]int{}}, replies: map[string]string{}}
}

func (w *world) reply(ctx context.Context, env cqrs.Envelope, result any, err error) error {
	if !inTx(ctx) {
		return errors.New("replied outside of a transaction")
	}
	if in, _ := cqrs.EnvelopeOf(ctx); in.Correlation != env.Correlation {
		return fmt.Errorf("replied in the context of %+v", in)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, twice := w.replies[env.ID]; twice {
		w.t.Errorf("a second reply to %s, after %s", env.ID, old)
	}
	w.replies[env.ID] = fmt.Sprint(result, err)
	return nil
}

func (w *world) effect() effect.Effect[pay, receipt, charge, approval] {
	return effect.Effect[pay, receipt, charge, approval]{
		Name: "pay",
		Intent: func(_ context.Context, c pay) (string, charge, error) {
			if c.Cents <= 0 {
				return "", charge{}, cqrs.Reject("amount", errors.New("nothing to pay"))
			}
			return "key-" + c.ID, charge{c.Cents}, nil
		},
		Call: w.provider.call,
		Settle: func(ctx context.Context, c pay, i charge, o approval) (receipt, error) {
			if !inTx(ctx) || i.Cents != c.Cents {
				return receipt{}, fmt.Errorf("settled with %v outside of a transaction", i)
			}
			w.apply("paid " + c.ID)
			return receipt(o), nil
		},
		Refuse: func(_ context.Context, c pay, _ charge, no *cqrs.Rejection) error {
			w.apply("refused " + c.ID + " " + no.Code)
			return nil
		},
	}
}

func (w *world) apply(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = append(w.applied, what)
}

type handler = func(context.Context, pay) (receipt, error)

// start runs a runner until the returned function is called.
func (w *world) start(cfg effect.Config, e effect.Effect[pay, receipt, charge, approval]) (handler, func()) {
	if testing.Verbose() {
		cfg.Logger = slog.Default()
	}
	r := effect.NewWith(w.reply, w.store, cfg)
	h := effect.Handler(r, e)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return h, func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run = %v", err)
		}
	}
}

// send runs the handler as a processor would.
func (w *world) send(h handler, id string, cents int) error {
	env := cqrs.Envelope{ID: id, Correlation: "c-" + id, Type: "pay", ReplyTo: "x.replies"}
	err := w.store.do(cqrs.WithEnvelope(w.t.Context(), env), func(ctx context.Context) error {
		if _, err := h(ctx, pay{ID: id, Cents: cents}); !errors.Is(err, cqrs.ErrDeferred) {
			return err
		}
		return nil
	})
	return err
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantReply(id, want string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := w.replies[id]; got != want {
		w.t.Errorf("the reply to %s is %q, want %q", id, got, want)
	}
}

func (w *world) wantCalls(want string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.provider.log(); got != want {
		w.t.Errorf("calls %q, want %q", got, want)
	}
}

func (w *world) wantState(open, parked int) {
	w.t.Helper()
	synctest.Wait()
	if o, p := w.store.state(); o != open || p != parked {
		w.t.Errorf("%d open and %d parked, want %d and %d", o, p, open, parked)
	}
}
