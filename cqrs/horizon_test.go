package cqrs_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// remembers is an inbox that says for how long, and whether it is empty.
type remembers struct {
	*db
	keeps time.Duration
	empty bool
}

func (r remembers) Retention() time.Duration                        { return r.keeps }
func (r remembers) Empty(_ context.Context, _ string) (bool, error) { return r.empty, nil }

func TestRule10_ATopicThatOutlivesTheInboxIsRefused(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		topic, inbox, tombstones time.Duration
		kept                     []string
		want                     string
	}{
		"shorter":            {topic: 7 * day, inbox: 14 * day},
		"the same":           {topic: 14 * day, inbox: 14 * day, want: `"shop.commands" keeps them for 336h0m0s, the inbox`},
		"for ever":           {topic: -1, inbox: 14 * day, want: "for ever"},
		"declared":           {topic: -1, inbox: 14 * day, kept: []string{"shop.commands"}},
		"tombstones shorter": {topic: 7 * day, inbox: 14 * day, tombstones: day, want: "the participants of group \"shop\""},
		"tombstones longer":  {topic: 7 * day, inbox: 14 * day, tombstones: 8 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				cfg := b.config()
				cfg.Inbox, cfg.KeptLonger = remembers{b, c.inbox, true}, c.kept
				cfg.Retention = func(context.Context, string) (time.Duration, error) { return c.topic, nil }
				s := newService(t, b, catalog(), cfg)
				cqrs.On(s.p, func(context.Context, note) error { return nil })
				s.p.Remember("the participants", c.tombstones)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := s.p.Run(ctx)
				if c.want == "" && err != nil {
					t.Errorf("Run = %v", err)
				}
				if c.want != "" && (!errors.Is(err, cqrs.ErrHorizon) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("Run = %v, want ErrHorizon with %q", err, c.want)
				}
			})
		})
	}
}

// Without a MaxAge of its own a processor runs nothing that its inbox is about to forget.
func TestRule10_MaxAgeFollowsTheInbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Inbox = remembers{b, 10 * time.Hour, true}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		s.run()
		synctest.Wait()
		for text, age := range map[string]time.Duration{"young": 8 * time.Hour, "old": 9*time.Hour + time.Minute} {
			m := noteMsg(text, text, text)
			m.Metadata[cqrs.HeaderTime] = time.Now().Add(-age).Format(time.RFC3339Nano)
			s.deliver("shop.commands", m)
		}
		synctest.Wait()
		if st := s.p.Stats(); j.String() != "young" || st.Dead != 1 {
			t.Errorf("ran %q, stats %+v", j, st)
		}
		cfg.MaxAge = 10 * time.Hour
		if cfg.Validate() == nil {
			t.Error("a MaxAge as long as the inbox remembers is accepted")
		}
	})
}

// A message that was sent to be delivered much later is not old when it comes.
func TestRule10_AScheduledMessageIsAsOldAsItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, j := newDB(), &journal{}
		cfg := b.config()
		cfg.Inbox = remembers{b, 10 * time.Hour, true}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(_ context.Context, n note) error { j.add(n.Text); return nil })
		if err := s.s.Send(t.Context(), note{Order: "a", Text: "later"}, cqrs.After(24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		s.run()
		time.Sleep(24 * time.Hour)
		m := b.sentTo("shop.commands")[0].Copy()
		delete(m.Metadata, cqrs.HeaderDeliverAt) // as an outbox does when it publishes at last
		s.deliver("shop.commands", m)
		synctest.Wait()
		if st := s.p.Stats(); j.String() != "later" || st.Dead != 0 {
			t.Errorf("ran %q, stats %+v", j, st)
		}
	})
}

// A bus that does not answer does not keep a processor from starting: it serves what needs no bus.
func TestRule10_ABusThatDoesNotAnswerIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newDB()
		cfg := b.config()
		cfg.Inbox = remembers{b, time.Hour, true}
		cfg.Retention = func(ctx context.Context, _ string) (time.Duration, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}
		s := newService(t, b, catalog(), cfg)
		cqrs.On(s.p, func(context.Context, note) error { return nil })
		cqrs.On(s.p, func(context.Context, placed) error { return nil })
		s.run()
		time.Sleep(time.Minute)
		select {
		case <-s.p.Running():
		default:
			t.Error("it waits for the bus")
		}
	})
}

type lostError struct{}

func (lostError) Error() string     { return "offsets are gone" }
func (lostError) OffsetsLost() bool { return true }

// placedAt is a subscriber that knows positions.
type placedAt struct {
	message.Subscriber
	check func(handled bool, topics []string) error
}

func (p placedAt) Check(_ context.Context, handled bool, topics ...string) error {
	return p.check(handled, topics)
}

func TestRule10_AGroupWithAPastThatLostItsPositionDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		empty bool
		err   error
		fails bool
	}{
		"lost":           {err: lostError{}, fails: true},
		"new":            {empty: true},
		"broker is away": {err: errors.New("connection refused")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				cfg := b.config()
				cfg.Inbox = remembers{b, time.Hour, c.empty}
				asked := false
				cfg.Subscribe = func(g string) (message.Subscriber, error) {
					sub, err := b.subscriber(g)
					return placedAt{sub, func(handled bool, topics []string) error {
						asked = true
						if handled == c.empty || len(topics) != 1 || topics[0] != "shop.commands" {
							t.Errorf("asked about handled %v, topics %v", handled, topics)
						}
						return c.err
					}}, err
				}
				s := newService(t, b, catalog(), cfg)
				cqrs.On(s.p, func(context.Context, note) error { return nil })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := s.p.Run(ctx)
				if !asked || (err != nil) != c.fails || c.fails && !errors.Is(err, lostError{}) {
					t.Errorf("asked %v, Run = %v", asked, err)
				}
			})
		})
	}
}
