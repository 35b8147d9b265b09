package saga_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// A desk sends commands to the lab's participant by hand and collects what it replies.
type desk struct {
	*lab
	mu      sync.Mutex
	replies []string
}

func newDesk(t *testing.T, dialect string) *desk {
	t.Helper()
	d := &desk{lab: newLab(t, dialect, saga.MustDefine("lab", 1, def.pivot("p")), saga.EngineConfig{}, uow.Config{})}
	d.home.Processor.Consume(func(_ context.Context, ds []*cqrs.Delivery) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, m := range ds {
			d.replies = append(d.replies, strings.TrimSpace(fmt.Sprintf("%s %s", m.Envelope.Outcome, m.Payload)))
		}
		return nil
	}, cqrs.FromTopic("desk.replies"))
	d.run()
	return d
}

// send sends a command under a token and waits for the reply, unless none is expected.
func (d *desk) send(token string, deadline time.Time, cmd any, replies bool) string {
	d.t.Helper()
	d.mu.Lock()
	before := len(d.replies)
	d.mu.Unlock()
	options := []cqrs.SendOption{cqrs.ReplyTo("desk.replies", token), cqrs.Deadline(deadline)}
	if deadline.IsZero() {
		options = options[:1]
	}
	d.inHome(func(ctx context.Context) error { return d.home.Sender.Send(ctx, cmd, options...) })
	if !replies {
		return ""
	}
	var got string
	eventually(d.t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.replies) > before {
			got = d.replies[before]
		}
		return got != ""
	}, func() string { return fmt.Sprintf("no reply to %s %+v", token, cmd) })
	return got
}

func TestRule21_ParticipantsMeetInAnyOrder(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		d := newDesk(t, dialect)
		const do, undo = "s:1:d:a", "s:1:u:a"
		ok, none := `ok {"Step":"a"}`, "not_executed"
		never := time.Time{}
		type sent struct {
			token string
			late  bool
			reply string
		}
		refused := `rejected {"code":"sold_out"}`
		for name, c := range map[string]struct {
			sent []sent
			did  string
		}{
			"do twice":             {[]sent{{do, false, ok}, {do, false, ok}}, "a"},
			"do, undo":             {[]sent{{do, false, ok}, {undo, false, "ok"}}, "a, undo a"},
			"do, undo, undo":       {[]sent{{do, false, ok}, {undo, false, "ok"}, {undo, false, "ok"}}, "a, undo a"},
			"do, undo, do":         {[]sent{{do, false, ok}, {undo, false, "ok"}, {do, false, none}}, "a, undo a"},
			"undo, do":             {[]sent{{undo, false, "ok"}, {do, false, none}, {undo, false, "ok"}}, ""},
			"late, do":             {[]sent{{do, true, none}, {do, false, none}, {undo, false, "ok"}}, ""},
			"do, late":             {[]sent{{do, false, ok}, {do, true, ok}}, "a"},
			"incarnations":         {[]sent{{do, true, none}, {"s:2:d:a", false, ok}, {"s:2:u:a", false, "ok"}}, "a, undo a"},
			"refused, do, undo":    {[]sent{{do, false, refused}, {do, false, refused}, {undo, false, "ok"}}, ""},
			"an end is no undo":    {[]sent{{"s:1:e:a", false, ok}, {"s:1:e:a", false, ok}}, "a"},
			"not of a saga, twice": {[]sent{{"other", false, ok}, {"other", false, ok}}, "a, a"},
		} {
			id := strings.ReplaceAll(name, " ", "-")
			if strings.HasPrefix(name, "refused") {
				d.plan(id+" a", refuses("sold_out"))
			}
			for i, s := range c.sent {
				deadline := never
				if s.late {
					deadline = time.Now().Add(-time.Second)
				}
				var cmd any = work{ID: id, Step: "a"}
				if strings.Contains(s.token, ":u:") {
					cmd = unwork{id, "a"}
				}
				token := strings.Replace(s.token, "s:", id+":", 1)
				if got := d.send(token, deadline, cmd, true); got != s.reply {
					t.Errorf("%s: reply %d is %q, want %q", name, i, got, s.reply)
				}
			}
			d.wantDid(id, c.did)
		}
	})
}

// A whole batch of duplicates, some of them twins in one transaction, takes effect once each.
func TestRule21_TwinsInOneBatch(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		d := newDesk(t, dialect)
		d.inHome(func(ctx context.Context) error {
			for i := range 10 {
				for range 3 {
					id := fmt.Sprintf("twin-%d", i)
					err := d.home.Sender.Send(ctx, work{ID: id, Step: "a"}, cqrs.ReplyTo("desk.replies", id+":1:d:a"))
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
		eventually(t, func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.replies) == 30 },
			func() string { return fmt.Sprintf("replies %q", d.replies) })
		for i := range 10 {
			d.wantDid(fmt.Sprintf("twin-%d", i), "a")
		}
	})
}

// Twins with another command of their key between them run in two calls of one transaction.
func TestRule21_TwinsInTwoCalls(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "sqlite")
	d.inHome(func(ctx context.Context) error {
		for i := range 10 {
			id := fmt.Sprintf("apart-%d", i)
			for _, c := range []struct {
				token string
				cmd   any
			}{{":1:d:a", work{ID: id, Step: "a"}}, {":2:u:a", unwork{id, "a"}}, {":1:d:a", work{ID: id, Step: "a"}}} {
				if err := d.home.Sender.Send(ctx, c.cmd, cqrs.ReplyTo("desk.replies", id+c.token)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	eventually(t, func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.replies) == 30 },
		func() string { return fmt.Sprintf("replies %q", d.replies) })
	for i := range 10 {
		d.wantDid(fmt.Sprintf("apart-%d", i), "a")
	}
}

func TestRefusedUndoParksAndIsRetried(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p"))),
		saga.EngineConfig{}, uow.Config{})
	l.plan("x p", refuses("no"))
	l.plan("x undo a", refuses("cannot"))
	l.run()
	l.start("x")
	if i := l.at("x", saga.Parked, "a"); !strings.Contains(i.Reason, "cannot") {
		t.Errorf("parked because of %q", i.Reason)
	}
	l.plan("x undo a", nil)
	l.end("x")
	l.at("x", saga.Compensated, "")
	l.wantDid("x", "a, undo a")
}

func TestDuplicateAndForeignRepliesAreIgnored(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p"))),
		saga.EngineConfig{}, uow.Config{})
	l.plan("x p", deferred)
	l.run()
	l.start("x")
	i := l.at("x", saga.Running, "p")
	for n, token := range []string{
		i.ID + ":1:d:a", i.ID + ":1:u:a", i.ID + ":2:d:p", i.ID + ":1:d:zzz", "nobody:1:d:p", "x", "", "::::", i.ID + ":0:d:p",
	} {
		env := cqrs.Envelope{
			ID: fmt.Sprint("m", n), Type: "lab.work", Kind: cqrs.KindReply, Outcome: cqrs.OutcomeOK, Token: token,
			OccurredAt: time.Now(),
		}
		must(t, l.bus.Publisher().Publish("home.replies", &message.Message{
			UUID: env.ID, Metadata: env.Metadata(), Payload: []byte(`{"Step":"forged"}`),
		}))
	}
	got := l.at("x", saga.Running, "p")
	if got.State.Log != "a" {
		t.Errorf("took a reply that was not its own: %q", got.State.Log)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		l := newLab(t, dialect, saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p"))),
			saga.EngineConfig{Keep: -1}, uow.Config{})
		l.plan("open a", deferred)
		stop := l.run()
		l.start("ended")
		l.start("open")
		l.at("ended", saga.Completed, "")
		eventually(t, func() bool { return l.envelope("open a").ID != "" }, func() string { return "no command" })
		stop()
		for range 2 {
			if _, err := l.engine.Purge(t.Context(), -time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Get(t.Context(), "ended"); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("ended: %v", err)
		}
		if _, err := l.Get(t.Context(), "open"); err != nil {
			t.Errorf("open: %v", err)
		}
		var rows int
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Raw("SELECT count(DISTINCT saga_id) FROM saga_journal").Row().Scan(&rows)
		})
		if rows != 1 {
			t.Errorf("journals of %d sagas are left", rows)
		}
		purge := func(limit int) (n int) {
			must(t, l.world.Work.Do(t.Context(), func(ctx context.Context) (err error) {
				n, err = saga.ParticipantPurger{Keep: time.Nanosecond}.Purge(ctx, limit)
				return err
			}))
			return n
		}
		if n := purge(1); n != 1 {
			t.Errorf("purged %d, want 1 of 2", n)
		}
		if n := purge(10); n != 1 {
			t.Errorf("purged %d; the open one must stay", n)
		}
	})
}
