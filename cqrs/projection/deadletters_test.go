package projection_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/localbus"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/outbox/uow"
)

// Without positions and without an inbox too, an event that became a dead letter is behind the model, once.
func TestADeadLetterIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openSQLite(t))
	bus := localbus.New(localbus.Config{InTransaction: uow.In, Wait: patience})
	t.Cleanup(func() { must(t, bus.Close()) })
	sender, err := cqrs.NewSender(w.catalog, bus.Publisher(), cqrs.SenderConfig{})
	must(t, err)
	letters, err := gormstore.NewDeadLetters(w.work, gormstore.DeadLettersConfig{})
	must(t, err)
	cfg := w.config()
	cfg.Source, cfg.Inbox, cfg.Guarded, cfg.DeadLetters, cfg.Retry.Attempts = nil, nil, true, letters, 2
	p, err := projection.New("notes", w.catalog, w.work, w.store, bus, cfg)
	must(t, err)
	var tries atomic.Int32
	projection.On(p, func(ctx context.Context, events []Noted) error {
		if events[0].N == 13 {
			tries.Add(1)
			return errors.New("unlucky")
		}
		return note(ctx, events)
	})
	must(t, p.Declare(t.Context()))
	r := w.run(p)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range []int{12, 13, 14} {
		must(t, sender.Publish(ctx, Noted{"a", n}))
	}
	if rows := fmt.Sprint(w.rows(p)); rows != "map[a:12,14]" || tries.Load() != 2 {
		t.Errorf("the model is %s after %d tries", rows, tries.Load())
	}
	must(t, r.stop())
}
