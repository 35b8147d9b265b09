package projection_test

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/projection"
)

// An archive hands messages on and then notes, as an outbox's relay does, what was published: the position is
// given before, the message is there after.
type archive struct {
	to     message.Publisher
	before func()                      // called before each message that is read
	hold   func(n int) <-chan struct{} // what the noting of the n-th message waits for; nil: nothing

	mu       sync.Mutex
	last     int64
	messages []noted
	places   map[string]int64
	reads    int
}

type noted struct {
	projection.Archived
	at time.Time
}

func (a *archive) Publish(topic string, ms ...*message.Message) error {
	a.mu.Lock()
	first := a.last
	a.last += int64(10 * len(ms))
	a.mu.Unlock()
	if err := a.to.Publish(topic, ms...); err != nil {
		return err
	}
	for i, m := range ms {
		n := noted{Archived: projection.Archived{Position: first + int64(10*i), Topic: topic, Message: m}}
		if a.hold != nil {
			if until := a.hold(int(n.Position / 10)); until != nil {
				go func() { <-until; a.note(n) }()
				continue
			}
		}
		a.note(n)
	}
	return nil
}

func (a *archive) note(n noted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n.at = time.Now()
	a.messages = append(a.messages, n)
	slices.SortFunc(a.messages, func(x, y noted) int { return cmp.Compare(x.Position, y.Position) })
	a.places[n.Message.UUID] = n.Position
}

func (a *archive) Close() error { return nil }

func (a *archive) read(ctx context.Context, q projection.ArchiveQuery) iter.Seq2[projection.Archived, error] {
	return func(yield func(projection.Archived, error) bool) {
		a.mu.Lock()
		all := slices.Clone(a.messages)
		a.reads++
		a.mu.Unlock()
		for _, m := range all {
			if m.Position <= q.After || m.at.Before(q.Since) {
				continue
			}
			if a.before != nil {
				a.before()
			}
			m.Message = m.Message.Copy()
			if ctx.Err() != nil || !yield(m.Archived, nil) {
				return
			}
		}
	}
}

func (a *archive) timesRead() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reads
}

// archived has everything that the world publishes archived.
func (w *world) archived() *archive {
	w.t.Helper()
	a := &archive{to: w.bus, places: map[string]int64{}}
	w.archive = a
	var err error
	w.sender, err = cqrs.NewSender(w.catalog, a, cqrs.SenderConfig{})
	must(w.t, err)
	return a
}

type archiveSeq = iter.Seq2[projection.Archived, error]
