package effect_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs/effect"
)

// A tardy store renews a lease in a transaction that sees the lease before it ends, and commits after that. The beats
// before do not get there.
type tardy struct {
	*memory
	n atomic.Int32
}

func (s *tardy) Beat(ctx context.Context, owner string, lease time.Duration) ([]*effect.Record, error) {
	s.mu.Lock()
	left := time.Until(s.owners[owner])
	s.mu.Unlock()
	switch {
	case s.n.Add(1) == 1 || lease <= 0 || left <= 0:
		return s.memory.Beat(ctx, owner, lease)
	case left > time.Second:
		return nil, errors.New("away")
	}
	held, err := s.memory.Beat(ctx, owner, left)
	time.Sleep(left + time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[owner] = time.Now().Add(lease)
	return held, err
}

// While a lease is renewed too late, another runner takes the intents that wait behind it.
func TestRule34_ARenewalThatCommitsTooLateIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.takes = 8 * time.Second
		h, stop := w.startOn(&tardy{memory: w.store}, effect.Config{Concurrency: 1}, w.effect())
		defer stop()
		time.Sleep(15 * time.Second)
		w.must(w.send(h, "1", 5))
		w.must(w.send(h, "2", 5))
		_, stop2 := w.start(effect.Config{}, w.effect())
		defer stop2()
		time.Sleep(time.Minute)
		w.wantCalls("call key-1, call key-2")
		w.wantState(0, 0)
	})
}
