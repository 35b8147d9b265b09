package resilience_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestTimeoutEndsTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Timeout(time.Second))
		began := time.Now()
		err := resilience.Run(t.Context(), p, untilDone)
		timeout, ok := errors.AsType[*resilience.TimeoutError](err)
		if !ok || timeout.Limit != time.Second || !timeout.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a TimeoutError of 1s", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
		if got := resilience.OutcomeOf(err); got != resilience.InDoubt {
			t.Errorf("outcome %v", got)
		}
	})
}

// A function may cancel what it does when its time is up, and say so: that is not the caller's cancellation.
func TestTimeoutIsNoCancellation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 3})
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{}), b, resilience.Timeout(time.Second))
		tries := 0
		err := resilience.Run(t.Context(), p, func(ctx context.Context) error {
			tries++
			work, cancel := context.WithCancel(context.WithoutCancel(ctx))
			defer context.AfterFunc(ctx, cancel)()
			return resilience.WithOutcome(untilDone(work), resilience.NotExecuted)
		})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
			resilience.OutcomeOf(err) != resilience.NotExecuted {
			t.Errorf("got %v (%v)", err, resilience.OutcomeOf(err))
		}
		if tries != 3 || b.State() != resilience.Open {
			t.Errorf("%d tries, the breaker is %v", tries, b.State())
		}
	})
}

func TestTimeoutLeavesANearerDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Timeout(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := resilience.Run(ctx, p, func(inner context.Context) error {
			if inner != ctx {
				t.Error("the context is a new one")
			}
			return untilDone(inner)
		})
		if _, ok := errors.AsType[*resilience.TimeoutError](err); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the caller's own deadline", err)
		}
	})
}

func TestTimeoutKeepsALateSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Timeout(time.Second))
		err := resilience.Run(t.Context(), p, func(context.Context) error { time.Sleep(time.Minute); return nil })
		if err != nil {
			t.Error(err)
		}
	})
}

func TestTimeoutWrapsOnlyWhatCameLate(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.Timeout(time.Hour))
	if err := resilience.Run(t.Context(), p, fail); err != errDown { //nolint:errorlint // as it is
		t.Errorf("got %v", err)
	}
}

// inContext runs fn with the context of a Timeout of one second.
func inContext(parent context.Context, t *testing.T, fn func(context.Context)) context.Context {
	t.Helper()
	var kept context.Context
	_ = resilience.Run(parent, pipeline(t, resilience.Timeout(time.Second)), func(ctx context.Context) error {
		kept = ctx
		fn(ctx)
		return nil
	})
	return kept
}

func TestTimeoutContextIsAProperOne(t *testing.T) {
	t.Parallel()
	type key struct{}
	cases := map[string]func(t *testing.T, ctx context.Context){
		"deadline": func(t *testing.T, ctx context.Context) {
			if at, ok := ctx.Deadline(); !ok || time.Until(at) != time.Second {
				t.Errorf("deadline %v, %v", at, ok)
			}
		},
		"error without anybody waiting": func(t *testing.T, ctx context.Context) {
			if ctx.Err() != nil {
				t.Errorf("too early: %v", ctx.Err())
			}
			time.Sleep(time.Second)
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Errorf("got %v", ctx.Err())
			}
		},
		"cause without anybody waiting": func(t *testing.T, ctx context.Context) {
			time.Sleep(time.Second)
			if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("cause %v", err)
			}
		},
		"child": func(t *testing.T, ctx context.Context) {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-child.Done()
			if !errors.Is(child.Err(), context.DeadlineExceeded) {
				t.Errorf("child %v", child.Err())
			}
		},
		"after func": func(t *testing.T, ctx context.Context) {
			called := make(chan struct{})
			context.AfterFunc(ctx, func() { close(called) })
			<-called
		},
		"value": func(t *testing.T, ctx context.Context) {
			if ctx.Value(key{}) != "v" {
				t.Error("lost before Done")
			}
			_ = ctx.Done()
			if ctx.Value(key{}) != "v" {
				t.Error("lost after Done")
			}
		},
	}
	for name, fn := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				inContext(context.WithValue(t.Context(), key{}, "v"), t, func(ctx context.Context) { fn(t, ctx) })
			})
		})
	}
}

func TestTimeoutContextFollowsTheCaller(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	parent, cancel := context.WithCancelCause(t.Context())
	inContext(parent, t, func(ctx context.Context) {
		cancel(boom)
		if !errors.Is(ctx.Err(), context.Canceled) || !errors.Is(context.Cause(ctx), boom) {
			t.Errorf("got %v because of %v", ctx.Err(), context.Cause(ctx))
		}
		<-ctx.Done()
	})
}

func TestTimeoutContextEndsWithItsFunction(t *testing.T) {
	t.Parallel()
	waited := inContext(t.Context(), t, func(ctx context.Context) { _ = ctx.Done() })
	never := inContext(t.Context(), t, func(context.Context) {})
	for _, ctx := range []context.Context{waited, never} {
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("got %v", ctx.Err())
		}
		<-ctx.Done()
	}
}
