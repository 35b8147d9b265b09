package cqrs_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// slowAnswers commits at once; the answer to the COMMIT of a lane's transaction takes 300 ms, as from far away.
type slowAnswers struct{}

func (slowAnswers) Do(ctx context.Context, fn func(context.Context) error) error {
	if inTx(ctx) {
		return fn(ctx)
	}
	wrote := false
	err := fn(context.WithValue(context.WithoutCancel(ctx), txKey{}, &wrote))
	if wrote {
		time.Sleep(300 * time.Millisecond)
	}
	return err
}

type wroteParking struct{ oneCall }

func (p wroteParking) Reschedule(ctx context.Context, ms []*cqrs.Parked) error {
	*ctx.Value(txKey{}).(*bool) = true
	return p.oneCall.Reschedule(ctx, ms)
}

func (p wroteParking) Consume(ctx context.Context, ms []*cqrs.Parked) error {
	*ctx.Value(txKey{}).(*bool) = true
	return p.oneCall.Consume(ctx, ms)
}

type openBreaker struct{ d time.Duration }

func (e openBreaker) Error() string             { return "open" }
func (e openBreaker) RetryAfter() time.Duration { return e.d }

// A parked message is postponed without a failure, since its type is paused, and leased anew before the answer to that
// COMMIT is here. It is handed out again, but not as one of those that its own postponement holds up.
func TestAPostponedMessageIsNotHandedOutInVainForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := sideBySideConfig(b)
		store := cfg.Parking.(oneCall)
		cfg.UnitOfWork, cfg.Parking = slowAnswers{}, wroteParking{store}
		cfg.Lanes, cfg.Poll = 1, 50*time.Millisecond
		s := newService(t, b, catalog(), cfg)
		ran := time.Duration(0)
		start := time.Now()
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Order == "x" && time.Since(start) < 10*time.Millisecond {
				return openBreaker{200 * time.Millisecond}
			}
			if n.Order == "k" && ran == 0 {
				ran = time.Since(start)
			}
			return nil
		})
		no := false
		ctx := context.WithValue(t.Context(), txKey{}, &no)
		row := func(id, k string, d time.Duration) *cqrs.Parked {
			return &cqrs.Parked{Delay: d, Record: cqrs.Record{
				Group: "shop", ID: id, Queue: "shop.commands|" + k, Topic: "shop.commands", Type: "shop.note", Key: k,
				Payload: []byte(`{"Order":"` + k + `","Text":""}`), Metadata: noteMsg(id, k, "").Metadata,
			}}
		}
		if err := store.Append(ctx, []*cqrs.Parked{row("m", "k", 100*time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("x", "x", ""))
		time.Sleep(10 * time.Minute)
		s.stop()
		if ran == 0 || ran > 10*time.Second {
			t.Errorf("a message whose type was paused for 200 ms ran after %v (0: never); parked %v", ran, b.parkedIDs())
		}
	})
}
