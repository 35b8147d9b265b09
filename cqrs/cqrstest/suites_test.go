package cqrstest_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs/cqrstest"
)

func TestRepositorySuite(t *testing.T) {
	t.Parallel()
	cqrstest.RunRepository(t, func(*testing.T) cqrstest.RepositoryFixture {
		r := cqrstest.NewRepository[cqrstest.Sample, string](func(s *cqrstest.Sample) string { return s.ID })
		return cqrstest.RepositoryFixture{Repository: r, Published: r.Events}
	})
}
