package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/idempotency"
)

// ErrNotRunning is returned by Ready before Run, while that stops, and after it.
var ErrNotRunning = errors.New("host: the service does not run")

// Ready reports why the service should get no traffic yet, or any more; nil when it should: it runs, its groups
// have subscribed, its database answers and its messages leave. A group that has subscribed in an earlier Run counts as
// subscribed from the start of the next one.
func (s *Service) Ready(ctx context.Context) error {
	l := s.life.Load()
	if l == nil {
		return fmt.Errorf("%w: %s", ErrNotRunning, s.name)
	}
	if l.stopping.Load() {
		return fmt.Errorf("%w any more: %s stops", ErrNotRunning, s.name)
	}
	for _, p := range s.running() {
		select {
		case <-p.Running():
		default:
			return fmt.Errorf("%w: the group %s of %s has not subscribed yet", ErrNotRunning, p.Group(), s.name)
		}
	}
	pool, err := s.db.DB()
	if err == nil {
		err = pool.PingContext(ctx)
	}
	if err != nil {
		return fmt.Errorf("host: the database of %s: %w", s.name, err)
	}
	if s.Relay == nil {
		if err := s.Pruner.Healthy(ctx); err != nil {
			return fmt.Errorf("host: the pruner of %s: %w", s.name, err)
		}
		return nil
	}
	if err := s.Relay.Healthy(ctx); err != nil {
		return fmt.Errorf("host: the relay of %s: %w", s.name, err)
	}
	return nil
}

func (s *Service) running() []*cqrs.Processor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups)
}

// purge adapts a method to idempotency.Purger.
type purge func(ctx context.Context, limit int) (int, error)

// Purge calls the method.
func (p purge) Purge(ctx context.Context, limit int) (int, error) { return p(ctx, limit) }

// sweeper deletes what is past its retention.
func (s *Service) sweeper() *idempotency.Sweeper {
	purgers := []idempotency.Purger{s.Keys, s.inbox, purge(func(ctx context.Context, limit int) (int, error) {
		return gormstore.Crashes{}.Purge(ctx, s.inboxRetention(), limit)
	})}
	if s.cfg.DeadRetention > 0 {
		purgers = append(purgers, purge(func(ctx context.Context, limit int) (int, error) {
			return s.DeadLetters.Purge(ctx, s.cfg.DeadRetention, limit)
		}))
	}
	sw, err := idempotency.NewSweeper(s.Work, s.cfg.Sweeper, purgers...)
	if err != nil { // impossible: Open has validated the configuration
		panic(err)
	}
	return sw
}

// unheard drains the event topics that no group reads, if the service has a bus of its own: an event that nobody
// hears is no error, unlike a command that nobody handles.
func (s *Service) unheard() *drainer {
	if s.own == nil {
		return nil
	}
	heard := map[string]bool{}
	for _, p := range s.groups {
		for _, t := range p.Topics() {
			heard[t] = true
		}
	}
	commands := map[string]bool{}
	for _, t := range s.Processor.Catalog().Types() {
		commands[t.Topic] = commands[t.Topic] || t.Kind == cqrs.KindCommand
	}
	var topics []string
	for _, t := range s.Processor.Catalog().Types() {
		if !heard[t.Topic] && !commands[t.Topic] {
			heard[t.Topic] = true
			topics = append(topics, t.Topic)
		}
	}
	if len(topics) == 0 {
		return nil
	}
	return &drainer{bus: s.own, group: s.name + ".unheard", topics: topics}
}
