package resilience_test

import (
	"context"
	"errors"
	"testing"

	"github.com/surge-go/surge/resilience"
)

var errFallback = errors.New("no fallback either")

func TestDoOr(t *testing.T) {
	t.Parallel()
	p := pipeline(t)
	got, err := resilience.DoOr(t.Context(), p,
		func(context.Context) (string, error) { return "half", errDown },
		func(_ context.Context, err error) (string, error) { return "cached after " + err.Error(), nil })
	if got != "cached after down" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestDoOrKeepsBothErrors(t *testing.T) {
	t.Parallel()
	p := pipeline(t)
	_, err := resilience.DoOr(t.Context(), p,
		func(context.Context) (string, error) { return "", errDown },
		func(context.Context, error) (string, error) {
			return "", resilience.WithOutcome(errFallback, resilience.NotExecuted)
		})
	if _, ok := errors.AsType[*resilience.FallbackError](err); !ok ||
		!errors.Is(err, errDown) || !errors.Is(err, errFallback) {
		t.Errorf("got %v", err)
	}
	if got := resilience.OutcomeOf(err); got != resilience.InDoubt {
		t.Errorf("outcome %v: the call is in doubt whatever the fallback did", got)
	}
}

func TestDoOrDoesNothingForACallerWhoHasGone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := resilience.DoOr(ctx, pipeline(t),
		func(context.Context) (string, error) { cancel(); return "", errDown },
		func(context.Context, error) (string, error) { t.Error("the fallback ran"); return "", nil })
	if !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
}

func TestFallbackPolicy(t *testing.T) {
	t.Parallel()
	p := pipeline(t,
		resilience.Fallback(func(context.Context, error) (int, error) { return 7, nil }),
		resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1}))
	for range 2 { // the second time the breaker is open
		if got, err := resilience.Do(t.Context(), p, failing(1, errDown)); got != 7 || err != nil {
			t.Errorf("got %d, %v", got, err)
		}
	}
	_, err := resilience.Do(t.Context(), p, func(context.Context) (string, error) { return "", errDown })
	if err == nil {
		t.Error("a fallback of another type answered")
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.Wrap("twice", func(ctx context.Context, next func(context.Context) error) error {
		if err := next(ctx); err == nil {
			return nil
		}
		return next(ctx)
	}))
	if got, err := resilience.Do(t.Context(), p, failing(1, errDown)); got != 2 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
	if got := p.Policies(); len(got) != 1 || got[0] != "twice" {
		t.Errorf("policies %v", got)
	}
}
