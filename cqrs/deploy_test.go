package cqrs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs"
)

func TestRule10_AMessageOlderThanTheInboxRemembersNeverRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.MaxAge = time.Hour
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		s.run()
		synctest.Wait()
		old, young := noteMsg("1", "a", "old"), noteMsg("2", "b", "young")
		old.Metadata[cqrs.HeaderTime] = time.Now().Add(-2 * time.Hour).Format(time.RFC3339Nano)
		young.Metadata[cqrs.HeaderTime] = time.Now().Add(-time.Minute).Format(time.RFC3339Nano)
		s.deliver("shop.commands", old, young)
		synctest.Wait()
		if j.String() != "young" {
			t.Errorf("ran %q", j)
		}
		b.read(func(st *tables) {
			if st.dead["1"].state != "dead" || !acked(t, old) {
				t.Errorf("the old message: %+v, acked %v", st.dead["1"], acked(t, old))
			}
		})
	})
}

func TestRule11_WhatAGroupDoesNotKnow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		cqrs.On(s.p, func(_ context.Context, e shipped) error { j.add("shipped"); return nil })
		s.run()
		synctest.Wait()
		unhandled := msg("1", "shop.placed", "a", `{}`)
		event := msg("2", "shop.invented", "b", `{}`, cqrs.HeaderKind, "event")
		command := msg("3", "shop.invent", "c", `{}`, cqrs.HeaderKind, "command")
		newer := msg("4", "shop.shipped", "d", `{}`, cqrs.HeaderKind, "event", cqrs.HeaderVersion, "3")
		foreign := msg("5", "", "e", `hello`, cqrs.HeaderKind, "")
		s.deliver("shop.events", unhandled, event, newer)
		s.deliver("shop.commands", command, foreign)
		synctest.Wait()
		if got := s.p.Stats(); got.Skipped != 2 || got.Dead != 2 || got.Postponed != 1 || j.String() != "" {
			t.Errorf("stats = %+v, ran %q", got, j)
		}
		b.read(func(st *tables) {
			if st.dead["3"].state != "dead" || st.dead["5"].state != "dead" || len(st.dead) != 2 {
				t.Errorf("dead letters = %v", st.dead)
			}
		})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if st := s.p.Stats(); st.Failed != 2 || st.Dead != 2 {
			t.Errorf("waiting for a deploy consumed attempts: %+v", st)
		}
	})
}

func TestRule28_ADeferredAnswerIsSentLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		var open cqrs.Envelope
		var answers []cqrs.Answer
		cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
			open, _ = cqrs.EnvelopeOf(ctx)
			b.add(ctx, "intent", 1)
			return receipt{}, cqrs.ErrDeferred
		}, cqrs.OnReply(func(ctx context.Context, e cqrs.Envelope, a cqrs.Answer) error {
			if !inTx(ctx) {
				t.Error("OnReply outside the transaction")
			}
			answers = append(answers, a)
			return nil
		}))
		s.run()
		synctest.Wait()
		m := placeMsg("1", "a", "sock", cqrs.HeaderReplyTo, reply, cqrs.HeaderToken, "t1", cqrs.HeaderCorrelation, "first")
		s.deliver("shop.commands", m)
		synctest.Wait()
		if b.row("intent") != 1 || !acked(t, m) || len(b.sentTo(reply)) != 0 || len(answers) != 0 {
			t.Fatalf("intent %d, acked %v, replies %d", b.row("intent"), acked(t, m), len(b.sentTo(reply)))
		}
		data, err := json.Marshal(open) // as an effect keeps it
		if err != nil {
			t.Fatal(err)
		}
		var env cqrs.Envelope
		if err := json.Unmarshal(data, &env); err != nil {
			t.Fatal(err)
		}
		err = b.Do(t.Context(), func(ctx context.Context) error {
			return cqrs.Reply(ctx, s.p, env, receipt{"a"}, nil)
		})
		if err != nil || len(answers) != 1 || string(answers[0].Payload) != `{"Order":"a"}` {
			t.Fatalf("Reply = %v, answers %+v", err, answers)
		}
		got := cqrs.EnvelopeFrom(b.sentTo(reply)[0])
		if got.Token != "t1" || got.Correlation != "first" || got.Causation != "1" || got.Outcome != cqrs.OutcomeOK {
			t.Errorf("reply = %+v", got)
		}
		if err := b.Do(t.Context(), func(ctx context.Context) error {
			return cqrs.Reply(ctx, s.p, env, nil, errors.New("technical"))
		}); err == nil {
			t.Error("a technical error is no answer")
		}
	})
}

func TestOnReplySeesImmediateAnswersAndItsErrorUndoesTheHandling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		fail := true
		cqrs.Handle(s.p, func(ctx context.Context, c place) (receipt, error) {
			b.add(ctx, "rows", 1)
			if c.SKU == "hat" {
				return receipt{}, cqrs.Reject("no", nil)
			}
			return receipt{}, nil
		}, cqrs.OnReply(func(_ context.Context, e cqrs.Envelope, a cqrs.Answer) error {
			if e.ID == "1" && fail {
				fail = false
				return errors.New("store away")
			}
			j.add(e.ID + ":" + string(a.Outcome))
			return nil
		}))
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", placeMsg("1", "a", "sock"))
		synctest.Wait()
		if b.row("rows") != 0 {
			t.Error("the handler's write outlived its hook's failure")
		}
		s.deliver("shop.commands", placeMsg("2", "b", "hat", cqrs.HeaderReplyTo, reply))
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.row("rows") != 1 || j.String() != "2:rejected 1:ok" {
			t.Errorf("rows %d, hooks %q", b.row("rows"), j)
		}
	})
}

func TestRule34_RepliesGoToAllowedTopicsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.Handle(s.p, func(context.Context, place) (receipt, error) { return receipt{}, nil })
		s.run()
		synctest.Wait()
		s.deliver("shop.commands",
			placeMsg("1", "a", "sock", cqrs.HeaderReplyTo, "payments.commands"),
			placeMsg("2", "b", "sock", cqrs.HeaderReplyTo, "caller.replies.host-1"))
		synctest.Wait()
		if len(b.sentTo("payments.commands")) != 0 || len(b.sentTo("caller.replies.host-1")) != 1 {
			t.Error("a reply went where the sender liked")
		}
		if got := s.p.CallTopic(); got != "shop.replies.one" {
			t.Errorf("CallTopic = %q, want one of the instance's own", got)
		}
	})
}

func TestRule35_AnEditedDeadLetterIsValidatedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.Handle(s.p, func(ctx context.Context, _ place) (receipt, error) {
			b.add(ctx, "ran", 1)
			return receipt{}, nil
		})
		s.run()
		synctest.Wait()
		s.deliver("shop.commands", msg("1", "shop.place", "a", `{`))
		synctest.Wait()
		edit := func(payload string) {
			b.read(func(st *tables) {
				d := st.dead["1"]
				d.Payload = []byte(payload)
				st.dead["1"] = d
			})
			if n, err := s.p.Replay(t.Context(), "1"); n != 1 || err != nil {
				t.Fatalf("Replay = %d, %v", n, err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		edit(`{"SKU":"nothing"}`)
		b.read(func(st *tables) {
			if st.dead["1"].state != "dead" || st.rows["ran"] != 0 {
				t.Errorf("an invalid edit ran: %+v", st.dead["1"])
			}
		})
		edit(`{"SKU":"sock"}`)
		b.read(func(st *tables) {
			if len(st.dead) != 0 || st.rows["ran"] != 1 {
				t.Errorf("after a good edit: dead %v, ran %d", st.dead, st.rows["ran"])
			}
		})
	})
}

func TestScheduledMessagesWaitEvenWithoutAnOutbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		start := time.Now()
		cqrs.On(s.p, func(context.Context, note) error { j.add(time.Since(start).Round(time.Second).String()); return nil })
		s.run()
		synctest.Wait()
		if err := s.s.SendAt(t.Context(), time.Now().Add(time.Hour), note{Order: "a"}); err != nil {
			t.Fatal(err)
		}
		if err := s.s.Send(t.Context(), note{Order: "b"}, cqrs.After(time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if got := j.String(); got != "1m0s 1h0m0s" {
			t.Errorf("delivered after %q", got)
		}
	})
}

// A scheduled message does not hold up its key, and takes its place in it when its time comes.
func TestAScheduledMessageDoesNotHoldUpItsKey(t *testing.T) {
	t.Parallel()
	for name, durable := range map[string]bool{"in memory": false, "parked": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { scheduledAmongOthers(t, durable) })
		})
	}
}

func scheduledAmongOthers(t *testing.T, durable bool) {
	b, j := newDB(), &journal{}
	cfg := b.config()
	if !durable {
		cfg.Parking, cfg.DeadLetters = nil, nil
	}
	s := newService(t, b, catalog(), cfg)
	start := time.Now()
	var idle atomic.Bool
	cqrs.On(s.p, func(_ context.Context, n note) error {
		if n.Text == "busy" && !idle.Load() {
			return cqrs.Later(10*time.Minute, errNotNow)
		}
		j.add(fmt.Sprint(n.Text, "@", time.Since(start).Round(time.Minute)))
		return nil
	})
	s.run()
	synctest.Wait()
	send := func(text string, options ...cqrs.SendOption) {
		if err := s.s.Send(t.Context(), note{Order: "a", Text: text}, options...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
	send("hour", cqrs.After(time.Hour))
	send("now")
	time.Sleep(55 * time.Minute)
	send("busy") // parked until the 65th minute
	time.Sleep(7 * time.Minute)
	send("late") // behind it, and behind what became due meanwhile
	idle.Store(true)
	time.Sleep(time.Hour)
	synctest.Wait()
	if got, want := j.String(), "now@0s busy@1h5m0s hour@1h5m0s late@1h5m0s"; got != want {
		t.Errorf("handled %q, want %q", got, want)
	}
	b.read(func(st *tables) {
		if len(st.parked) != 0 {
			t.Errorf("%d messages still parked", len(st.parked))
		}
	})
}

// A scheduled message that fails for good holds up its key like any other.
func TestAScheduledMessageThatDiesHoldsUpItsKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		s := newService(t, b, catalog(), b.config())
		var fixed atomic.Bool
		cqrs.On(s.p, func(_ context.Context, n note) error {
			if n.Text == "dies" && !fixed.Load() {
				return errNotNow
			}
			j.add(n.Text)
			return nil
		})
		s.run()
		synctest.Wait()
		_ = s.s.Send(t.Context(), note{Order: "a", Text: "dies"}, cqrs.After(time.Hour))
		time.Sleep(2 * time.Hour)
		_ = s.s.Send(t.Context(), note{Order: "a", Text: "behind"})
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		var id string
		b.read(func(st *tables) {
			for id = range st.dead {
			}
			if len(st.dead) != 1 || len(st.parked) != 2 {
				t.Errorf("dead %v, parked %v", st.dead, st.parked)
			}
		})
		fixed.Store(true)
		if n, err := s.p.Replay(t.Context(), id); n != 1 || err != nil {
			t.Fatalf("Replay = %d, %v", n, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := j.String(); got != "dies behind" {
			t.Errorf("handled %q", got)
		}
	})
}

func TestForeignNamesAreMadeStorable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		s := newService(t, b, catalog(), b.config())
		cqrs.On(s.p, func(context.Context, note) error { return errors.New("no") })
		s.run()
		synctest.Wait()
		long, nul := strings.Repeat("x", 1000), "a\x00\xffb"
		s.deliver("shop.commands", noteMsg(long+"1", long+"1", ""), noteMsg(long+"2", long+"2", ""), noteMsg(nul, nul, ""))
		synctest.Wait()
		b.read(func(st *tables) {
			queues := map[string]bool{}
			for _, r := range st.parked {
				for _, name := range []string{r.ID, r.Queue, r.Key} {
					if len(name) > 200 || !utf8.ValidString(name) || strings.Contains(name, "\x00") {
						t.Errorf("%q cannot be stored", name)
					}
				}
				queues[r.Queue] = true
			}
			if len(queues) != 3 {
				t.Errorf("%d queues, want 3", len(queues))
			}
		})
		s.stop()
	})
}
