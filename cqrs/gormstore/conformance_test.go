package gormstore_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
)

// onEach runs a suite on SQLite, and on the servers whose addresses are in the environment.
func onEach(t *testing.T, suite func(t *testing.T, open func(*testing.T) *fixture)) {
	t.Helper()
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			suite(t, func(t *testing.T) *fixture { return newFixture(t, open(t)) })
		})
	}
}

func TestRule04_Parking(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func(*testing.T) *fixture) {
		cqrstest.RunParking(t, func(t *testing.T) cqrstest.ParkingFixture {
			return cqrstest.ParkingFixture{Parking: gormstore.NewParking(), Work: open(t).work}
		})
	})
}

func TestRule05_DeadLetters(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func(*testing.T) *fixture) {
		cqrstest.RunDeadLetters(t, func(t *testing.T) cqrstest.DeadLettersFixture {
			f := open(t)
			return cqrstest.DeadLettersFixture{
				DeadLetters: deadLetters(t, f, gormstore.DeadLettersConfig{}), Work: f.work,
			}
		})
	})
}

func TestRepository(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, open func(*testing.T) *fixture) {
		cqrstest.RunRepository(t, func(t *testing.T) cqrstest.RepositoryFixture {
			f := open(t)
			must(t, f.db.AutoMigrate(&cqrstest.Sample{}))
			p := &committed{}
			return cqrstest.RepositoryFixture{
				Repository: gormstore.NewRepository[cqrstest.Sample, string](p), Work: f.work, Published: p.events,
			}
		})
	})
}

// committed is a publisher that keeps events once their transaction has committed, as an outbox does.
type committed struct {
	mu  sync.Mutex
	all []any
}

func (c *committed) Publish(ctx context.Context, events ...any) error {
	return uow.AfterCommit(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, events...)
	})
}

func (c *committed) events() []any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}
