package cqrs_test

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
)

func pkey(group, id string) string { return "parked/" + group + "/" + id }

// queue returns the visible rows of a queue, in order.
func (tx *modelTx) queue(q string) (all []*modelParked) {
	for k := range tx.db.rows {
		if strings.HasPrefix(k, "parked/") {
			if v, _ := tx.get(k).(*modelParked); v != nil && v.Queue == q {
				all = append(all, v)
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].seq < all[j].seq })
	return all
}

func (tx *modelTx) lockHead(q string) (bool, error) {
	for {
		rows := tx.queue(q)
		if len(rows) == 0 {
			return false, nil
		}
		k := pkey(rows[0].Group, rows[0].ID)
		if err := tx.lock(k); err != nil {
			return false, err
		}
		if now := tx.queue(q); len(now) > 0 && now[0].ID == rows[0].ID {
			return true, nil
		}
	}
}

func (p *modelProcess) Parked(ctx context.Context, group string, queues []string) ([]bool, error) {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	found := make([]bool, len(queues))
	for i, q := range queues {
		if found[i], err = tx.lockHead(q); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (p *modelProcess) Append(ctx context.Context, ms []*cqrs.Parked) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var qs []string
	for _, m := range ms {
		qs = append(qs, m.Queue)
	}
	sort.Strings(qs)
	for _, q := range qs {
		if _, err := tx.lockHead(q); err != nil {
			return err
		}
	}
	for _, m := range ms {
		k := pkey(m.Group, m.ID)
		if err := tx.lock(k); err != nil {
			return err
		}
		if v, _ := tx.get(k).(*modelParked); v != nil {
			continue
		}
		p.seq++
		r := &modelParked{Parked: *m, seq: p.seq, due: time.Now().Add(max(0, m.Delay))}
		r.Lease = ""
		tx.put(k, r)
	}
	return nil
}

func (p *modelProcess) Lease(ctx context.Context, group string, limit int, ttl time.Duration) ([]*cqrs.Parked, error) {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	now := time.Now()
	byQueue := map[string][]*modelParked{}
	for k, r := range p.rows {
		if v, _ := r.val.(*modelParked); v != nil && strings.HasPrefix(k, "parked/") {
			byQueue[v.Queue] = append(byQueue[v.Queue], v)
		}
	}
	var queues []string
	for q, rows := range byQueue {
		sort.Slice(rows, func(i, j int) bool { return rows[i].seq < rows[j].seq })
		h := rows[0]
		if r := p.row(pkey(h.Group, h.ID)); r.lock != nil || h.Blocked || h.due.After(now) || h.until.After(now) {
			continue
		}
		if p.strict {
			leased := false
			for _, r := range rows {
				leased = leased || r.until.After(now)
			}
			if leased {
				continue
			}
		}
		queues = append(queues, q)
	}
	sort.Slice(queues, func(i, j int) bool { return byQueue[queues[i]][0].due.Before(byQueue[queues[j]][0].due) })
	if len(queues) > limit {
		queues = queues[:limit]
	}
	for _, q := range queues {
		h := byQueue[q][0]
		if err := tx.lock(pkey(h.Group, h.ID)); err != nil { // it is free
			return nil, err
		}
	}
	var run []*modelParked
	rank := 1 + limit/max(1, len(queues))
	closed := map[string]bool{}
	for i := 0; i < rank && len(run) < limit; i++ {
		for _, q := range queues {
			if len(run) == limit || closed[q] || i >= len(byQueue[q]) {
				continue
			}
			r := byQueue[q][i]
			if r.Blocked || r.due.After(now) || r.until.After(now) {
				closed[q] = true
				continue
			}
			run = append(run, r)
		}
	}
	p.leases++
	name := fmt.Sprint("lease", p.leases)
	due := make([]*cqrs.Parked, len(run))
	for i, r := range run {
		m := r.Parked
		m.Lease = name
		due[i] = &m
	}
	for _, r := range run { // may wait: a follower is not locked
		k := pkey(r.Group, r.ID)
		if err := tx.lock(k); err != nil {
			return nil, err
		}
		v, _ := tx.get(k).(*modelParked)
		if v == nil {
			continue
		}
		c := *v
		c.Lease, c.until = name, time.Now().Add(ttl)
		tx.put(k, &c)
	}
	tx.wrote = false // faults are for lanes
	return due, nil
}

func (p *modelProcess) Reschedule(ctx context.Context, ms []*cqrs.Parked) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for _, m := range ms {
		k := pkey(m.Group, m.ID)
		if err := tx.lock(k); err != nil {
			return err
		}
		v, _ := tx.get(k).(*modelParked)
		if m.Lease != "" && (v == nil || v.Lease != m.Lease) {
			return fmt.Errorf("reschedule: %w", cqrs.ErrLeaseLost)
		}
		if v == nil {
			continue
		}
		c := *v
		c.Attempt, c.Failures, c.Blocked, c.Dead = m.Attempt, m.Failures, m.Blocked, m.Dead
		c.Payload, c.Metadata = m.Payload, m.Metadata
		c.due, c.Lease, c.until = time.Now().Add(max(0, m.Delay)), "", time.Time{}
		tx.put(k, &c)
	}
	return nil
}

func (p *modelProcess) Consume(ctx context.Context, ms []*cqrs.Parked) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	var free []string
	for _, m := range ms {
		if m.Lease == "" {
			free = append(free, m.Queue)
		}
	}
	sort.Strings(free)
	for _, q := range free {
		if _, err := tx.lockHead(q); err != nil {
			return err
		}
	}
	for _, m := range ms {
		k := pkey(m.Group, m.ID)
		if err := tx.lock(k); err != nil {
			return err
		}
		v, _ := tx.get(k).(*modelParked)
		if m.Lease != "" && (v == nil || v.Lease != m.Lease) {
			return fmt.Errorf("consume: %w", cqrs.ErrLeaseLost)
		}
		if v != nil {
			tx.put(k, nil)
		}
	}
	return nil
}

type modelLetters struct{ *modelProcess }

func lkey(group, id string) string { return "letter/" + group + "/" + id }

func (p modelLetters) Put(ctx context.Context, ls []*cqrs.DeadLetter) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for _, l := range ls {
		k := lkey(l.Group, l.ID)
		if err := tx.lock(k); err != nil {
			return err
		}
		if v, _ := tx.get(k).(*modelLetter); v == nil || v.state != "dead" {
			tx.put(k, &modelLetter{*l, "dead"})
		}
	}
	return nil
}

func (p modelLetters) Get(ctx context.Context, group string, ids []string) (found []*cqrs.DeadLetter, err error) {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	for _, id := range ids {
		if v, _ := tx.get(lkey(group, id)).(*modelLetter); v != nil {
			l := v.DeadLetter
			found = append(found, &l)
		}
	}
	return found, nil
}

func (p modelLetters) Replay(ctx context.Context, group string, ids []string) (turned []*cqrs.DeadLetter, err error) {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	for _, id := range ids {
		k := lkey(group, id)
		if err := tx.lock(k); err != nil {
			return nil, err
		}
		if v, _ := tx.get(k).(*modelLetter); v != nil && v.state == "dead" {
			c := *v
			c.state = "replaying"
			tx.put(k, &c)
			l := v.DeadLetter
			turned = append(turned, &l)
		}
	}
	return turned, nil
}

func (p modelLetters) Resolve(ctx context.Context, group string, ids []string) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for _, id := range ids {
		k := lkey(group, id)
		if err := tx.lock(k); err != nil {
			return err
		}
		tx.put(k, nil)
	}
	return nil
}

// deadLetters returns the IDs of those that are there.
func (d *modelDB) deadLetters() (ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.rows {
		if l, ok := r.val.(*modelLetter); ok && l.state == "dead" {
			ids = append(ids, l.ID)
		}
	}
	return ids
}
