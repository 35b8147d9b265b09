package idempotencytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/surge-go/surge/idempotency"
)

// Factory returns an empty store that keeps keys for retention. What it opens it closes with t.Cleanup.
type Factory func(t *testing.T, retention time.Duration) idempotency.Store

// Run tests that the stores which open returns keep the contract of [idempotency.Store]. Each test gets a store of its
// own, and they run in parallel.
func Run(t *testing.T, open Factory) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, *suite){
		"AcquiredThenInFlight":         testAcquired,
		"CompletedIsReplayed":          testReplay,
		"OtherRequestIsMismatch":       testMismatch,
		"ReleasedIsFree":               testReleased,
		"ReleasedOnceStartedIsUnknown": testUnknown,
		"ExpiredIsFree":                testExpired,
		"ExpiredOnceStartedIsUnknown":  testExpiredStarted,
		"TakeoverKeepsPoints":          testTakeover,
		"RenewKeepsAlive":              testRenew,
		"LostClaimChangesNothing":      testLost,
		"PurgeKeepsTheLiving":          testPurge,
		"PurgeIsBounded":               testPurgeBounded,
		"BadKeyIsRefused":              testBadKey,
		"KeysDoNotMix":                 testKeysDoNotMix,
		"OneOfManyAcquires":            testRace,
		"OneOfManyTakesOver":           testTakeoverRace,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &suite{t: t, open: open, Store: open(t, time.Hour)})
		})
	}
}

type suite struct {
	t    *testing.T
	open Factory
	idempotency.Store
}

const (
	long  = time.Hour
	short = time.Millisecond
)

func key(id string) idempotency.Key {
	return idempotency.Key{Scope: "tenant", Operation: "POST /orders", ID: id}
}

func ask(id string, lease time.Duration) idempotency.ClaimRequest {
	return idempotency.ClaimRequest{Key: key(id), Fingerprint: idempotency.Fingerprint{1}, Lease: lease}
}

func (s *suite) begin(r idempotency.ClaimRequest, want idempotency.State) idempotency.Claim {
	s.t.Helper()
	c, err := s.Begin(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	if c.State != want {
		s.t.Fatalf("state is %v, want %v", c.State, want)
	}
	return c
}

// eventually begins until the state is no longer InFlight: leases run by the database's clock.
func (s *suite) eventually(r idempotency.ClaimRequest, want idempotency.State) idempotency.Claim {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for {
		c, err := s.Begin(ctx, r)
		if err != nil {
			s.t.Fatal(err)
		}
		if c.State == idempotency.InFlight {
			continue
		}
		if c.State != want {
			s.t.Fatalf("state is %v, want %v", c.State, want)
		}
		return c
	}
}

func (s *suite) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) lost(err error) {
	s.t.Helper()
	if !errors.Is(err, idempotency.ErrLost) {
		s.t.Fatalf("error is %v, want ErrLost", err)
	}
}

func answer() idempotency.Result {
	return idempotency.Result{
		Status: 201, Header: http.Header{"Location": {"/orders/1"}, "X-Many": {"a", "b"}}, Body: []byte("{\"id\":1}\x00\xff"),
	}
}

func testAcquired(_ *testing.T, s *suite) {
	c := s.begin(ask("k", long), idempotency.Acquired)
	if c.Key != key("k") || c.Started || c.Recovered || c.Lease != long {
		s.t.Errorf("claim is %+v", c)
	}
	s.begin(ask("k", long), idempotency.InFlight)
}

func testReplay(t *testing.T, s *suite) {
	for name, want := range map[string]idempotency.Result{
		"http": answer(), "function": {Body: []byte("42")}, "empty": {Status: 204}, "lost": {Lost: true, Status: 200},
	} {
		c := s.begin(ask(name, long), idempotency.Acquired)
		s.ok(s.Complete(t.Context(), c, want))
		s.ok(s.Complete(t.Context(), c, want))
		got := s.begin(ask(name, long), idempotency.Replay).Result
		if len(got.Body) == 0 && len(want.Body) == 0 {
			got.Body, want.Body = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		s.lost(s.Release(t.Context(), c))
		s.lost(s.Renew(t.Context(), c))
	}
}

func testMismatch(t *testing.T, s *suite) {
	other := ask("k", long)
	other.Fingerprint, other.Takeover = idempotency.Fingerprint{2}, true
	c := s.begin(ask("k", long), idempotency.Acquired)
	s.begin(other, idempotency.Mismatch)
	c.Started = true
	s.ok(s.Release(t.Context(), c))
	s.begin(other, idempotency.Mismatch)
	again := ask("k", long)
	again.Takeover = true
	c = s.begin(again, idempotency.Acquired)
	s.ok(s.Complete(t.Context(), c, answer()))
	s.begin(other, idempotency.Mismatch)
}

func testReleased(t *testing.T, s *suite) {
	c := s.begin(ask("k", long), idempotency.Acquired)
	s.ok(s.Release(t.Context(), c))
	other := ask("k", long)
	other.Fingerprint = idempotency.Fingerprint{2}
	s.begin(other, idempotency.Acquired)
}

func testUnknown(t *testing.T, s *suite) {
	c := s.begin(ask("k", long), idempotency.Acquired)
	c.Started = true
	s.ok(s.Release(t.Context(), c))
	s.ok(s.Release(t.Context(), c))
	s.begin(ask("k", long), idempotency.Unknown)
}

func testExpired(_ *testing.T, s *suite) {
	first := s.begin(ask("k", short), idempotency.Acquired)
	c := s.eventually(ask("k", long), idempotency.Acquired)
	if c.Recovered || c.Token <= first.Token {
		s.t.Errorf("claim is %+v after %+v", c, first)
	}
}

func testExpiredStarted(t *testing.T, s *suite) {
	atOnce := ask("at once", short)
	atOnce.Started = true
	s.begin(atOnce, idempotency.Acquired)
	s.eventually(ask("at once", long), idempotency.Unknown)

	c := s.begin(ask("later", short), idempotency.Acquired)
	c.Started = true
	s.ok(s.Renew(t.Context(), c))
	c.Started = false // never becomes false again
	s.ok(s.Renew(t.Context(), c))
	s.eventually(ask("later", long), idempotency.Unknown)
}

func testTakeover(t *testing.T, s *suite) {
	first := s.begin(ask("k", long), idempotency.Acquired)
	first.Started = true
	first.Points = map[string]json.RawMessage{"charge": json.RawMessage(`{"id":7}`)}
	s.ok(s.Renew(t.Context(), first))
	first.Points = nil // keeps what is there
	s.ok(s.Renew(t.Context(), first))
	s.ok(s.Release(t.Context(), first))
	s.begin(ask("k", long), idempotency.Unknown)
	r := ask("k", long)
	r.Takeover = true
	c := s.begin(r, idempotency.Acquired)
	if !c.Recovered || !c.Started || c.Token <= first.Token || string(c.Points["charge"]) != `{"id":7}` {
		t.Errorf("claim is %+v, the first was %+v", c, first)
	}
	s.begin(r, idempotency.InFlight)
	s.ok(s.Release(t.Context(), c))
	s.begin(ask("k", long), idempotency.Unknown)
}

func testRenew(t *testing.T, s *suite) {
	c := s.begin(ask("k", short), idempotency.Acquired)
	c.Lease = long
	s.ok(s.Renew(t.Context(), c))
	s.ok(s.Renew(t.Context(), c))
	s.begin(ask("k", long), idempotency.InFlight)
}

func testLost(t *testing.T, s *suite) {
	first := s.begin(ask("k", short), idempotency.Acquired)
	second := s.eventually(ask("k", long), idempotency.Acquired)
	s.lost(s.Renew(t.Context(), first))
	s.lost(s.Complete(t.Context(), first, answer()))
	s.lost(s.Release(t.Context(), first))
	s.begin(ask("k", long), idempotency.InFlight)
	s.ok(s.Complete(t.Context(), second, answer()))
	s.lost(s.Complete(t.Context(), first, idempotency.Result{Status: 500}))
	s.begin(ask("k", long), idempotency.Replay)

	gone := ask("gone", long)
	c := s.begin(gone, idempotency.Acquired)
	s.ok(s.Release(t.Context(), c))
	s.lost(s.Complete(t.Context(), c, answer()))
}

// A key is purged when its retention is over, but never under a living lease.
func testPurge(t *testing.T, s *suite) {
	c := s.begin(ask("young", long), idempotency.Acquired)
	s.ok(s.Complete(t.Context(), c, answer()))
	s.purge(0, 10)

	s.Store = s.open(t, short)
	s.begin(ask("held", long), idempotency.Acquired)
	c = s.begin(ask("unknown", long), idempotency.Acquired)
	c.Started = true
	s.ok(s.Release(t.Context(), c))
	c = s.begin(ask("done", short), idempotency.Acquired)
	s.ok(s.Complete(t.Context(), c, answer()))
	s.purge(2, 10)
	s.begin(ask("held", long), idempotency.InFlight)
	s.begin(ask("done", long), idempotency.Acquired)
}

func testPurgeBounded(t *testing.T, s *suite) {
	s.Store = s.open(t, short)
	const keys = 7
	for i := range keys {
		c := s.begin(ask(fmt.Sprint(i), long), idempotency.Acquired)
		s.ok(s.Complete(t.Context(), c, answer()))
	}
	s.purge(keys, 3)
}

// purge purges until n keys are gone, by at most limit at a time, before a deadline.
func (s *suite) purge(n, limit int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for n > 0 {
		got, err := s.Purge(ctx, limit)
		s.ok(err)
		if got > min(n, limit) {
			s.t.Fatalf("purged %d, want at most %d", got, min(n, limit))
		}
		n -= got
	}
	got, err := s.Purge(ctx, limit)
	s.ok(err)
	if got != 0 {
		s.t.Fatalf("purged %d more", got)
	}
}

func testBadKey(t *testing.T, s *suite) {
	for _, k := range []idempotency.Key{
		{}, {Operation: "o", ID: "i"}, {Scope: "s", ID: "i"}, {Scope: "s", Operation: "o"},
	} {
		if _, err := s.Begin(t.Context(), idempotency.ClaimRequest{Key: k}); err == nil {
			t.Errorf("%+v was accepted", k)
		}
	}
}

func testKeysDoNotMix(_ *testing.T, s *suite) {
	for _, k := range []idempotency.Key{
		{Scope: "a", Operation: "b", ID: "c"},
		{Scope: "A", Operation: "b", ID: "c"},
		{Scope: "a", Operation: "b", ID: "c "},
		{Scope: "a/b", Operation: "c", ID: "d"},
		{Scope: "a", Operation: "b/c", ID: "d"},
		{Scope: "ä", Operation: "b", ID: "c"},
		{Scope: "a\u0308", Operation: "b", ID: "c"},
		{Scope: "a\x00", Operation: "b", ID: "c"},
	} {
		s.begin(idempotency.ClaimRequest{Key: k, Lease: long}, idempotency.Acquired)
	}
}

func testRace(_ *testing.T, s *suite) {
	s.race(ask("k", long))
}

func testTakeoverRace(t *testing.T, s *suite) {
	c := s.begin(ask("k", long), idempotency.Acquired)
	c.Started = true
	s.ok(s.Release(t.Context(), c))
	r := ask("k", long)
	r.Takeover = true
	s.race(r)
}

// race begins many times at once; exactly one acquires.
func (s *suite) race(r idempotency.ClaimRequest) {
	s.t.Helper()
	var acquired atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			c, err := s.Begin(s.t.Context(), r)
			if err != nil {
				s.t.Error(err)
				return
			}
			switch c.State {
			case idempotency.Acquired:
				acquired.Add(1)
			case idempotency.InFlight:
			default:
				s.t.Errorf("state is %v", c.State)
			}
		})
	}
	wg.Wait()
	if n := acquired.Load(); n != 1 {
		s.t.Errorf("%d acquired", n)
	}
}
