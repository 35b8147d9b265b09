package resilience

import (
	"errors"
	"fmt"
	"time"
)

// checkOrder reports pairs of policies that defeat each other. The first of a pair is outside.
func checkOrder(ps []Policy) []error {
	var faults []error
	for i, outer := range ps {
		for _, inner := range ps[i+1:] {
			if err := checkPair(outer, inner); err != nil {
				faults = append(faults, err)
			}
		}
	}
	return faults
}

func checkPair(outer, inner Policy) error {
	if _, ok := inner.(*fallback); ok {
		return outsideFallback(outer)
	}
	switch out := outer.(type) {
	case *Breaker:
		return insideBreaker(out, inner)
	case *retry:
		return insideRetry(inner)
	case *timeout:
		return insideTimeout(out.limit, inner)
	case *hedge:
		return insideHedge(out, inner)
	case *vegas, *throttle:
		if _, ok := inner.(*retry); ok {
			return fmt.Errorf("the %s is outside of the retry: it would measure whole calls with their waits; "+
				"put it inside, to measure tries", outer.describe())
		}
	}
	return nil
}

func outsideFallback(outer Policy) error {
	switch outer.(type) {
	case *retry, *Breaker, *hedge, *vegas, *throttle:
		return fmt.Errorf("a fallback is inside of the %s, which would never see a failure; put it outside",
			outer.describe())
	}
	return nil
}

func insideBreaker(out *Breaker, inner Policy) error {
	switch in := inner.(type) {
	case *retry:
		return errors.New("the breaker is outside of the retry: it would see whole calls only, " +
			"and the retry would go on against a dependency that is down; put the breaker inside")
	case *Breaker:
		if in == out {
			return errors.New("the same breaker is there twice: its probe would wait for itself")
		}
	}
	return nil
}

func insideRetry(inner Policy) error {
	if _, ok := inner.(*retry); ok {
		return errors.New("a retry is inside of a retry: their tries multiply; keep one")
	}
	return nil
}

func insideTimeout(limit time.Duration, inner Policy) error {
	switch in := inner.(type) {
	case *retry:
		if in.cfg.Attempts > 1 && limit <= in.cfg.Min {
			return fmt.Errorf("the timeout of %v around the retry is over before the first backoff (%v) is",
				limit, in.cfg.Min)
		}
	case *timeout:
		if in.limit >= limit {
			return fmt.Errorf("the timeout of %v inside of the one of %v can never be reached", in.limit, limit)
		}
	case *bulkhead:
		if in.maxWait >= limit {
			return fmt.Errorf("the bulkhead's wait of %v outlasts the timeout of %v around it", in.maxWait, limit)
		}
	case *hedge:
		if in.after >= limit {
			return fmt.Errorf("the hedge starts after %v, when the timeout of %v around it is over", in.after, limit)
		}
	}
	return nil
}

func insideHedge(out *hedge, inner Policy) error {
	switch in := inner.(type) {
	case *retry:
		if in.cfg.Budget < 0 {
			return errors.New("a retry without a budget is inside of a hedge: when the dependency fails, " +
				"every hedged try multiplies by the retries; give it a Budget or put it outside")
		}
	case *timeout:
		if in.limit <= out.after {
			return fmt.Errorf("the timeout of %v ends each try before the hedge would start another (after %v)",
				in.limit, out.after)
		}
	case *hedge:
		return errors.New("a hedge is inside of a hedge: their tries multiply; keep one")
	}
	return nil
}
