package projection_test

import (
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// However often an event has failed, it waits between Min and Max.
func TestBackoffNeverShrinks(t *testing.T) {
	t.Parallel()
	for _, r := range []cqrs.Retry{
		{Min: 100 * time.Millisecond, Max: time.Minute},
		{Min: 5 * time.Second, Max: time.Minute},
		{Min: time.Hour, Max: 24 * time.Hour},
		{Min: time.Second, Max: 1<<63 - 1},
	} {
		last := r.Min
		for failures := 1; failures <= 100; failures++ {
			d := projection.Backoff(r, failures)
			if d < last || d > r.Max {
				t.Errorf("%v to %v: %v after %d failures, %v before", r.Min, r.Max, d, failures, last)
			}
			last = d
		}
		if last != r.Max {
			t.Errorf("%v to %v: %v in the end", r.Min, r.Max, last)
		}
	}
}

type openBreaker struct{ d time.Duration }

func (e openBreaker) Error() string             { return "open" }
func (e openBreaker) RetryAfter() time.Duration { return e.d }

// What an error asks for may come from elsewhere, a header perhaps. Its partition stands still for an hour at most.
func TestRetryAfterWithoutMeasure(t *testing.T) {
	t.Parallel()
	for asked, want := range map[time.Duration]time.Duration{1<<63 - 1: time.Hour, time.Minute: time.Minute} {
		if d, ok := projection.AsksFor(openBreaker{asked}); !ok || d != want {
			t.Errorf("an error that asks for %v gets %v, %t", asked, d, ok)
		}
	}
}

func TestConfigRefusesAMaxBelowMin(t *testing.T) {
	t.Parallel()
	err := projection.Config{Guarded: true, Retry: cqrs.Retry{Min: time.Minute, Max: time.Second}}.Validate()
	if err == nil || !strings.Contains(err.Error(), "Retry.Max is 1s; at least Min, 1m0s") {
		t.Errorf("Validate = %v", err)
	}
}

// A batch is taken, and claimed, at once.
func TestConfigLimitsMaxBatch(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 10_001, 1 << 60} {
		err := projection.Config{Guarded: true, MaxBatch: n}.Validate()
		if err == nil || !strings.Contains(err.Error(), "Config.MaxBatch is") {
			t.Errorf("Validate of %d = %v", n, err)
		}
	}
}
