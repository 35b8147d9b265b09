package cqrs

import (
	"context"
	"sync"
)

// gates holds the topics whose intake is paused. Its zero value lets everything through.
type gates struct {
	mu      sync.Mutex
	paused  map[string]bool
	changed chan struct{} // closed by every change
}

// wait returns when the topic is not paused, false when ctx has ended. changed is closed when that may be over.
func (g *gates) wait(ctx context.Context, topic string) (changed <-chan struct{}, ok bool) {
	for {
		paused, changed := g.look(topic)
		if !paused {
			return changed, ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

func (g *gates) look(topic string) (paused bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.paused[topic], g.changed
}

func (g *gates) set(topic string, paused bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paused == nil {
		g.paused = map[string]bool{}
	}
	g.paused[topic] = paused
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// Pause stops the intake of a topic; what was taken in before is finished, and parked messages go on.
// It holds until Resume, over runs too.
func (p *Processor) Pause(topic string) { p.gates.set(topic, true) }

// Resume lets a paused topic go on.
func (p *Processor) Resume(topic string) { p.gates.set(topic, false) }
