package cqrs_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

func TestRule07_CallInsideATransactionIsRefused(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog(), b.config())
	cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
		return cqrs.Call(ctx, s.p, place{Order: c.Order})
	})
	if _, err := cqrs.Execute(t.Context(), s.p, place{}); !errors.Is(err, cqrs.ErrInTransaction) {
		t.Errorf("Call in a handler = %v", err)
	}
	err := b.Do(t.Context(), func(ctx context.Context) error {
		_, err := cqrs.Call(ctx, s.p, place{})
		return err
	})
	if !errors.Is(err, cqrs.ErrInTransaction) {
		t.Errorf("Call in a foreign transaction = %v", err)
	}
	if _, err := cqrs.Call(t.Context(), s.p, place{}); !errors.Is(err, cqrs.ErrNotRunning) {
		t.Errorf("Call without Run = %v", err)
	}
}

func TestCallBringsBackResultAndRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
			if env, _ := cqrs.EnvelopeOf(ctx); env.Deadline.IsZero() {
				t.Error("the caller's deadline did not travel")
			}
			switch c.Fail {
			case "reject":
				return receipt{}, cqrs.Reject("sold_out", errors.New("no hats"))
			case "not executed":
				return receipt{}, cqrs.ErrNotExecuted
			case "defer":
				return receipt{}, cqrs.ErrDeferred
			}
			return receipt{c.Order}, nil
		})
		s.run()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for _, order := range []string{"a", "b", "c"} {
			wg.Go(func() {
				if r, err := cqrs.Call(ctx, s.p, place{Order: order}); r.Order != order || err != nil {
					t.Errorf("Call = %v, %v", r, err)
				}
			})
		}
		wg.Wait()
		if _, err := cqrs.Call(ctx, s.p, place{Fail: "reject"}); err == nil || err.Error() != "sold_out: no hats" {
			t.Errorf("refusal = %v", err)
		}
		if _, err := cqrs.Call(ctx, s.p, place{Fail: "not executed"}); !errors.Is(err, cqrs.ErrNotExecuted) {
			t.Errorf("not executed = %v", err)
		}
		if _, err := cqrs.Call(ctx, s.p, place{Fail: "defer"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("unanswered = %v", err)
		}
		b.busMu.Lock()
		subs := len(b.subs["shop.replies.one"])
		b.busMu.Unlock()
		if subs != 1 {
			t.Errorf("%d reply subscriptions, want 1 for all calls", subs)
		}
	})
}

func TestACallEndsWithTheProcessor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		s.run()
		synctest.Wait()
		ended := make(chan error, 1)
		go func() {
			_, err := cqrs.Call(t.Context(), s.p, place{})
			ended <- err
		}()
		synctest.Wait()
		s.stop()
		if err := <-ended; !errors.Is(err, cqrs.ErrNotRunning) {
			t.Errorf("Call = %v", err)
		}
	})
}

// slowCommit is a unit of work that returns a while after the commit.
type slowCommit struct{ *db }

func (u slowCommit) Do(ctx context.Context, fn func(context.Context) error) error {
	err := u.db.Do(ctx, fn)
	if !inTx(ctx) {
		time.Sleep(time.Second)
	}
	return err
}

// A reply that has come is the call's answer, whatever has ended meanwhile.
func TestACallDoesNotLoseAReplyThatHasCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.UnitOfWork = slowCommit{b}
		s := newService(t, b, catalog(), cfg)
		cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) { return receipt{c.Order}, nil })
		s.run()
		synctest.Wait()
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
			if r, err := cqrs.Call(ctx, s.p, place{Order: "a"}); r.Order != "a" || err != nil {
				t.Errorf("Call = %v, %v", r, err)
			}
			cancel()
			time.Sleep(time.Minute)
		}
	})
}

// A subscriber of replies that cannot be made, in whatever way, fails the call that asked for it, and the next asks anew.
func TestACallOutlivesItsSubscriber(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){"panics": func() { panic("no brokers") }, "exits": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				cfg := b.config()
				asked := 0
				cfg.Subscribe = func(group string) (message.Subscriber, error) {
					if asked++; asked == 2 {
						fail()
					}
					return b.subscriber(group)
				}
				s := newService(t, b, catalog(), cfg)
				cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) { return receipt{c.Order}, nil })
				s.run()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := cqrs.Call(ctx, s.p, place{}); !errors.Is(err, cqrs.ErrPanic) {
					t.Errorf("Call = %v", err)
				}
				synctest.Wait()
				if r, err := cqrs.Call(ctx, s.p, place{Order: "a"}); r.Order != "a" || err != nil {
					t.Errorf("next Call = %v, %v", r, err)
				}
			})
		})
	}
}

// A subscription of replies that has ended by itself is replaced before the next command leaves.
func TestACallSubscribesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		var closed error
		cfg.Subscribe = func(string) (message.Subscriber, error) { return &subscriber{db: b}, closed }
		s := newService(t, b, catalog(), cfg)
		cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) { return receipt{c.Order}, nil })
		s.run()
		synctest.Wait()
		call := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := cqrs.Call(ctx, s.p, place{})
			return err
		}
		end := func() {
			b.busMu.Lock()
			for _, ch := range b.subs[s.p.CallTopic()] {
				close(ch)
			}
			delete(b.subs, s.p.CallTopic())
			b.busMu.Unlock()
			synctest.Wait()
		}
		must(t, call())
		end()
		must(t, call())
		end()
		closed = errors.New("the bus is closed")
		if err := call(); !errors.Is(err, closed) || len(b.sentTo("shop.commands")) != 2 {
			t.Errorf("Call = %v, %d commands have left", err, len(b.sentTo("shop.commands")))
		}
	})
}

// slow is a subscriber whose subscriptions take a while to make.
type slow struct {
	*subscriber
	pause time.Duration
}

func (s slow) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	time.Sleep(s.pause)
	return s.subscriber.Subscribe(ctx, topic)
}

// A call whose context ends while the subscription to replies is being made returns; the others use it.
func TestACallDoesNotWaitForItsSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Subscribe = func(group string) (message.Subscriber, error) {
			s := slow{subscriber: &subscriber{db: b}}
			if strings.Contains(group, "replies") {
				s.pause = time.Hour
			}
			return s, nil
		}
		s := newService(t, b, catalog(), cfg)
		cqrs.Handle(s.p, func(_ context.Context, c place) (receipt, error) { return receipt{c.Order}, nil })
		s.run()
		synctest.Wait()
		patient := make(chan error, 1)
		go func() {
			_, err := cqrs.Call(t.Context(), s.p, place{})
			patient <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := cqrs.Call(ctx, s.p, place{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call = %v", err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it returned after %s", took)
		}
		must(t, <-patient)
	})
}

// slowTopic is a subscriber whose topics take a while to create.
type slowTopic struct{ message.Subscriber }

func (slowTopic) SubscribeInitialize(string) error { time.Sleep(time.Hour); return nil }

// The end of Run does not wait for a subscription to replies that is not there after Grace.
func TestTheEndDoesNotWaitForTheTopicOfReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Subscribe = func(group string) (message.Subscriber, error) {
			sub, err := b.subscriber(group)
			if group != "shop" {
				sub = slowTopic{sub}
			}
			return sub, err
		}
		s := newService(t, b, catalog(), cfg)
		run, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.p.Run(run) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := cqrs.Call(ctx, s.p, place{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call = %v", err)
		}
		start := time.Now()
		stop()
		if err := <-ended; !errors.Is(err, cqrs.ErrHung) || time.Since(start) > 10*time.Second {
			t.Errorf("Run ended after %s, with %v", time.Since(start), err)
		}
		time.Sleep(time.Hour)
	})
}
