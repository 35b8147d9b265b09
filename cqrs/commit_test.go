package cqrs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// What a handler sent may be refused only when the batch commits; then nobody knows whose fault it is.
func TestAMessageThatCannotCommitIsFoundAndFailsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.refuse = func(st *tables) error {
			if st.rows["too large"] > 0 {
				return errors.New("flush: message too large")
			}
			return nil
		}
		cfg := b.config()
		cfg.Lanes = 1
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(ctx context.Context, n note) error { b.add(ctx, n.Text, 1); return nil })
		all := []*message.Message{noteMsg("1", "a", "ok"), noteMsg("2", "b", "too large"), noteMsg("3", "c", "ok")}
		s.oneBatch("shop.commands", all...)
		for _, m := range all {
			if !acked(t, m) {
				t.Errorf("%s is not acknowledged", m.UUID)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if b.row("ok") != 2 || b.row("too large") != 0 {
			t.Errorf("ok %d, too large %d", b.row("ok"), b.row("too large"))
		}
		b.read(func(st *tables) {
			if d := st.dead["2"]; d.state != "dead" || d.Reason != "flush: message too large" || d.Attempt != 5 {
				t.Errorf("dead letter = %+v", d)
			}
		})
	})
}

func TestRule06_AtTheEndWhatCannotCommitIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		b.refuse = func(*tables) error { return errors.New("disk full") }
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		s.run()
		synctest.Wait()
		m := noteMsg("1", "a", "")
		s.deliver("shop.commands", m)
		time.Sleep(time.Minute)
		s.stop()
		if acked(t, m) || !nacked(m) {
			t.Error("the message was neither committed nor given back")
		}
	})
}

func TestALostLeaseUndoesTheRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		runs := 0
		cqrs.On(s.p, func(ctx context.Context, n note) error {
			b.add(ctx, "rows", 1)
			switch runs++; runs {
			case 1:
				return errors.New("park me")
			case 2: // somebody else leases it while we run
				b.state.parked[0].Lease, b.state.parked[0].until = "other", time.Now().Add(time.Minute)
			}
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("1", "a", ""))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if b.row("rows") != 0 {
			t.Error("a run without its lease was committed")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if b.row("rows") != 1 || s.p.Stats().Failed != 1 {
			t.Errorf("rows %d, stats %+v", b.row("rows"), s.p.Stats())
		}
	})
}

func TestLingerFillsABatchOnlyInCompany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Lanes, cfg.Linger = 1, 100*time.Millisecond
		s := newService(t, b, catalog(), cfg)
		start := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		ran := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(at)
		}
		cqrs.On(s.p, func(context.Context, note) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(start))
			return nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", noteMsg("alone", "a", ""))
		synctest.Wait()
		if at := ran(); len(at) != 1 || at[0] != 0 {
			t.Fatalf("a lone message ran at %v", at)
		}
		b.mu.Lock()
		for i := range 3 { // the first waits for the transaction, the others are company
			s.deliver("shop.commands", noteMsg(fmt.Sprint(i), fmt.Sprint(i), ""))
			synctest.Wait()
		}
		b.mu.Unlock()
		synctest.Wait()
		if at := ran(); len(at) != 2 {
			t.Fatalf("ran at %v before the linger ended", at)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if at := ran(); len(at) != 4 || at[3] != 100*time.Millisecond {
			t.Errorf("ran at %v", at)
		}
	})
}

func TestOnReplySeesExecutionsToo(t *testing.T) {
	t.Parallel()
	for name, keyed := range map[string]bool{"plain": false, "with keys": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, j := newDB(), &journal{}
			cfg := b.config()
			if keyed {
				cfg.Keys = &keys{db: b, stored: map[string][]byte{}}
			}
			s := newService(t, b, catalog(), cfg)
			cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
				b.add(ctx, "handled", 1)
				if c.Fail != "" {
					return receipt{}, cqrs.Reject("no", nil)
				}
				return receipt{c.Order}, nil
			}, cqrs.OnReply(func(ctx context.Context, e cqrs.Envelope, a cqrs.Answer) error {
				if a.Rejection != nil {
					b.add(ctx, "refused", 1)
				}
				j.add(fmt.Sprintf("%s %s %s %s", e.Type, e.Key, a.Outcome, a.Payload))
				return nil
			}))
			_, _ = cqrs.Execute(t.Context(), s.p, place{Order: "o-1"})
			_, err := cqrs.Execute(t.Context(), s.p, place{Order: "o-2", Fail: "x"})
			if no := cqrs.AsRejection(err); no == nil || no.Code != "no" {
				t.Errorf("refusal = %v", err)
			}
			if got, want := j.String(), `shop.place o-1 ok {"Order":"o-1"} shop.place o-2 rejected `; got != want {
				t.Errorf("hooks saw %q, want %q", got, want)
			}
			if b.row("refused") != 1 || b.row("handled") != 1 {
				t.Errorf("%d and %d writes, want those of the hook and of what was not refused", b.row("refused"), b.row("handled"))
			}
			if len(b.sentTo("")) != 0 {
				t.Error("an execution was replied to")
			}
		})
	}
}

func TestRegistrationAfterRunIsAFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, newDB(), catalog(), cqrs.ProcessorConfig{})
		s.run()
		<-s.p.Running()
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		if s.p.Validate() == nil {
			t.Error("a handler that will never run is no fault")
		}
		if err := s.p.Run(t.Context()); err == nil {
			t.Error("a second Run beside the first")
		}
	})
}
