package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/outbox"
)

// sent records when notifications were sent, since the beginning of the test.
type sent struct {
	began time.Time
	takes time.Duration
	err   error

	mu sync.Mutex
	at []time.Duration
}

func (s *sent) send(context.Context) error {
	s.mu.Lock()
	s.at = append(s.at, time.Since(s.began))
	s.mu.Unlock()
	time.Sleep(s.takes)
	return s.err
}

func (s *sent) expect(t *testing.T, at ...time.Duration) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if fmt.Sprint(s.at) != fmt.Sprint(at) {
		t.Errorf("sent at %v, expected %v", s.at, at)
	}
}

func TestNotifierCoalesces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const window = outbox.NotifyWindow
		s := &sent{began: time.Now()}
		notify, end := outbox.NewNotifier(s.send)
		notify()
		s.expect(t, 0)
		for range 100 {
			notify()
		}
		time.Sleep(window - 1)
		s.expect(t, 0)
		time.Sleep(time.Nanosecond)
		s.expect(t, 0, window)
		time.Sleep(10 * window) // nothing was committed since
		s.expect(t, 0, window)
		notify()
		s.expect(t, 0, window, 11*window)
		end()
		notify()
		time.Sleep(10 * window)
		s.expect(t, 0, window, 11*window)
	})
}

// A commit during a call may have come too late for the listener that the call wakes.
func TestNotifierRepeatsForCommitsDuringACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const window = outbox.NotifyWindow
		s := &sent{began: time.Now(), takes: 3 * window}
		notify, end := outbox.NewNotifier(s.send)
		notify()
		time.Sleep(window)
		notify()
		time.Sleep(10 * window)
		s.expect(t, 0, 4*window)
		end()
	})
}

func TestNotifierRestsAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sent{began: time.Now(), err: errors.New("down")}
		notify, end := outbox.NewNotifier(s.send)
		notify()
		synctest.Wait()
		notify()
		time.Sleep(10 * outbox.NotifyRest)
		s.expect(t, 0, outbox.NotifyRest)
		end()
	})
}

func TestNotifierSendsWhatIsPendingAsItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sent{began: time.Now()}
		notify, end := outbox.NewNotifier(s.send)
		notify()
		synctest.Wait()
		notify()
		end()
		end()
		s.expect(t, 0, 0)
	})
}

func TestNotifierGivesUpOnACallThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		notify, end := outbox.NewNotifier(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		notify()
		end()
		if d := time.Since(began); d != outbox.NotifyTimeout {
			t.Errorf("it took %v", d)
		}
	})
}
