package resilience_test

import (
	"context"
	"errors"
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
