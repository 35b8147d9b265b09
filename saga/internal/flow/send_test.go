package flow_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// A command says when its saga gives up on it: after all tries, however many they are. One that as good as never gives
// up says nothing.
func TestDeadlineIsAfterTheLastTry(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		retry cqrs.Retry
		want  time.Duration // 0: never
	}{
		{cqrs.Retry{Attempts: 1}, time.Second},
		{cqrs.Retry{Attempts: 4, Min: time.Second, Max: 2 * time.Second}, 9 * time.Second},
		{cqrs.Retry{Attempts: 2, Max: 10 * time.Millisecond}, 2010 * time.Millisecond},
		{cqrs.Retry{Attempts: 1_000_003, Min: time.Second, Max: 2 * time.Second}, 3_000_006 * time.Second},
		{cqrs.Retry{Attempts: math.MaxInt}, 0},
		{cqrs.Retry{Attempts: 100, Max: math.MaxInt64}, 0},
	} {
		a := leg("a", false)
		a.Timeout, a.Retry = time.Second, c.retry
		d := saga.MustDefine("trip", 1, a, leg("p", true))
		now := time.Unix(1000, 0)
		res, err := d.Graph().Apply(&flow.Instance{ID: "j", State: &trip{}}, flow.Input{Kind: flow.Start},
			flow.Env{Now: now, Decode: json.Unmarshal})
		if err != nil || len(res.Commands) != 1 {
			t.Fatal(res, err)
		}
		var want time.Time
		if c.want > 0 {
			want = now.Add(c.want)
		}
		if got := res.Commands[0].Deadline; !got.Equal(want) {
			t.Errorf("%+v: the deadline is %v, want %v", c.retry, got, want)
		}
	}
}

// The waits between tries never get shorter, however long they may be.
func TestBackoffHasNoEnd(t *testing.T) {
	t.Parallel()
	a := leg("a", false)
	a.Timeout, a.Retry = time.Second, cqrs.Retry{Attempts: 100, Min: time.Second, Max: math.MaxInt64}
	s := begin(t, saga.MustDefine("trip", 1, a, leg("p", true)))
	for last := int64(0); s.in.Cursor.Mark("a").Try < 100; {
		wait := s.in.Cursor.Due() - s.now.UnixMilli()
		if wait < last {
			t.Fatalf("try %d is waited for %d ms, the one before for %d ms", s.in.Cursor.Mark("a").Try, wait, last)
		}
		last = wait
		s.now = time.UnixMilli(s.in.Cursor.Due())
		s.pass(0)
	}
}
