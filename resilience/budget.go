package resilience

import (
	"math"
	"sync/atomic"
)

// budget is a token bucket that calls fill and repeats empty, so that repeats stay a share of the traffic
// however many callers fail at once. Tokens are counted in thousandths. Safe for concurrent use.
type budget struct {
	perCall int64 // negative: no limit
	tokens  atomic.Int64
}

// budgetBurst is how many repeats a rested budget allows at once.
const budgetBurst = 10 * tokenUnit

const tokenUnit = 1000

func newBudget(perCall float64) *budget {
	b := &budget{perCall: max(1, int64(math.Round(perCall*tokenUnit)))}
	if perCall < 0 {
		b.perCall = -1
	}
	b.tokens.Store(budgetBurst)
	return b
}

// deposit is called once for each call.
func (b *budget) deposit() {
	have := b.tokens.Load()
	if have >= budgetBurst || b.perCall < 0 {
		return
	}
	// A deposit that is lost to a race only makes the budget stricter; trying once keeps the path short.
	b.tokens.CompareAndSwap(have, min(have+b.perCall, budgetBurst))
}

// withdraw takes a token for one repeat, if there is one.
func (b *budget) withdraw() bool {
	if b.perCall < 0 {
		return true
	}
	for {
		have := b.tokens.Load()
		if have < tokenUnit {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-tokenUnit) {
			return true
		}
	}
}
