package resilience_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

var errDown = errors.New("down")

// failing returns a function that fails n times, and then answers with how often it ran.
func failing(n int, err error) func(context.Context) (int, error) {
	calls := 0
	return func(context.Context) (int, error) {
		calls++
		if calls <= n {
			return 0, err
		}
		return calls, nil
	}
}

func pipeline(t *testing.T, ps ...resilience.Policy) *resilience.Pipeline {
	t.Helper()
	p, err := resilience.New(t.Name(), ps...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRetryUntilSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
		got, err := resilience.Do(t.Context(), p, failing(2, errDown))
		if got != 3 || err != nil {
			t.Errorf("got %d, %v; want the third try's answer", got, err)
		}
	})
}

func TestRetryKeepsEveryError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errs := []error{errors.New("first"), errors.New("second"), errors.New("third")}
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
		err := resilience.Run(t.Context(), p, func(ctx context.Context) error {
			return errs[resilience.Attempt(ctx)-1]
		})
		for _, want := range errs {
			if !errors.Is(err, want) {
				t.Errorf("%v does not hold %v", err, want)
			}
		}
	})
}

// backoff v4 sleeps up to the deadline although the next try would come after it, and loses the last error.
func TestRetryDoesNotSleepTowardsADeadlineItWouldMiss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		err := resilience.Run(ctx, p, func(context.Context) error {
			return &resilience.StatusError{Code: 503, Wait: 10 * time.Second}
		})
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v for a try that could not be", waited)
		}
		retry, ok := errors.AsType[*resilience.RetryError](err)
		if !ok || len(retry.Errs) != 1 {
			t.Errorf("got %v, want a RetryError of one try", err)
		}
		if _, ok := errors.AsType[*resilience.StatusError](err); !ok {
			t.Errorf("%v lost the try's error", err)
		}
	})
}

func TestRetryWaits(t *testing.T) {
	t.Parallel()
	const shortest, longest = 100 * time.Millisecond, time.Second
	ceilings := []time.Duration{shortest, 2 * shortest, 4 * shortest, 8 * shortest, longest, longest}
	for name, jitter := range map[string]resilience.Jitter{
		"full": resilience.FullJitter, "decorrelated": resilience.DecorrelatedJitter,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := pipeline(t, resilience.Retry(resilience.RetryConfig{
					Attempts: len(ceilings) + 1, Min: shortest, Max: longest, Budget: -1, Jitter: jitter,
				}))
				distinct := make(map[time.Duration]bool)
				for range 50 {
					last := time.Now()
					_ = resilience.Run(t.Context(), p, func(ctx context.Context) error {
						wait := time.Since(last)
						last = time.Now()
						distinct[wait] = true
						if n := resilience.Attempt(ctx); n > 1 {
							checkWait(t, jitter, wait, shortest, longest, ceilings[n-2])
						}
						return errDown
					})
				}
				if len(distinct) < 100 {
					t.Errorf("300 waits had %d values: no jitter", len(distinct))
				}
			})
		})
	}
}

func checkWait(t *testing.T, jitter resilience.Jitter, wait, shortest, longest, ceiling time.Duration) {
	t.Helper()
	low, high := time.Duration(0), ceiling
	if jitter == resilience.DecorrelatedJitter {
		low, high = shortest, longest
	}
	if wait < low || wait > high+1 {
		t.Errorf("waited %v, want between %v and %v", wait, low, high)
	}
}

func TestRetryBudgetBoundsTheShareOfRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{Budget: 0.2}))
		ran := 0
		const calls = 1000
		for range calls {
			_ = resilience.Run(t.Context(), p, func(context.Context) error { ran++; return errDown })
		}
		const reserve = 10
		if most := calls + calls/5 + reserve; ran > most || ran < most-20 {
			t.Errorf("%d calls ran %d times, want about %d", calls, ran, most)
		}
	})
}

// However little a call earns, it is something.
func TestRetryBudgetOfVeryLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{Attempts: 2, Budget: 0.0009}))
		tries := 0
		fail := func(context.Context) error { tries++; return errDown }
		for range 20 {
			_ = resilience.Run(t.Context(), p, fail)
		}
		for range 1000 {
			_ = resilience.Run(t.Context(), p, succeed)
		}
		_ = resilience.Run(t.Context(), p, fail)
		if tries != 20+10+2 {
			t.Errorf("%d tries, want 32", tries)
		}
	})
}

// The longest times that there are make no wait negative.
func TestRetryWaitsDoNotOverflow(t *testing.T) {
	t.Parallel()
	for _, jitter := range []resilience.Jitter{resilience.FullJitter, resilience.DecorrelatedJitter} {
		synctest.Test(t, func(t *testing.T) {
			p := pipeline(t, resilience.Retry(resilience.RetryConfig{
				Min: math.MaxInt64 / 4 * 3, Max: math.MaxInt64, Jitter: jitter,
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if err := resilience.Run(ctx, p, func(context.Context) error { return errDown }); !errors.Is(err, errDown) {
				t.Errorf("jitter %d: %v", jitter, err)
			}
		})
	}
}

func TestRetryWithoutBudgetMultiplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{Budget: -1}))
		ran := 0
		for range 100 {
			_ = resilience.Run(t.Context(), p, func(context.Context) error { ran++; return errDown })
		}
		if ran != 300 {
			t.Errorf("100 calls ran %d times, want 300", ran)
		}
	})
}

func TestRetryHonoursWhatErrorsAskFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{RetryAfterMax: 20 * time.Second}))
		began := time.Now()
		got, err := resilience.Do(t.Context(), p,
			failing(1, &resilience.StatusError{Code: 503, Wait: 20 * time.Second}))
		if got != 2 || err != nil || time.Since(began) != 20*time.Second {
			t.Errorf("got %d, %v after %v, want a second try after 20s", got, err, time.Since(began))
		}
		began = time.Now()
		got, err = resilience.Do(t.Context(), p,
			failing(1, &resilience.StatusError{Code: 503, Wait: 21 * time.Second}))
		if got != 0 || err == nil || time.Since(began) != 0 {
			t.Errorf("got %d, %v after %v, want to give up at once: it asks for more than the cap",
				got, err, time.Since(began))
		}
	})
}

func TestRetryIgnoresWhatErrorsAskForWhenTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{RetryAfterMax: -1}))
		began := time.Now()
		_, err := resilience.Do(t.Context(), p, failing(1, &resilience.StatusError{Code: 503, Wait: time.Hour}))
		if err != nil || time.Since(began) > time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

func TestRetryStopsWhenTheCallerGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Retry(resilience.RetryConfig{Min: time.Hour, Max: time.Hour}))
		ctx, cancel := context.WithCancel(t.Context())
		ran := 0
		go func() { synctest.Wait(); cancel() }()
		err := resilience.Run(ctx, p, func(context.Context) error {
			ran++
			return resilience.WithOutcome(errDown, resilience.NotExecuted)
		})
		if ran != 1 || !errors.Is(err, context.Canceled) || !errors.Is(err, errDown) {
			t.Errorf("ran %d times and got %v", ran, err)
		}
		if got := resilience.OutcomeOf(err); got != resilience.NotExecuted {
			t.Errorf("outcome %v: the wait that was cut short was taken for a try", got)
		}
	})
}

func TestRetryLeavesWhatIsNotRetryable(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"cancellation": context.Canceled,
		"definite":     resilience.WithOutcome(errDown, resilience.Failed),
		"refusal":      &resilience.RejectedError{Policy: "breaker"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
			if n, got := resilience.Do(t.Context(), p, failing(1, err)); n != 0 || got != err { //nolint:errorlint // as it is
				t.Errorf("got %d, %v", n, got)
			}
		})
	}
}

func TestRetryIf(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.Retry(resilience.RetryConfig{RetryIf: func(error) bool { return false }}))
	if n, err := resilience.Do(t.Context(), p, failing(1, errDown)); n != 0 || !errors.Is(err, errDown) {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestAttemptIsThatOfTheInnermostRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		outer := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
		inner := pipeline(t, resilience.Retry(resilience.RetryConfig{}))
		var seen []int
		_ = resilience.Run(t.Context(), outer, func(ctx context.Context) error {
			seen = append(seen, resilience.Attempt(ctx)*10)
			return resilience.Run(ctx, inner, func(ctx context.Context) error {
				seen = append(seen, resilience.Attempt(ctx))
				return resilience.WithOutcome(errDown, resilience.InDoubt)
			})
		})
		want := []int{10, 1, 2, 3, 20, 1, 2, 3, 30, 1, 2, 3}
		if !slices.Equal(seen, want) {
			t.Errorf("attempts %v, want %v", seen, want)
		}
	})
}
