package cqrs_test

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// parking and letters give the two stores method sets of their own.
type (
	parking struct{ *db }
	letters struct{ *db }
)

func (p parking) Parked(_ context.Context, group string, queues []string) ([]bool, error) {
	found := make([]bool, len(queues))
	for i, q := range queues {
		found[i] = slices.ContainsFunc(p.state.parked, func(r parkedRow) bool { return r.Group == group && r.Queue == q })
	}
	return found, nil
}

func (p parking) find(m *cqrs.Parked) int {
	return slices.IndexFunc(p.state.parked, func(r parkedRow) bool { return r.Group == m.Group && r.ID == m.ID })
}

func (p parking) Append(_ context.Context, ms []*cqrs.Parked) error {
	for _, m := range ms {
		if p.find(m) < 0 {
			p.state.parked = append(p.state.parked, parkedRow{Parked: *m, due: time.Now().Add(m.Delay)})
		}
	}
	return nil
}

func (p parking) Lease(_ context.Context, group string, limit int, ttl time.Duration) ([]*cqrs.Parked, error) {
	var due []*cqrs.Parked
	closed := map[string]bool{}
	now := time.Now()
	for i := range p.state.parked {
		r := &p.state.parked[i]
		if r.Group != group || closed[r.Queue] || len(due) == limit {
			continue
		}
		if r.Blocked || r.due.After(now) || r.until.After(now) {
			closed[r.Queue] = true
			continue
		}
		r.until, r.Lease = now.Add(ttl), fmt.Sprint(now.UnixNano())
		m := r.Parked
		due = append(due, &m)
	}
	return due, nil
}

func (p parking) Reschedule(_ context.Context, ms []*cqrs.Parked) error {
	for _, m := range ms {
		i := p.find(m)
		if i < 0 {
			continue
		}
		if m.Lease != "" && m.Lease != p.state.parked[i].Lease {
			return cqrs.ErrLeaseLost
		}
		row := parkedRow{Parked: *m, due: time.Now().Add(m.Delay)}
		row.Lease = ""
		p.state.parked[i] = row
	}
	return nil
}

func (p parking) Consume(_ context.Context, ms []*cqrs.Parked) error {
	for _, m := range ms {
		i := p.find(m)
		if m.Lease != "" && (i < 0 || m.Lease != p.state.parked[i].Lease) {
			return cqrs.ErrLeaseLost
		}
		if i < 0 {
			continue
		}
		p.state.parked = slices.Delete(p.state.parked, i, i+1)
	}
	return nil
}

func (l letters) Put(_ context.Context, ls []*cqrs.DeadLetter) error {
	for _, d := range ls {
		if l.state.dead[d.ID].state != "dead" {
			l.state.dead[d.ID] = deadRow{*d, "dead"}
		}
	}
	return nil
}

func (l letters) Get(_ context.Context, _ string, ids []string) (found []*cqrs.DeadLetter, err error) {
	for _, id := range ids {
		if d, ok := l.state.dead[id]; ok {
			found = append(found, &d.DeadLetter)
		}
	}
	return found, nil
}

func (l letters) Replay(_ context.Context, _ string, ids []string) (turned []*cqrs.DeadLetter, err error) {
	for _, id := range ids {
		if d, ok := l.state.dead[id]; ok && d.state == "dead" {
			d.state = "replaying"
			l.state.dead[id] = d
			turned = append(turned, &d.DeadLetter)
		}
	}
	return turned, nil
}

func (l letters) Resolve(_ context.Context, _ string, ids []string) error {
	for _, id := range ids {
		delete(l.state.dead, id)
	}
	return nil
}
