package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/surge-go/surge/cqrs"
)

// Watermill's Router runs handlers of a processor: transaction, inbox, parking and all.
func TestAWatermillRouterRunsHandlers(t *testing.T) {
	t.Parallel()
	b := newDB()
	cfg := b.config()
	cfg.Subscribe = nil
	s := newService(t, b, catalog(), cfg)
	done := make(chan string, 10)
	cqrs.On(s.p, func(ctx context.Context, n note) error {
		if n.Text == "fails" {
			done <- "failed"
			return cqrs.Later(time.Hour, errors.New("not yet"))
		}
		done <- n.Text
		return b.write(ctx, "done", 1)
	})
	s.run()
	<-s.p.Running()
	ordered := gochannel.Config{BlockPublishUntilSubscriberAck: true}
	bus := gochannel.NewGoChannel(ordered, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	must(t, err)
	router.AddConsumerHandler("notes", "shop.commands", bus, s.p.NoPublishHandler("shop.commands"))
	ended := make(chan error, 1)
	go func() { ended <- router.Run(t.Context()) }()
	<-router.Running()
	must(t, bus.Publish("shop.commands", noteMsg("1", "a", "one"), noteMsg("2", "c", "fails"),
		noteMsg("1", "a", "one"), noteMsg("3", "b", "two")))
	for range 3 {
		<-done
	}
	must(t, errors.Join(router.Close(), bus.Close(), <-ended))
	s.stop()
	st := s.p.Stats()
	if b.row("done") != 2 || st.Handled != 2 || st.Duplicates != 1 || st.Postponed != 1 {
		t.Errorf("%d rows, stats %+v", b.row("done"), st)
	}
	if err := s.p.NoPublishHandler("shop.commands")(noteMsg("4", "a", "")); !errors.Is(err, cqrs.ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

// A message that cannot be finished is given back to the Router too.
func TestARouterHearsThatAMessageIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.refuse = func(*tables) error { return errors.New("disk full") }
		cfg := b.config()
		cfg.Subscribe = nil
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		s.run()
		synctest.Wait()
		answer := make(chan error, 1)
		go func() { answer <- s.p.NoPublishHandler("shop.commands")(noteMsg("1", "a", "")) }()
		time.Sleep(time.Minute)
		s.stop()
		if err := <-answer; err == nil {
			t.Error("the Router would acknowledge what was not committed")
		}
	})
}

// A middleware of the Router wraps handlers as a Behavior.
func TestMiddlewareIsABehavior(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Behaviors = []cqrs.Behavior{
			cqrs.Middleware(func(h message.HandlerFunc) message.HandlerFunc {
				return func(m *message.Message) ([]*message.Message, error) {
					j.add(fmt.Sprintf("before %s %s", m.UUID, m.Metadata[cqrs.HeaderType]))
					out, err := h(m)
					j.add(fmt.Sprintf("after %v", err))
					return out, err
				}
			}),
			cqrs.Middleware(func(h message.HandlerFunc) message.HandlerFunc {
				return func(m *message.Message) ([]*message.Message, error) {
					if _, err := h(m); err != nil {
						return nil, err
					}
					if m.UUID == "2" {
						return []*message.Message{m}, nil
					}
					return nil, nil
				}
			}),
		}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error { return b.write(ctx, n.Text, 1) })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "one"))
		synctest.Wait()
		if got := j.String(); got != "before 1 shop.note after <nil>" || b.row("one") != 1 {
			t.Errorf("saw %q", got)
		}
		s.deliver("shop.commands", noteMsg("2", "b", "two"))
		synctest.Wait()
		if b.row("two") != 0 || s.p.Stats().Failed == 0 {
			t.Error("a message that a middleware returned was dropped in silence")
		}
	})
}

// What a middleware keeps out without an error, as a Deduplicator does when a message is tried again, is not done.
func TestAMiddlewareDropsNothingInSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		seen := map[string]bool{}
		cfg.Behaviors = []cqrs.Behavior{
			cqrs.Middleware(func(h message.HandlerFunc) message.HandlerFunc {
				return func(m *message.Message) ([]*message.Message, error) {
					if seen[m.UUID] || m.UUID == "never" {
						return nil, nil
					}
					seen[m.UUID] = true
					return h(m)
				}
			}),
		}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { return errors.New("not yet") })
		s.p.Consume(func(context.Context, []*cqrs.Delivery) error { return nil }, cqrs.FromTypes("shop.placed"))
		cqrs.Handle(s.p, func(context.Context, place) (receipt, error) { return receipt{"made"}, nil })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "one"))
		s.deliver("shop.events", msg("never", "shop.placed", "a", `{}`))
		time.Sleep(time.Hour)
		b.read(func(st *tables) {
			if len(st.dead) != 2 {
				t.Errorf("dead letters: %+v, want both messages", st.dead)
			}
		})
		ctx := cqrs.WithEnvelope(t.Context(), cqrs.Envelope{ID: "never"})
		if r, err := cqrs.Execute(ctx, s.p, place{}); err == nil {
			t.Errorf("Execute = %v, and nobody has handled it", r)
		}
	})
}

// What a middleware notes in the headers, as PoisonQueue does, stays with it: a message that is parked has its own.
func TestAMiddlewareDoesNotChangeTheMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Behaviors = []cqrs.Behavior{
			cqrs.Middleware(func(h message.HandlerFunc) message.HandlerFunc {
				return func(m *message.Message) ([]*message.Message, error) {
					m.Metadata["reason_poisoned"] = "no"
					return h(m)
				}
			}),
		}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { return errors.New("no") })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", "one"))
		synctest.Wait()
		b.read(func(st *tables) {
			if len(st.parked) != 1 || st.parked[0].Metadata["reason_poisoned"] != "" {
				t.Errorf("parked: %+v", st.parked)
			}
		})
	})
}
