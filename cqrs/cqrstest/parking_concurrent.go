package cqrstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// A lane appends behind a head while a worker consumes that head: the message must not be left without a head.
func parkAppendMeetsEnd(t *testing.T, f ParkingFixture) {
	for i := range 20 {
		f.append(t, parked("k1", fmt.Sprintf("head-%d", i)))
		head := f.lease(t, 1, time.Hour)
		done := make(chan error, 1)
		next := parked("k1", fmt.Sprintf("next-%d", i))
		go func() {
			done <- f.Work.Do(t.Context(), func(ctx context.Context) error {
				return f.Parking.Append(ctx, []*cqrs.Parked{next})
			})
		}()
		err := f.consume(t, head...)
		must(t, errors.Join(err, <-done))
		want(t, fmt.Sprintf("round %d", i), f.drain(t), next.ID)
	}
}

// Two transactions park the first message of a queue, and neither sees what the other does: one of the messages waits
// for the other one all the same, also while that is blocked, and holds up nothing meanwhile.
func parkAppendMeetsAppend(t *testing.T, f ParkingFixture) {
	began, both := make(chan struct{}), make(chan struct{})
	var begin, end sync.Once
	done := make(chan error, 1)
	go func() {
		done <- f.Work.Do(t.Context(), func(ctx context.Context) error {
			err := f.Parking.Append(ctx, []*cqrs.Parked{parked("k1", "m1")})
			begin.Do(func() { close(began) })
			select {
			case <-both:
			case <-time.After(time.Second / 4): // the store lets the other one wait for this one
			}
			return err
		})
	}()
	<-began
	commit(t, f.Work, func(ctx context.Context) error {
		defer end.Do(func() { close(both) })
		return f.Parking.Append(ctx, []*cqrs.Parked{parked("k1", "m2")})
	})
	must(t, <-done)
	first := f.lease(t, 1, time.Hour)
	if len(first) != 1 {
		t.Fatalf("leased %q of m1 and m2", idsOf(first))
	}
	want(t, "beside it", idsOf(f.lease(t, 1, time.Hour)), "")
	first[0].Blocked = true
	must(t, f.reschedule(t, first...))
	f.append(t, parked("k2", "m3"))
	want(t, "beside the blocked one", idsOf(f.lease(t, 1, time.Hour)), "m3")
	must(t, f.consume(t, parked("k2", "m3"), parked("k1", first[0].ID)))
	want(t, "behind it", f.drain(t), map[string]string{"m1": "m2", "m2": "m1"}[first[0].ID])
}

// parkWorkers has workers lease the same queues, keep some leases until they have run out, and note in order what
// they consume.
func parkWorkers(t *testing.T, f ParkingFixture) {
	const workers, queues, each = 4, 6, 10
	var all []*cqrs.Parked
	for n := range each {
		for q := range queues {
			all = append(all, parked(fmt.Sprintf("q%d", q), fmt.Sprintf("m%02d-q%d", n, q)))
		}
	}
	f.append(t, all...)
	ledger := &ledger{left: len(all), seen: map[string][]string{}}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { ledger.work(t, f, rand.New(rand.NewPCG(uint64(w), 1))) })
	}
	wg.Wait()
	for q := range queues {
		name := fmt.Sprintf("q%d", q)
		got := ledger.seen[name]
		if len(got) != each || !slices.IsSorted(got) {
			t.Errorf("%s was consumed as %v", name, got)
		}
	}
}

// A ledger is what the consuming transactions have committed.
type ledger struct {
	mu   sync.Mutex
	left int
	seen map[string][]string
}

func (l *ledger) work(t testing.TB, f ParkingFixture, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !l.over() {
		if ctx.Err() != nil {
			t.Errorf("workers are stuck with %d messages left", l.left)
			return
		}
		ttl := time.Hour
		if random.IntN(4) == 0 {
			ttl = time.Nanosecond // somebody else takes it over
		}
		var leased []*cqrs.Parked
		err := f.Work.Do(ctx, func(ctx context.Context) (err error) {
			leased, err = f.Parking.Lease(ctx, group, 1+random.IntN(3), ttl)
			return err
		})
		if err != nil {
			t.Error(err)
			return
		}
		if err := l.consume(ctx, f, leased); err != nil && !errors.Is(err, cqrs.ErrLeaseLost) {
			t.Error(err)
			return
		}
	}
}

// consume notes messages after their commit. A queue's next message can be leased only after that commit too, so
// what is noted is in order as long as the note is taken under the lock that the commit is made under.
func (l *ledger) consume(ctx context.Context, f ParkingFixture, leased []*cqrs.Parked) error {
	if len(leased) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := f.Work.Do(ctx, func(ctx context.Context) error { return f.Parking.Consume(ctx, leased) })
	if err != nil {
		return err
	}
	for _, m := range leased {
		l.seen[m.Queue] = append(l.seen[m.Queue], m.ID)
	}
	l.left -= len(leased)
	return nil
}

func (l *ledger) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left <= 0
}

// parkRandomWalk compares the store with a model: however messages are parked, failed and consumed, each queue keeps
// its order, and nothing is lost or doubled.
func parkRandomWalk(t *testing.T, f ParkingFixture) {
	seed := rand.Uint64()
	w := &walk{
		TB: t, f: f, seed: seed, random: rand.New(rand.NewPCG(seed, 1)),
		model: map[string][]string{},
	}
	for range 200 {
		switch w.random.IntN(3) {
		case 0:
			w.append()
		case 1:
			w.lease()
		default:
			w.settle()
		}
	}
}

type walk struct {
	testing.TB
	f      ParkingFixture
	seed   uint64
	random *rand.Rand
	model  map[string][]string // queue → ids
	next   int
	held   []*cqrs.Parked
}

func (w *walk) append() {
	var batch []*cqrs.Parked
	for range 1 + w.random.IntN(4) {
		queue := string(rune('a' + w.random.IntN(3)))
		w.next++
		m := parked(queue, fmt.Sprintf("m%d", w.next))
		batch = append(batch, m)
		w.model[queue] = append(w.model[queue], m.ID)
	}
	w.f.append(w, batch...)
}

func (w *walk) lease() {
	if len(w.held) > 0 {
		return // one worker
	}
	w.held = w.f.lease(w, 1+w.random.IntN(5), time.Hour)
	seen, waiting := map[string]int{}, 0
	for _, m := range w.held {
		if n := seen[m.Queue]; n >= len(w.model[m.Queue]) || w.model[m.Queue][n] != m.ID {
			w.Fatalf("seed %d: leased %q, and %s holds %v", w.seed, idsOf(w.held), m.Queue, w.model[m.Queue])
		}
		seen[m.Queue]++
	}
	for _, ids := range w.model {
		waiting += len(ids)
	}
	if len(w.held) == 0 && waiting > 0 {
		w.Fatalf("seed %d: nothing is due, but %v wait", w.seed, w.model)
	}
}

// settle consumes some of what is held and has the rest run again.
func (w *walk) settle() {
	n := w.random.IntN(len(w.held) + 1)
	failed := map[string]bool{}
	var done, again []*cqrs.Parked
	for i, m := range w.held {
		failed[m.Queue] = failed[m.Queue] || i >= n
		if failed[m.Queue] {
			again = append(again, m)
			continue
		}
		done = append(done, m)
		w.model[m.Queue] = w.model[m.Queue][1:]
	}
	must(w, w.f.consume(w, done...))
	must(w, w.f.reschedule(w, again...))
	w.held = nil
}
