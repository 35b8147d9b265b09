package saga_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// Due instances of types and versions that other processes know take nobody's turn, however many they are.
func TestForeignDueInstancesStarveNobody(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		one := saga.MustDefine("lab", 1, soon("w"))
		l := newLab(t, dialect, one, saga.EngineConfig{}, uow.Config{})
		for i := range 6 {
			l.start(fmt.Sprint("foreign-", i))
		}
		l.inHome(func(ctx context.Context) error {
			return uow.DB(ctx).Exec("UPDATE saga_instances SET due_at = due_at - 1000, " +
				"type = CASE WHEN saga_key < 'foreign-3' THEN 'retired' ELSE type END, " +
				"def_version = CASE WHEN saga_key < 'foreign-3' THEN 1 ELSE 3 END").Error
		})
		l.start("moves")
		p, err := cqrs.NewProcessor("home", l.home.Sender, cqrs.ProcessorConfig{UnitOfWork: l.home.Work, InTransaction: uow.In})
		must(t, err)
		e, err := saga.NewEngine(p, saga.EngineConfig{TimeoutBatch: 2})
		must(t, err)
		s := saga.Register(e, saga.MustDefine("lab", 2, soon("w"), hear("more")), saga.Migration[labState]{
			From: 1, Move: func(_ []byte, step string) (labState, string, error) { return labState{}, step, nil },
		})
		l.inHome(func(ctx context.Context) error { return s.Start(ctx, "new", labState{}) })

		left := map[string]bool{"moves": true, "new": true}
		eventually(t, func() bool {
			n, err := e.Tick(t.Context())
			must(t, err)
			if n > len(left) {
				t.Fatalf("%d are due, want at most %d", n, len(left))
			}
			for key := range left {
				i, err := s.Get(t.Context(), key)
				if err == nil && i.Status == saga.Compensated {
					delete(left, key)
				}
			}
			return len(left) == 0
		}, func() string { return fmt.Sprint("the timeouts never fire of ", left) })
	})
}

// What cannot be stored, or what uses up the time of its transaction, holds up its own timer and nobody else's.
func TestOneTimerThatFailsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, dialect string) {
		hangs := saga.Local[labState]{
			Name: "hangs", Retry: cqrs.Retry{Attempts: 1_000, Min: time.Millisecond, Max: time.Millisecond},
			Do: func(ctx context.Context, s *labState) error {
				switch {
				case s.ID != "hangs":
					return nil
				case !s.Flag: // not by a timer yet
					return errors.New("not now")
				}
				<-ctx.Done()
				return ctx.Err()
			},
		}
		l := newLab(t, dialect, saga.MustDefine("lab", 1, hangs, soon("w")), saga.EngineConfig{},
			uow.Config{PartTimeout: 500 * time.Millisecond})
		l.start("hangs")
		l.inHome(func(ctx context.Context) error { return l.Signal(ctx, "unreadable", ping{}) })
		l.start("x")
		l.inHome(func(ctx context.Context) error {
			return errors.Join(
				uow.DB(ctx).Exec("UPDATE saga_instances SET place = '{', due_at = 1 WHERE saga_key = 'unreadable'").Error,
				uow.DB(ctx).Exec(`UPDATE saga_instances SET state = '{"ID":"hangs","Flag":true}' WHERE saga_key = 'hangs'`).Error)
		})
		eventually(t, func() bool {
			_, err := l.engine.Tick(t.Context())
			i, _ := l.Get(t.Context(), "x")
			return err != nil && i.Status == saga.Compensated
		}, func() string { return "the timeout of x never fires" })
	})
}
