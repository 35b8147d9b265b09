package idempotency_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/idempotency"
)

var aKey = idempotency.Key{Scope: "s", Operation: "o", ID: "i"}

// slow is a store with one key, whose answers to Begin take a while and whose Renew does what it is told.
type slow struct {
	lone
	begin time.Duration
	renew func() error
}

func (s *slow) Begin(ctx context.Context, r idempotency.ClaimRequest) (idempotency.Claim, error) {
	c, err := s.lone.Begin(ctx, r)
	time.Sleep(s.begin)
	return c, err
}

func (s *slow) Renew(context.Context, idempotency.Claim) error { return s.renew() }

// The holder's context ends no later than its lease, which the database counts from a moment that the holder does not
// know: it was asked before it answered.
func TestAHolderEndsNoLaterThanItsLease(t *testing.T) {
	t.Parallel()
	const lease = 9 * time.Second
	renewals := 0
	for name, c := range map[string]struct {
		begin time.Duration
		renew func() error
		ends  time.Duration
	}{
		"the claim is answered late": {5 * time.Second, func() error { return errBoom }, lease},
		"the store does not answer":  {0, func() error { time.Sleep(time.Minute); return errBoom }, lease},
		"one renewal is slow, and the next is the last": {0, func() error {
			switch renewals++; renewals {
			case 1:
				time.Sleep(4 * time.Second) // from 3 s to 7 s
				return nil
			case 2: // at once, since a third of the lease is over
				return nil
			}
			return errBoom
		}, 7*time.Second + lease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, ended := time.Now(), time.Duration(0)
				s := &slow{begin: c.begin, renew: c.renew}
				_, _, err := idempotency.Do(t.Context(), s, aKey, 1,
					func(ctx context.Context, _ *idempotency.Attempt) (int, error) {
						<-ctx.Done()
						ended = time.Since(began)
						return 0, context.Cause(ctx)
					}, idempotency.DoOptions{Lease: lease})
				if ended != c.ends || !errors.Is(err, idempotency.ErrLost) {
					t.Errorf("it ended after %v with %v, want %v", ended, err, c.ends)
				}
			})
		})
	}
}

// What does not look at its context still acts when the caller is gone, and so its lease is renewed until it returns.
func TestTheLeaseIsRenewedUntilTheFunctionReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lone{}
		ctx, leave := context.WithCancel(t.Context())
		_, _, err := idempotency.Do(ctx, l, aKey, 1, func(context.Context, *idempotency.Attempt) (int, error) {
			leave()
			time.Sleep(20 * time.Second)
			return 1, nil
		}, idempotency.DoOptions{Lease: 9 * time.Second})
		if err != nil || !l.completed || len(l.renewed) != 6 {
			t.Errorf("%v; completed %v, renewed at %v", err, l.completed, l.renewed)
		}
	})
}

// A transaction may be rolled back, and what it noted of a step with it: a step is refused there, before it acts.
func TestRule07_NoStepInsideATransaction(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	_, _, err := idempotency.Do(t.Context(), b.store, aKey, 1,
		func(ctx context.Context, a *idempotency.Attempt) (int, error) {
			return 1, b.work.Do(ctx, func(ctx context.Context) error {
				_, err := idempotency.Step(ctx, a, "charge", func(context.Context, string) (int, error) {
					t.Error("it acted")
					return 1, nil
				})
				return err
			})
		})
	wantErr(t, err, idempotency.ErrInTransaction)
}

// A function that is done is done, also when its result cannot be kept.
func TestAResultThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	ran := 0
	do := func() error {
		_, _, err := idempotency.Do(t.Context(), b.store, aKey, 1, func(context.Context, *idempotency.Attempt) (any, error) {
			ran++
			return func() {}, nil
		})
		return err
	}
	if err := do(); err == nil || errors.Is(err, idempotency.ErrNotReplayable) {
		t.Errorf("first: %v", err)
	}
	wantErr(t, do(), idempotency.ErrNotReplayable)
	if ran != 1 {
		t.Errorf("it ran %d times", ran)
	}
}
