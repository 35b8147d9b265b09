package cqrs

import (
	"context"
	"sync"
)

// gates holds the topics whose intake is paused. Its zero value lets everything through.
type gates struct {
	mu     sync.Mutex
	closed map[string]chan struct{} // closed channel: open gate
}

// wait returns when the topic is not paused, false when ctx has ended.
func (g *gates) wait(ctx context.Context, topic string) bool {
	g.mu.Lock()
	opened := g.closed[topic]
	g.mu.Unlock()
	if opened == nil {
		return ctx.Err() == nil
	}
	select {
	case <-opened:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Pause stops the intake of a topic; what was taken in before is finished. It holds until Resume, over runs too.
func (p *Processor) Pause(topic string) {
	g := &p.gates
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == nil {
		g.closed = map[string]chan struct{}{}
	}
	if g.closed[topic] == nil {
		g.closed[topic] = make(chan struct{})
	}
}

// Resume lets a paused topic go on.
func (p *Processor) Resume(topic string) {
	g := &p.gates
	g.mu.Lock()
	defer g.mu.Unlock()
	if ch := g.closed[topic]; ch != nil {
		close(ch)
		delete(g.closed, topic)
	}
}
