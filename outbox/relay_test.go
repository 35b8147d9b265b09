package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// scripted is a publisher that records what its script lets through.
type scripted struct {
	script func(topic string, msgs []*message.Message) error
	mu     sync.Mutex
	taken  []string
}

func (s *scripted) Publish(topic string, msgs ...*message.Message) error {
	if s.script != nil {
		if err := s.script(topic, msgs); err != nil {
			return err
		}
	}
	s.take(msgs...)
	return nil
}

func (s *scripted) take(msgs ...*message.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		s.taken = append(s.taken, m.UUID)
	}
}

func (s *scripted) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

func (s *scripted) Close() error { return nil }

// fixture is a running relay.
type fixture struct {
	db    *gorm.DB
	box   *outbox.Outbox
	unit  *uow.UnitOfWork
	relay *outbox.Relay
	stop  func() error
}

func run(t *testing.T, to message.Publisher, cfg outbox.RelayConfig) *fixture {
	t.Helper()
	return serve(t, openSQLite(t), to, cfg)
}

// serve runs a relay on a database until the test ends.
func serve(t *testing.T, db *gorm.DB, to message.Publisher, cfg outbox.RelayConfig) *fixture {
	t.Helper()
	box, unit := newOutbox(t, db)
	cfg.UnitOfWork = unit
	if cfg.Backoff == 0 {
		cfg.Backoff, cfg.MaxBackoff = time.Millisecond, 20*time.Millisecond
	}
	f := &fixture{db: db, box: box, unit: unit, relay: newRelay(t, box, to, cfg)}
	ctx, cancel := context.WithCancel(context.Background())
	var result error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		result = f.relay.Run(ctx)
	}()
	f.stop = sync.OnceValue(func() error { cancel(); <-ended; return result })
	t.Cleanup(func() { _ = f.stop() })
	return f
}

func (f *fixture) publish(t *testing.T, topic, key string, ids ...string) {
	t.Helper()
	err := f.unit.Do(context.Background(), func(ctx context.Context) error {
		for _, id := range ids {
			m := message.NewMessage(id, []byte(id))
			m.Metadata.Set(outbox.HeaderKey, key)
			m.SetContext(ctx)
			if err := f.box.Publish(topic, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := f.relay.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// within waits until what holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute) // a server lets go of a session that waits for a lock after 50 s
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// partialError says which messages were not published.
type partialError struct{ failed []int }

func (e partialError) Error() string { return fmt.Sprint("failed: ", e.failed) }
func (e partialError) Failed() []int { return e.failed }

func TestPartialFailureIsNotRepeated(t *testing.T) {
	t.Parallel()
	to := &scripted{}
	first := true
	to.script = func(_ string, msgs []*message.Message) error {
		if !first || len(msgs) < 3 {
			return nil
		}
		first = false
		to.take(msgs[0])
		failed := []int{}
		for i := 1; i < len(msgs); i++ {
			failed = append(failed, i)
		}
		return partialError{failed}
	}
	f := run(t, to, outbox.RelayConfig{})
	f.publish(t, "topic", "k", "1", "2", "3")
	f.drain(t)
	if got := fmt.Sprint(to.ids()); got != "[1 2 3]" {
		t.Errorf("published %s", got)
	}
}

// refusedError says that the message is to blame.
type refusedError struct{}

func (refusedError) Error() string { return "too large" }
func (refusedError) Refused() bool { return true }

func TestRefusedMessageNeedsNoProof(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(string, []*message.Message) error { return refusedError{} }}
	f := run(t, to, outbox.RelayConfig{Attempts: 2})
	f.publish(t, "topic", "k", "1")
	within(t, "it is dead", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Dead == 1 && s.Depth == 0 && s.Retrying == 0
	})
}

func TestPanickingPublisherIsAFailure(t *testing.T) {
	t.Parallel()
	n := 0
	to := &scripted{script: func(string, []*message.Message) error {
		if n++; n < 4 {
			panic("boom")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{})
	f.publish(t, "topic", "k", "1", "2")
	f.drain(t)
	if got := fmt.Sprint(to.ids()); got != "[1 2]" {
		t.Errorf("published %s", got)
	}
}

func TestUnreadableHeadersBecomeDead(t *testing.T) {
	t.Parallel()
	to := &scripted{}
	f := run(t, to, outbox.RelayConfig{Attempts: 2})
	f.relay.Pause()
	f.publish(t, "topic", "k", "1", "2")
	err := f.unit.Do(context.Background(), func(ctx context.Context) error {
		return uow.DB(ctx).Exec("UPDATE outbox SET headers = 'rubbish' WHERE id = '1'").Error
	})
	if err != nil {
		t.Fatal(err)
	}
	// What was read before the change is in memory; another relay would read it anew.
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	relay := newRelay(t, f.box, to, outbox.RelayConfig{UnitOfWork: f.unit, Attempts: 2, Backoff: time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := relay.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	within(t, "the second leaves after the first has died", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Dead == 1 && fmt.Sprint(to.ids()) == "[2]"
	})
	cancel()
	all.Wait()
}

func TestMessageContextEndsAfterGrace(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		close(entered)
		<-msgs[0].Context().Done()
		return msgs[0].Context().Err()
	}}
	f := run(t, to, outbox.RelayConfig{Grace: time.Second})
	f.publish(t, "topic", "k", "1")
	<-entered
	if err := f.stop(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	s, err := f.box.Stats(context.Background())
	if err != nil || s.Depth != 1 || s.Shards[0].Owner != "" {
		t.Errorf("depth %d, owner %q, %v", s.Depth, s.Shards[0].Owner, err)
	}
}

func TestStopLetsPublishFinish(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	to := &scripted{script: func(string, []*message.Message) error { close(entered); <-gate; return nil }}
	f := run(t, to, outbox.RelayConfig{})
	f.publish(t, "topic", "k", "1")
	<-entered
	stopped := make(chan error)
	go func() { stopped <- f.stop() }()
	close(gate)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if s, err := f.box.Stats(context.Background()); err != nil || s.Depth != 0 {
		t.Errorf("depth %d, %v: published, yet not deleted", s.Depth, err)
	}
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	broken := errors.New("broken")
	to := &scripted{script: func(string, []*message.Message) error { mu.Lock(); defer mu.Unlock(); return broken }}
	f := run(t, to, outbox.RelayConfig{StuckAfter: 20 * time.Millisecond})
	ctx := context.Background()
	within(t, "it runs", func() bool { return f.relay.Healthy(ctx) == nil })
	f.publish(t, "topic", "k", "1")
	within(t, "it complains of the topic", func() bool {
		err := f.relay.Healthy(ctx)
		return errors.Is(err, outbox.ErrStuck) && errors.Is(err, broken)
	})
	mu.Lock()
	broken = nil
	mu.Unlock()
	f.drain(t)
	within(t, "it is well again", func() bool { return f.relay.Healthy(ctx) == nil })
	if err := f.relay.Run(ctx); !errors.Is(err, outbox.ErrRunning) {
		t.Errorf("Run twice: %v", err)
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if err := f.relay.Healthy(ctx); !errors.Is(err, outbox.ErrStuck) {
		t.Errorf("stopped: %v", err)
	}
}

func TestHealthyNoticesAHang(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	to := &scripted{script: func(string, []*message.Message) error { <-gate; return nil }}
	f := run(t, to, outbox.RelayConfig{StuckAfter: 10 * time.Millisecond})
	f.publish(t, "topic", "k", "1")
	within(t, "it complains", func() bool { return errors.Is(f.relay.Healthy(context.Background()), outbox.ErrStuck) })
	close(gate)
	f.drain(t)
}

func TestDrainEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{}, outbox.RelayConfig{})
	f.relay.Pause()
	f.publish(t, "topic", "k", "1")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := f.relay.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestListenWakes(t *testing.T) {
	t.Parallel()
	wakes := make(chan func(), 1)
	to := &scripted{}
	f := run(t, to, outbox.RelayConfig{MaxPoll: time.Hour, Listen: func(ctx context.Context, wake func()) error {
		wakes <- wake
		<-ctx.Done()
		return ctx.Err()
	}})
	wake := <-wakes
	within(t, "it has leases", func() bool { return f.relay.Healthy(context.Background()) == nil })
	// A commit that this process's relay does not hear of, as another process's would be.
	other, err := outbox.New(f.db, outbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	err = f.unit.Do(context.Background(), func(ctx context.Context) error {
		m := message.NewMessage("1", nil)
		m.SetContext(ctx)
		return other.Publish("topic", m)
	})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "it leaves", func() bool { wake(); return len(to.ids()) == 1 })
}

func TestRunAgain(t *testing.T) {
	t.Parallel()
	to := &scripted{}
	f := run(t, to, outbox.RelayConfig{})
	f.publish(t, "topic", "k", "1")
	f.drain(t)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	f.publish(t, "topic", "k", "2")
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := f.relay.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	f.drain(t)
	cancel()
	all.Wait()
	if got := fmt.Sprint(to.ids()); got != "[1 2]" {
		t.Errorf("published %s", got)
	}
}

// A refused message whose key fills the topic's memory must not pass for a publisher that is down.
func TestRefusedMessageInFrontOfAFullBuffer(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if slices.ContainsFunc(msgs, func(m *message.Message) bool { return m.UUID == "bad" }) {
			return errors.New("refused")
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Batch: 2, Buffer: 4, Attempts: 3})
	ids := []string{"bad"}
	for i := range 20 {
		ids = append(ids, fmt.Sprint("k", i))
	}
	f.publish(t, "topic", "k", ids...)
	n := 0
	within(t, "the message is dead and its key goes on", func() bool {
		f.publish(t, "topic", "other", fmt.Sprint("other", n))
		n++
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Dead == 1 && slices.Contains(to.ids(), "k19")
	})
	f.drain(t)
	var got []string
	for _, id := range to.ids() {
		if id[0] == 'k' {
			got = append(got, id)
		}
	}
	if !slices.Equal(got, ids[1:]) {
		t.Errorf("published %v", got)
	}
}
