package gormstore_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/cqrs/projection/projectiontest"
)

func TestProjectionsConform(t *testing.T) {
	t.Parallel()
	for name, open := range openers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			projectiontest.Run(t, func(t *testing.T) (projection.Store, cqrs.UnitOfWork) {
				f := newFixture(t, open(t))
				store, err := gormstore.NewProjections(f.db)
				must(t, err)
				return store, f.work
			})
		})
	}
	if _, err := gormstore.NewProjections(nil); err == nil {
		t.Error("NewProjections takes nil")
	}
}
