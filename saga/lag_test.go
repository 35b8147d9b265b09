package saga_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// consume runs the home's processor alone: the engine is not asked to look after timers.
func (l *lab) consume() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.home.Processor.Run(ctx) }()
	<-l.home.Processor.Running()
	l.t.Cleanup(func() {
		cancel()
		must(l.t, <-done)
	})
}

// replied puts a reply on the bus by hand, and returns once it is acknowledged.
func (l *lab) replied(env cqrs.Envelope, payload string) {
	l.t.Helper()
	env.Type, env.Kind = "lab.work", cqrs.KindReply
	if env.OccurredAt.IsZero() {
		env.OccurredAt = time.Now()
	}
	m := &message.Message{UUID: env.ID, Metadata: env.Metadata(), Payload: []byte(payload)}
	must(l.t, l.bus.Publisher().Publish("home.replies", m))
}

// Late replies hold timers back, all but those that wait for a process that knows their instances.
func TestRule27_ParkedRepliesHoldNoTimersBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.pivot("p")), hear("w")),
		saga.EngineConfig{MaxReplyAge: time.Minute, MaxReplyLag: -1}, uow.Config{})
	l.start("ours")
	l.start("theirs")
	ours, theirs := l.at("ours", saga.Running, "p"), l.at("theirs", saga.Running, "p")
	l.inHome(func(ctx context.Context) error {
		return uow.DB(ctx).Exec("UPDATE saga_instances SET def_version = 2 WHERE saga_key = 'theirs'").Error
	})
	l.consume()
	late := cqrs.Envelope{Outcome: cqrs.OutcomeOK, OccurredAt: time.Now().Add(-time.Hour)}

	late.ID, late.Token = "m-1", theirs.ID+":1:d:p"
	l.replied(late, "{}")
	if l.engine.HeldBack(t.Context()) {
		t.Error("a reply that nobody here can take holds timers back")
	}
	late.ID, late.Token = "m-2", ours.ID+":1:d:p"
	l.replied(late, "{}")
	l.at("ours", saga.Running, "w")
	if !l.engine.HeldBack(t.Context()) {
		t.Error("a late reply does not hold timers back")
	}
}
