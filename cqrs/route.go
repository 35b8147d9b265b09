package cqrs

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

type routeKey struct {
	topic, name string
	reply       bool
}

// A route is what the group does with the messages of a type on a topic.
type route struct {
	entry    *typeEntry // nil: not in the catalog
	handlers []*handler
	decode   bool // a handler wants the message decoded
	batch    bool // a handler wants many at once
	skipDead bool
	locks    bool          // a handler declares locks
	limit    time.Duration // the longest deadline of its handlers; 0: none
	command  *handler      // the one that answers, nil for events and raw consumers
	paused   atomic.Int64
}

func (r *runner) routeOf(d *Delivery) *route {
	k := routeKey{topic: d.Topic, name: d.Envelope.Type, reply: d.Envelope.Kind == KindReply}
	if r.p.sender.catalog.byName[k.name] == nil {
		k.name = "" // unknown types share a route
	}
	if v, ok := r.routes.Load(k); ok {
		return v.(*route)
	}
	v, _ := r.routes.LoadOrStore(k, r.makeRoute(k))
	return v.(*route)
}

func (r *runner) makeRoute(k routeKey) *route {
	rt := &route{}
	if e := r.p.sender.catalog.byName[k.name]; e != nil {
		rt.entry = e
		if !k.reply {
			r.p.mu.Lock()
			rt.handlers = append(rt.handlers, r.p.types[e.Go]...)
			r.p.mu.Unlock()
			if e.Kind == KindCommand && len(rt.handlers) > 0 {
				rt.command = rt.handlers[0]
			}
			rt.handlers = append(rt.handlers, r.byName[k.name]...)
			rt.decode = len(rt.handlers) > 0
		}
	}
	rt.handlers = once(append(rt.handlers, r.byTopic[k.topic]...))
	for i, h := range rt.handlers {
		rt.batch = rt.batch || h.many != nil
		rt.skipDead = rt.skipDead || h.skipDead
		rt.locks = rt.locks || h.locks != nil
		limit := max(cmp.Or(h.timeout, r.p.cfg.HandlerTimeout), 0)
		if limit == 0 || i > 0 && rt.limit == 0 {
			rt.limit = 0
		} else {
			rt.limit = max(rt.limit, limit)
		}
	}
	return rt
}

// once returns each handler once: a consumer may have several sources of the same message.
func once(hs []*handler) []*handler {
	var distinct []*handler
	for _, h := range hs {
		if !slices.Contains(distinct, h) {
			distinct = append(distinct, h)
		}
	}
	return distinct
}

// pause keeps the route's messages from running for d.
func (rt *route) pause(d time.Duration) { rt.paused.Store(time.Now().Add(d).UnixNano()) }

// pausedFor says how much longer the route is paused, 0 if it is not.
func (rt *route) pausedFor() time.Duration {
	until := rt.paused.Load()
	if until == 0 {
		return 0
	}
	return max(0, time.Duration(until-time.Now().UnixNano()))
}
