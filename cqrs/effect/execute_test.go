package effect_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
)

// Do makes memory a unit of work.
func (m *memory) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	return m.do(ctx, fn)
}

type unsent struct{}

func (unsent) Publish(string, ...*message.Message) error { return errors.New("nobody waits") }
func (unsent) Close() error                              { return nil }

// A command that was executed, by the handler of an event too, and not sent, is answered: to nobody, but its handler's
// OnReply hears of it.
func TestTheReplyOfAnExecutedCommandIsHeardOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		catalog := cqrs.NewCatalog(cqrs.Command[pay]{Name: "test.pay", Key: func(c pay) string { return c.ID }})
		sender, err := cqrs.NewSender(catalog, unsent{}, cqrs.SenderConfig{Source: "test"})
		w.must(err)
		p, err := cqrs.NewProcessor("test", sender, cqrs.ProcessorConfig{UnitOfWork: w.store, InTransaction: inTx})
		w.must(err)
		r, err := effect.New(p, w.store, effect.Config{})
		w.must(err)
		heard := make(chan cqrs.Envelope, 1)
		cqrs.Handle(p, effect.Handler(r, w.effect()), cqrs.OnReply(
			func(ctx context.Context, e cqrs.Envelope, a cqrs.Answer) error {
				if !inTx(ctx) || a.Outcome != cqrs.OutcomeOK {
					t.Errorf("answered with %+v", a)
				}
				heard <- e
				return nil
			}))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		event := cqrs.Envelope{ID: "e-1", Correlation: "c-1", Type: "test.happened", Kind: cqrs.KindEvent}
		for id, ctx := range map[string]context.Context{"1": ctx, "2": cqrs.WithEnvelope(ctx, event)} {
			if _, err := cqrs.Execute(ctx, p, pay{ID: id, Cents: 5}); !errors.Is(err, cqrs.ErrDeferred) {
				t.Errorf("Execute = %v", err)
			}
			synctest.Wait()
			select {
			case e := <-heard:
				if e.Type != "test.pay" || e.Kind != cqrs.KindCommand || e.Key != id || e.ID == "" || e.Correlation == "" {
					t.Errorf("of %+v", e)
				}
			default:
				t.Error("nothing was heard of", id)
			}
		}
		w.wantState(0, 0)
		cancel()
		w.must(<-ended)
	})
}
