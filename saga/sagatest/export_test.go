package sagatest

import (
	"testing"

	"github.com/surge-go/surge/saga"
)

// ExploreN is Explore with another number of faults; it returns the number of distinct states.
func ExploreN[S any](t testing.TB, d *saga.Definition[S], start S, faults int, inv ...Invariant[S]) int {
	return explore(t, d, start, faults, inv)
}
