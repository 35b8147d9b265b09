package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// A gated publisher holds each call until the test answers it.
type gated struct {
	mu      sync.Mutex
	waiting []*gatedCall
	most    int // calls at once
	taken   []string
	opened  bool
}

type gatedCall struct {
	ids, keys []string
	answer    chan error
}

func (g *gated) Publish(_ string, msgs ...*message.Message) error {
	c := &gatedCall{answer: make(chan error, 1)}
	for _, m := range msgs {
		c.ids = append(c.ids, m.UUID)
		c.keys = append(c.keys, m.Metadata[outbox.HeaderKey])
	}
	g.mu.Lock()
	g.waiting = append(g.waiting, c)
	g.most = max(g.most, len(g.waiting))
	if g.opened {
		c.answer <- nil
	}
	g.mu.Unlock()
	err := <-c.answer
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = slices.DeleteFunc(g.waiting, func(o *gatedCall) bool { return o == c })
	if err == nil {
		g.taken = append(g.taken, c.ids...)
	}
	return err
}

func (g *gated) Close() error { return nil }

// calls lists what is under way.
func (g *gated) calls() []*gatedCall {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.waiting)
}

// await waits until so many calls are under way.
func (g *gated) await(t *testing.T, n int) []*gatedCall {
	t.Helper()
	within(t, fmt.Sprint(n, " calls"), func() bool { return len(g.calls()) == n })
	return g.calls()
}

// end answers a call and waits until it has returned.
func (g *gated) end(t *testing.T, c *gatedCall, err error) {
	t.Helper()
	c.answer <- err
	within(t, "it returns", func() bool { return !slices.Contains(g.calls(), c) })
}

// open answers every call, now and later, with success.
func (g *gated) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
	for _, c := range g.waiting {
		select {
		case c.answer <- nil:
		default: // it has its answer
		}
	}
}

// published checks that the messages id-0 to id-(n-1) of each key came once, in order.
func (g *gated) published(t *testing.T, keys []string, n int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	next := map[string]int{}
	for _, id := range g.taken {
		var key string
		var i int
		if _, err := fmt.Sscanf(id, "%s %d", &key, &i); err != nil || next[key] != i {
			t.Fatalf("%q came when number %d of its key was to come (%v)", id, next[key], err)
		}
		next[key]++
	}
	for _, k := range keys {
		if next[k] != n {
			t.Errorf("%d of %d messages of %s came", next[k], n, k)
		}
	}
}

// backlog starts a relay with n messages of each key waiting.
func backlog(t *testing.T, to message.Publisher, cfg outbox.RelayConfig, keys []string, n int) *fixture {
	t.Helper()
	f := run(t, to, cfg)
	f.relay.Pause()
	for i := range n {
		for _, k := range keys {
			f.publish(t, "topic", k, fmt.Sprint(k, " ", i))
		}
	}
	f.relay.Resume()
	return f
}

// Calls for one topic are under way at once, as many as Concurrency says, and no key is in two of them.
func TestConcurrentCallsShareNoKey(t *testing.T) {
	t.Parallel()
	for concurrency, want := range map[int]int{0: 4, 1: 1, 2: 2, 7: 7} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			to := &gated{}
			f := backlog(t, to, outbox.RelayConfig{Concurrency: concurrency, Batch: 40}, keys(100), 3)
			defer to.open()
			for range 5 { // more begin as these end
				within(t, "calls are under way", func() bool { return len(to.calls()) == min(want, 4) })
				in := map[string]*gatedCall{}
				for _, c := range to.calls() {
					for _, k := range c.keys {
						if in[k] != nil && in[k] != c {
							t.Errorf("%s is in two calls", k)
						}
						in[k] = c
					}
				}
				to.end(t, to.calls()[0], nil)
			}
			to.open()
			f.drain(t)
			to.published(t, keys(100), 3)
			if want = min(want, 4); to.most != want { // Batch allows 4 calls of a quarter of it
				t.Errorf("%d calls at once, want %d", to.most, want)
			}
		})
	}
}

// A call that fails ends the others' turn: what is under way ends, and then messages are published one by one, until
// one has passed.
func TestAfterAFailureOneCallAtATime(t *testing.T) {
	t.Parallel()
	to := &gated{}
	f := backlog(t, to, outbox.RelayConfig{Backoff: time.Millisecond}, keys(100), 2)
	defer to.open()
	to.end(t, to.await(t, 4)[1], errors.New("down"))
	under := to.calls()
	time.Sleep(50 * time.Millisecond) // longer than it rests
	if n := len(to.calls()); n != 3 {
		t.Fatalf("%d calls are under way while 3 have not returned", n)
	}
	for _, c := range under {
		c.answer <- nil
	}
	for range 2 { // it fails again
		probe := to.await(t, 1)[0]
		if len(probe.ids) != 1 {
			t.Fatalf("%d messages at once after a failure", len(probe.ids))
		}
		to.end(t, probe, errors.New("down"))
	}
	to.open()
	within(t, "all leave", func() bool { // those that failed while others passed by way of the retry table
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Depth+s.Retrying == 0
	})
	to.published(t, keys(100), 2)
}

// Calls that fail together are one failure: the relay does not rest for longer because there were many.
func TestCallsThatFailTogetherAreOneFailure(t *testing.T) {
	t.Parallel()
	to := &gated{}
	f := backlog(t, to, outbox.RelayConfig{Backoff: time.Hour, MaxBackoff: time.Hour}, keys(100), 1)
	defer to.open()
	for _, c := range to.await(t, 4) {
		c.answer <- errors.New("down")
	}
	within(t, "all have failed", func() bool { return f.relay.Publishing() == 0 })
	if p := f.relay.Progress(); len(p.Topics) != 1 || p.Topics[0].Failures != 1 || p.Topics[0].Buffered != 100 {
		t.Errorf("%+v", p)
	}
}

// Workers that start while one goes on alone leave it alone, though the queues are empty: it has all that was there.
func TestSweepStaysAlone(t *testing.T) {
	t.Parallel()
	to := &gated{}
	f := backlog(t, to, outbox.RelayConfig{Backoff: time.Millisecond, MaxBackoff: time.Millisecond}, keys(100), 1)
	defer to.open()
	under := to.await(t, 4)
	f.relay.Pause()
	for _, c := range under {
		c.answer <- errors.New("down")
	}
	within(t, "all have failed", func() bool { return f.relay.Publishing() == 0 })
	time.Sleep(10 * time.Millisecond) // longer than it rests
	f.relay.Resume()                  // all workers start at once
	to.await(t, 1)
	for _, k := range keys(100) {
		f.publish(t, "topic", k, k+" 1")
	}
	within(t, "they are read", func() bool { return f.relay.Progress().Topics[0].Buffered == 100 })
	if n, p := len(to.calls()), f.relay.Progress(); n != 1 || p.Topics[0].Failures != 1 {
		t.Errorf("%d calls under way, %+v", n, p)
	}
	to.open()
	within(t, "all leave", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Depth+s.Retrying == 0
	})
	to.published(t, keys(100), 2)
}

// Whatever fails, and whenever, nothing of a key overtakes anything: what comes again comes again in order.
func TestOrderSurvivesFailuresOfConcurrentCalls(t *testing.T) {
	t.Parallel()
	var calm atomic.Bool
	to := &scripted{script: func(string, []*message.Message) error {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		if !calm.Load() && rand.IntN(100) < 80 {
			return errors.New("down")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Backoff: time.Millisecond, MaxBackoff: 3 * time.Millisecond, Attempts: 1 << 30})
	var all sync.WaitGroup
	const writers, each = 16, 100
	for w := range writers {
		all.Go(func() {
			for i := range each {
				f.publish(t, "topic", fmt.Sprint("k", w), fmt.Sprint("k", w, " ", i))
			}
		})
	}
	all.Wait()
	calm.Store(true)
	within(t, "all leave", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Depth+s.Retrying == 0
	})
	next := map[string]int{}
	for _, id := range to.ids() {
		var key string
		var i int
		if _, err := fmt.Sscanf(id, "%s %d", &key, &i); err != nil || i > next[key] {
			t.Fatalf("%q came when number %d of its key was to come (%v)", id, next[key], err)
		}
		next[key] = max(next[key], i+1)
	}
	for w := range writers {
		if n := next[fmt.Sprint("k", w)]; n != each {
			t.Errorf("%d of %d messages of k%d came", n, each, w)
		}
	}
}

// A topic that hangs with more than half a buffer makes one read wait, and not each.
func TestHungTopicIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	box, _ := newOutbox(t, openSQLite(t))
	rooms, err := outbox.Rooms(box)
	if got := fmt.Sprint(rooms); err != nil || got != "[6 20 20 10]" {
		t.Errorf("a read may bring %s messages: %v", got, err)
	}
}

// What holds up a topic is named, also when the topic fails.
func TestHealthyNamesTheCallThatHangs(t *testing.T) {
	t.Parallel()
	to := &gated{}
	f := backlog(t, to, outbox.RelayConfig{Backoff: time.Millisecond, StuckAfter: 20 * time.Millisecond}, keys(100), 1)
	defer to.open()
	to.end(t, to.await(t, 4)[0], errors.New("down"))
	for _, want := range []string{"has not returned", "down"} {
		within(t, want, func() bool {
			err := f.relay.Healthy(context.Background())
			return err != nil && strings.Contains(err.Error(), want)
		})
	}
}

func TestConcurrencyIsValidated(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, outbox.Shards + 1} {
		if err := (outbox.RelayConfig{Concurrency: n}).Validate(); err == nil {
			t.Errorf("%d is taken", n)
		}
	}
	if err := (outbox.RelayConfig{Concurrency: outbox.Shards}).Validate(); err != nil {
		t.Error(err)
	}
}
