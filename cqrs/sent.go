package cqrs

import (
	"context"
	"slices"
	"sync"
)

type sentKey struct{}

// Sent collects the IDs of messages as they are sent. It is safe for concurrent use.
type Sent struct {
	mu  sync.Mutex
	ids []string
}

// IDs returns the IDs so far, in the order in which the messages were sent.
func (s *Sent) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// Collect returns a context whose messages' IDs are collected: what a writer waits for before it reads a model that
// is built from its events. Call it inside the handler, or inside the function given to a unit of work: both may run
// again, and the messages of a run that was undone are never seen.
func Collect(ctx context.Context) (context.Context, *Sent) {
	s := &Sent{}
	return context.WithValue(ctx, sentKey{}, s), s
}

func collect(ctx context.Context, id string) {
	if s, ok := ctx.Value(sentKey{}).(*Sent); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ids = append(s.ids, id)
	}
}
