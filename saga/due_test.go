package saga_test

import (
	"context"
	"fmt"
	"testing"

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
