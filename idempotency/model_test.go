package idempotency_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/surge-go/surge/idempotency"
)

// A modelKey is what a key should be, whatever the store keeps.
type modelKey struct {
	held     bool // some attempt is under way, or was lost
	alive    bool // its lease
	started  bool
	unknown  bool
	done     string
	print    byte
	holder   idempotency.Claim
	lastSeen int64             // token
	former   idempotency.Claim // an attempt that lost the key
	points   string
}

func (m *modelKey) expect(r idempotency.ClaimRequest) idempotency.State {
	other := m.print != r.Fingerprint[0]
	switch {
	case m.done != "" && !other:
		return idempotency.Replay
	case (m.done != "" || m.held || m.unknown) && other:
		return idempotency.Mismatch
	case m.held && m.alive:
		return idempotency.InFlight
	case (m.unknown || m.held && m.started) && !r.Takeover:
		return idempotency.Unknown
	}
	return idempotency.Acquired
}

// Random operations of honest and of outdated holders, on the store and on a model of it.
func TestRule30_KeyStateMachine(t *testing.T) {
	t.Parallel()
	b := newBench(t, "sqlite", 0)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		machine := &machine{b: b, t: t, run: run, keys: map[string]*modelKey{"a": {}, "b": {}}}
		rt.Repeat(map[string]func(*rapid.T){
			"begin":    machine.begin,
			"renew":    machine.renew,
			"complete": machine.complete,
			"release":  machine.release,
			"expire":   machine.expire,
			"outdated": machine.outdated,
		})
	})
}

type machine struct {
	b    *bench
	t    *testing.T
	run  int
	keys map[string]*modelKey
}

func (m *machine) pick(rt *rapid.T) (idempotency.Key, *modelKey) {
	id := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")
	return idempotency.Key{Scope: fmt.Sprint(m.run), Operation: "op", ID: id}, m.keys[id]
}

func (m *machine) begin(rt *rapid.T) {
	k, want := m.pick(rt)
	r := idempotency.ClaimRequest{
		Key: k, Fingerprint: idempotency.Fingerprint{rapid.SampledFrom([]byte{1, 1, 1, 2}).Draw(rt, "print")},
		Lease: time.Hour, Started: rapid.Bool().Draw(rt, "started"), Takeover: rapid.Bool().Draw(rt, "takeover"),
	}
	c, err := m.b.store.Begin(m.t.Context(), r)
	if err != nil {
		rt.Fatal(err)
	}
	if s := want.expect(r); c.State != s {
		rt.Fatalf("state is %v, want %v; model %+v", c.State, s, want)
	}
	switch c.State {
	case idempotency.Replay:
		if string(c.Result.Body) != want.done {
			rt.Fatalf("replay is %q, want %q", c.Result.Body, want.done)
		}
	case idempotency.Acquired:
		lost := want.held || want.unknown
		recovered := want.unknown || want.held && want.started
		if c.Recovered != recovered || c.Started != (r.Started || recovered) || string(c.Points["p"]) != want.points {
			rt.Fatalf("claim %+v, model %+v", c, want)
		}
		if lost && c.Token <= want.lastSeen {
			rt.Fatalf("token %d after %d", c.Token, want.lastSeen)
		}
		former := want.former
		if lost {
			former = want.holder
		}
		*want = modelKey{
			held: true, alive: true, started: c.Started, print: r.Fingerprint[0], holder: c, lastSeen: c.Token,
			former: former, points: want.points,
		}
	}
}

func (m *machine) renew(rt *rapid.T) {
	_, want := m.pick(rt)
	if !want.held {
		return
	}
	c := want.holder
	c.Points = nil
	if rapid.Bool().Draw(rt, "start") {
		c.Started = true
	}
	if rapid.Bool().Draw(rt, "point") {
		p := fmt.Sprint(rapid.IntRange(1, 9).Draw(rt, "value"))
		c.Started, c.Points, want.points = true, map[string]json.RawMessage{"p": json.RawMessage(p)}, p
	}
	if err := m.b.store.Renew(m.t.Context(), c); err != nil {
		rt.Fatal(err)
	}
	want.alive, want.started, want.holder.Started = true, want.started || c.Started, want.started || c.Started
}

func (m *machine) complete(rt *rapid.T) {
	_, want := m.pick(rt)
	if !want.held {
		return
	}
	body := fmt.Sprint("answer ", want.holder.Token)
	if err := m.b.store.Complete(m.t.Context(), want.holder, idempotency.Result{Body: []byte(body)}); err != nil {
		rt.Fatal(err)
	}
	*want = modelKey{done: body, print: want.print, former: want.former}
}

func (m *machine) release(rt *rapid.T) {
	_, want := m.pick(rt)
	if !want.held {
		return
	}
	if err := m.b.store.Release(m.t.Context(), want.holder); err != nil {
		rt.Fatal(err)
	}
	if want.started {
		want.held, want.unknown = false, true
		return
	}
	*want = modelKey{former: want.holder}
}

func (m *machine) expire(rt *rapid.T) {
	k, want := m.pick(rt)
	err := m.b.db.Exec("UPDATE idempotency_keys SET lease_until = 1 WHERE id = ? AND state IN (0, 2)", k.String()).Error
	if err != nil {
		rt.Fatal(err)
	}
	want.alive = false
}

// outdated lets an attempt that lost its key do what it likes: nothing may change.
func (m *machine) outdated(rt *rapid.T) {
	_, want := m.pick(rt)
	c := want.former
	if c.Token == 0 {
		return
	}
	c.Started = rapid.Bool().Draw(rt, "started")
	s, ctx := m.b.store, m.t.Context()
	for name, err := range map[string]error{
		"renew":    s.Renew(ctx, c),
		"complete": s.Complete(ctx, c, idempotency.Result{Body: []byte("from the dead")}),
	} {
		if !errors.Is(err, idempotency.ErrLost) {
			rt.Fatalf("%s: %v; model %+v", name, err, want)
		}
	}
	// Releasing a key that is gone is no error: it is as free as it can be.
	if err := s.Release(ctx, c); !errors.Is(err, idempotency.ErrLost) && (err != nil || want.held || want.done != "") {
		rt.Fatalf("release: %v; model %+v", err, want)
	}
}
