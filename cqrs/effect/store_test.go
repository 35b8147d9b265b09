package effect_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs/effect/effecttest"
)

// The store that the other tests run on keeps the rules of any store.
func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	effecttest.Run(t, func(*testing.T) effecttest.Fixture {
		m := newMemory()
		return effecttest.Fixture{Store: m, Do: m.do}
	})
}
