package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

func TestOutcomeOf(t *testing.T) {
	t.Parallel()
	refused := &resilience.RejectedError{Policy: "breaker", Reason: "open"}
	declined := resilience.WithOutcome(errors.New("declined"), resilience.Failed)
	for name, c := range map[string]struct {
		err  error
		want resilience.Outcome
	}{
		"nil":                    {nil, resilience.OK},
		"unknown":                {io.ErrUnexpectedEOF, resilience.InDoubt},
		"deadline":               {context.DeadlineExceeded, resilience.InDoubt},
		"canceled":               {context.Canceled, resilience.InDoubt},
		"refused":                {refused, resilience.NotExecuted},
		"refused, wrapped":       {fmt.Errorf("pay: %w", refused), resilience.NotExecuted},
		"declined":               {fmt.Errorf("pay: %w", declined), resilience.Failed},
		"dial":                   {&net.OpError{Op: "dial", Err: io.EOF}, resilience.NotExecuted},
		"read":                   {&net.OpError{Op: "read", Err: io.EOF}, resilience.InDoubt},
		"name":                   {fmt.Errorf("dial: %w", &net.DNSError{}), resilience.NotExecuted},
		"joined":                 {errors.Join(refused, declined), resilience.Failed},
		"joined with an unknown": {errors.Join(refused, io.EOF, declined), resilience.InDoubt},
		"retry": {
			&resilience.RetryError{Errs: []error{context.DeadlineExceeded, refused}}, resilience.InDoubt,
		},
		"hedge":    {&resilience.HedgeError{Errs: []error{refused, declined}}, resilience.Failed},
		"fallback": {&resilience.FallbackError{Call: io.EOF, Fallback: refused}, resilience.InDoubt},
		"timeout of a queue": {
			&resilience.TimeoutError{Limit: time.Second, Err: refused}, resilience.NotExecuted,
		},
		"shed":        {&resilience.StatusError{Code: 503, Shed: true}, resilience.NotExecuted},
		"unavailable": {&resilience.StatusError{Code: 503}, resilience.InDoubt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := resilience.OutcomeOf(c.err); got != c.want {
				t.Errorf("%v is %v, want %v", c.err, got, c.want)
			}
		})
	}
}

// A timeout followed by "breaker open" is in doubt: the first try may have had its effect.
func TestRule19_OutcomeIsTheWorstOfAllTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t,
			resilience.Timeout(time.Minute),
			resilience.Retry(resilience.RetryConfig{}),
			resilience.NewBreaker(resilience.BreakerConfig{Consecutive: 1, Cooldown: time.Hour}),
			resilience.Timeout(time.Second))
		err := resilience.Run(t.Context(), p, untilDone)
		if _, ok := errors.AsType[*resilience.RejectedError](err); !ok {
			t.Errorf("%v does not hold the refusal", err)
		}
		if got := resilience.OutcomeOf(err); got != resilience.InDoubt {
			t.Errorf("the call is %v, want in doubt", got)
		}
		err = resilience.Run(t.Context(), p, untilDone)
		if got := resilience.OutcomeOf(err); got != resilience.NotExecuted {
			t.Errorf("the next call is %v, want not executed", got)
		}
	})
}

func TestRejectedErrorTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("pay: %w", &resilience.RejectedError{Wait: time.Minute})
	var asker interface{ RetryAfter() time.Duration }
	if !errors.As(err, &asker) || asker.RetryAfter() != time.Minute {
		t.Error("a package that knows only the method does not find it")
	}
}

// What is marked with an outcome times out as it did before, for http.Client's callers too.
func TestAnOutcomeHidesNoTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true},
		{fmt.Errorf("dial: %w", os.ErrDeadlineExceeded), true},
		{errors.New("refused"), false},
	} {
		err := &url.Error{Op: "Get", URL: "http://stock", Err: resilience.WithOutcome(c.err, resilience.NotExecuted)}
		if err.Timeout() != c.want {
			t.Errorf("%v: timeout %v, want %v", err, err.Timeout(), c.want)
		}
	}
}

func TestAnEndedContextIsNotExecuted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := resilience.Run(ctx, pipeline(t), func(context.Context) error { t.Error("ran"); return nil })
	if !errors.Is(err, context.Canceled) || resilience.OutcomeOf(err) != resilience.NotExecuted {
		t.Errorf("got %v (%v)", err, resilience.OutcomeOf(err))
	}
}

func TestErrorsAndOutcomesReadWell(t *testing.T) {
	t.Parallel()
	down, gone := errors.New("down"), errors.New("gone")
	for want, got := range map[string]fmt.Stringer{
		"ok": resilience.OK, "not executed": resilience.NotExecuted, "failed": resilience.Failed,
		"in doubt": resilience.InDoubt, "closed": resilience.Closed, "half-open": resilience.HalfOpen,
		"open": resilience.Open,
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, err := range map[string]error{
		"resilience: pay: breaker: open": &resilience.RejectedError{Pipeline: "pay", Policy: "breaker", Reason: "open"},
		"resilience: 2 tries (no tries left): down; gone": &resilience.RetryError{
			Errs: []error{down, gone}, Stopped: "no tries left",
		},
		"resilience: 2 hedged tries: down; gone":          &resilience.HedgeError{Errs: []error{down, gone}},
		"resilience: fallback: gone, after: down":         &resilience.FallbackError{Call: down, Fallback: gone},
		"resilience: http status 503 Service Unavailable": &resilience.StatusError{Code: 503},
		"down": resilience.WithOutcome(down, resilience.Failed),
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
	if resilience.WithOutcome(nil, resilience.Failed) != nil {
		t.Error("no error was marked, and became one")
	}
}
