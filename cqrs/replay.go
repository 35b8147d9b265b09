package cqrs

import (
	"context"
	"errors"
	"fmt"
)

var errNoDeadLetters = errors.New("cqrs: the processor has no dead letters")

// Replay has dead letters of this group run again: same ID, through their key's lane, with a fresh count of attempts.
// What waits behind them waits until they have run. A letter that another replay took is left alone. It returns how
// many it started; it may join a transaction, and it needs Parking, where they wait until the processor, here or in
// another process, takes them. The payload is what the store holds: if it was edited it is validated again like any
// other message.
func (p *Processor) Replay(ctx context.Context, ids ...string) (int, error) {
	if p.cfg.DeadLetters == nil || p.cfg.Parking == nil {
		return 0, fmt.Errorf("%w or no parking", errNoDeadLetters)
	}
	n := 0
	err := p.do(ctx, func(ctx context.Context) error {
		ls, err := p.cfg.DeadLetters.Replay(ctx, p.group, ids)
		n = len(ls)
		if err != nil || n == 0 {
			return err
		}
		again := make([]*Parked, n)
		for i, l := range ls {
			again[i] = &Parked{Record: l.Record, Dead: true}
			again[i].Attempt = 0
		}
		if err := p.cfg.Parking.Append(ctx, again); err != nil {
			return err
		}
		return p.cfg.Parking.Reschedule(ctx, again) // those that were there already, blocking
	})
	if err != nil {
		return 0, fmt.Errorf("cqrs: replay: %w", err)
	}
	p.wakeParked()
	return n, nil
}

// Discard ends dead letters without running them, and lets what waited behind them go on. It returns how many there
// were; it may join a transaction.
func (p *Processor) Discard(ctx context.Context, ids ...string) (int, error) {
	if p.cfg.DeadLetters == nil {
		return 0, errNoDeadLetters
	}
	n := 0
	err := p.do(ctx, func(ctx context.Context) error {
		ls, err := p.cfg.DeadLetters.Get(ctx, p.group, ids)
		n = len(ls)
		if err != nil || n == 0 {
			return err
		}
		twins := make([]*Parked, n) // those that block their queue, or are being replayed; others have none
		found := make([]string, n)
		for i, l := range ls {
			found[i] = l.ID
			twins[i] = &Parked{Record: l.Record}
		}
		if p.cfg.Parking != nil {
			if err := p.cfg.Parking.Consume(ctx, twins); err != nil {
				return err
			}
		}
		return p.cfg.DeadLetters.Resolve(ctx, p.group, found)
	})
	if err != nil {
		return 0, fmt.Errorf("cqrs: discard: %w", err)
	}
	p.wakeParked()
	return n, nil
}

func (p *Processor) wakeParked() {
	if r := p.current.Load(); r != nil {
		r.wake(0)
	}
}
