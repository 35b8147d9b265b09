package unit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/outbox/uow"
)

// afterCommit publishes as it is done all too often: when the transaction has committed, from a queue in memory, in the
// background, a few at a time as asynchronous producers do. Nothing remembers what was in the queue when the
// process died.
type afterCommit struct {
	to     message.Publisher
	logger *slog.Logger

	mu    sync.Mutex
	queue []letter
	ready chan struct{}
}

// gather is how long a message waits for company, as in the defaults of asynchronous producers.
const gather = 100 * time.Millisecond

// few is how many messages are under way at once. The others wait in memory, where a crash finds them.
const few = 16

type letter struct {
	topic string
	m     *message.Message
}

func newAfterCommit(to message.Publisher, logger *slog.Logger) *afterCommit {
	return &afterCommit{to: to, logger: logger, ready: make(chan struct{}, 1)}
}

// Publish implements message.Publisher.
func (a *afterCommit) Publish(topic string, msgs ...*message.Message) error {
	for _, m := range msgs {
		post := func() { a.post(letter{topic, m}) }
		if !uow.In(m.Context()) {
			post()
		} else if err := uow.AfterCommit(m.Context(), post); err != nil {
			return err
		}
	}
	return nil
}

// Close implements message.Publisher.
func (a *afterCommit) Close() error { return nil }

func (a *afterCommit) post(l letter) {
	a.mu.Lock()
	a.queue = append(a.queue, l)
	a.mu.Unlock()
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// Run implements Part.
func (a *afterCommit) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.ready:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gather):
		}
		for batch := a.take(); len(batch) > 0 && ctx.Err() == nil; batch = a.take() {
			a.publish(ctx, batch)
		}
	}
}

func (a *afterCommit) take() []letter {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(few, len(a.queue))
	batch := a.queue[:n:n]
	a.queue = a.queue[n:]
	return batch
}

// publish sends a batch, one call for each topic at the same time, in order.
func (a *afterCommit) publish(ctx context.Context, batch []letter) {
	byTopic := map[string][]*message.Message{}
	for _, l := range batch {
		l.m.SetContext(ctx)
		byTopic[l.topic] = append(byTopic[l.topic], l.m)
	}
	var wg sync.WaitGroup
	for topic, msgs := range byTopic {
		wg.Go(func() {
			if err := a.to.Publish(topic, msgs...); err != nil {
				a.logger.Warn("messages are gone", "topic", topic, "error", err)
			}
		})
	}
	wg.Wait()
}
