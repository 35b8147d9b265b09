package resilience_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/resilience"
)

func TestHedgeTakesTheFirstSuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(100*time.Millisecond, 3))
		var tries, canceled atomic.Int64
		began := time.Now()
		got, err := resilience.Do(t.Context(), p, func(ctx context.Context) (int64, error) {
			n := tries.Add(1)
			if n < 3 {
				<-ctx.Done()
				canceled.Add(1)
				return n, ctx.Err()
			}
			time.Sleep(10 * time.Millisecond)
			return n, nil
		})
		if got != 3 || err != nil || time.Since(began) != 210*time.Millisecond {
			t.Errorf("got %d, %v after %v", got, err, time.Since(began))
		}
		synctest.Wait()
		if canceled.Load() != 2 {
			t.Errorf("%d losers canceled, want 2", canceled.Load())
		}
	})
}

func TestHedgeStartsNothingWhenTheFirstIsFast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(100*time.Millisecond, 3))
		for _, want := range []error{nil, errDown} {
			tries := 0
			err := resilience.Run(t.Context(), p, func(context.Context) error { tries++; return want })
			if tries != 1 || err != want { //nolint:errorlint // as it is
				t.Errorf("%d tries and %v", tries, err)
			}
		}
	})
}

func TestHedgeFailsWhenAllHave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(time.Second, 2))
		var tries atomic.Int64
		refused := resilience.WithOutcome(errors.New("second"), resilience.NotExecuted)
		err := resilience.Run(t.Context(), p, func(context.Context) error {
			if tries.Add(1) == 1 {
				time.Sleep(3 * time.Second)
				return errDown
			}
			return refused
		})
		hedged, ok := errors.AsType[*resilience.HedgeError](err)
		if !ok || len(hedged.Errs) != 2 || !errors.Is(err, errDown) || !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		if got := resilience.OutcomeOf(err); got != resilience.InDoubt {
			t.Errorf("outcome %v, want the worst of both", got)
		}
	})
}

func TestHedgeIsBudgeted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(time.Millisecond, 2))
		tries := make(chan struct{}, 1000)
		const calls = 100
		for range calls {
			_ = resilience.Run(t.Context(), p, func(context.Context) error {
				tries <- struct{}{}
				time.Sleep(time.Second)
				return nil
			})
		}
		time.Sleep(time.Second)
		if most := calls + calls/5 + 10; len(tries) > most || len(tries) < most-5 {
			t.Errorf("%d calls made %d tries, want about %d", calls, len(tries), most)
		}
	})
}

func TestHedgeReturnsWhenTheCallerGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(time.Second, 2))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err := resilience.Run(ctx, p, func(context.Context) error { time.Sleep(time.Minute); return nil })
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		time.Sleep(time.Minute)
	})
}

func TestHedgePassesPanicsToTheCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pipeline(t, resilience.Hedge(time.Second, 2))
		defer func() {
			if got := recover(); got != "boom" {
				t.Errorf("recovered %v", got)
			}
		}()
		run(t, p, 1, func(context.Context) error { panic("boom") })
	})
}

func TestHedgeSurvivesATryThatExits(t *testing.T) {
	t.Parallel()
	p := pipeline(t, resilience.Hedge(time.Hour, 2))
	if err := resilience.Run(t.Context(), p, func(context.Context) error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error")
	}
}
