package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// A chore is what one loop of a relay does, round by round.
type chore int

const (
	choreRead chore = iota
	choreDelete
	choreSchedule
	choreRetry
	choreLease
	chores
)

func (c chore) String() string {
	return [...]string{
		"read messages", "delete what it published", "move scheduled messages that are due", "tend its retries",
		"renew its leases",
	}[c]
}

// errLocked is why messages that are due do not move while another transaction has them.
var errLocked = errors.New("outbox: another transaction has locked the messages that are due")

// health is what a relay knows of its own state. Relay.mu guards it.
type health struct {
	pulses  [chores]pulse
	lacking time.Time // since when another relay has shards that should be ours; zero: none has
	waiting int64     // old messages in such shards
}

// A pulse tells how a chore does.
type pulse struct {
	busy    time.Time // when the round under way began; zero between rounds
	failing time.Time // when the first of the failures in a row was noticed; zero after a success
	err     error     // of the last round
}

// begin notes that a round of a chore begins.
func (r *Relay) begin(c chore) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.health.pulses[c].busy = time.Now()
}

// end notes how a round has ended.
func (r *Relay) end(c chore, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.health.pulses[c]
	p.busy, p.err = time.Time{}, err
	switch {
	case err == nil:
		p.failing = time.Time{}
	case p.failing.IsZero():
		p.failing = time.Now()
	}
}

// lacks notes whether another relay has shards that should be ours. The caller holds mu.
func (r *Relay) lacks(missing bool) {
	switch {
	case !missing:
		r.health.lacking, r.health.waiting = time.Time{}, 0
	case r.health.lacking.IsZero():
		r.health.lacking = time.Now()
	}
}

// watchLoop looks, while the relay lacks shards for longer than a hand-over takes, whether messages wait in them.
func (r *Relay) watchLoop(ctx context.Context) {
	for sleep(ctx, max(r.cfg.StuckAfter/4, minPoll)) == nil {
		shards := r.lackingShards()
		if len(shards) == 0 {
			continue
		}
		var waiting int64
		err := r.outbox.reads(ctx, func(conn gorm.ConnPool) error {
			where, args := r.dialect.among("shard", shards)
			return conn.QueryRowContext(ctx, r.dialect.sql(`SELECT count(*) FROM
				(SELECT shard, created_at FROM outbox ORDER BY seq LIMIT 1000) AS x
				WHERE `+where+` AND created_at < {now} - ?`), append(args, r.cfg.StuckAfter.Microseconds())...).Scan(&waiting)
		})
		if err == nil { // else the reader has the same trouble, and says so
			r.noteWaiting(waiting)
		}
	}
}

// lackingShards lists the shards that are not ours while some are another's that should be ours.
func (r *Relay) lackingShards() (shards []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.health.lacking.IsZero() || time.Since(r.health.lacking) < r.cfg.StuckAfter {
		return nil
	}
	for shard := range Shards {
		if _, ours := r.held[shard]; !ours {
			shards = append(shards, int64(shard))
		}
	}
	return shards
}

func (r *Relay) noteWaiting(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.health.lacking.IsZero() {
		r.health.waiting = n
	}
}

// Healthy returns nil if the relay runs and messages leave, and may answer a readiness probe as it is: it does not
// touch the database. Otherwise its error wraps [ErrStuck], and the failure behind it if there is one, and names
// every cause: at once that the relay does not run, or that its leases ran out, and what has lasted for
// [RelayConfig.StuckAfter]:
//
//   - it cannot read messages, delete what it published, move scheduled messages that are due, tend its retries or
//     renew its leases: each of these fails, or gets no answer;
//   - for a topic the publisher fails, or does not return;
//   - old messages wait in shards that another relay, perhaps one that is gone, does not let go.
//
// It is nil while the relay is paused, unless the last Publish does not return, while a message that the publisher
// refuses blocks its key (see [Poison]), and while a backlog shrinks slowly: these are no reason to stop the process.
// Watch [Stats] for them.
func (r *Relay) Healthy(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !r.running.Load() {
		return fmt.Errorf("%w: the relay does not run", ErrStuck)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	var faults []error
	if len(r.held) > 0 && now.After(r.valid) {
		faults = append(faults, fmt.Errorf("%w: the leases ran out %v ago", ErrStuck, now.Sub(r.valid)))
	}
	if r.health.waiting > 0 {
		faults = append(faults, fmt.Errorf("%w: messages wait in shards that another relay has for %v",
			ErrStuck, now.Sub(r.health.lacking)))
	}
	return errors.Join(append(append(faults, r.stuckChores(now)...), r.stuckTopics(now)...)...)
}

// stuckChores lists the chores that have failed or not returned for too long.
func (r *Relay) stuckChores(now time.Time) (faults []error) {
	for c, p := range r.health.pulses {
		switch {
		case r.tooOld(now, p.failing):
			faults = append(faults, fmt.Errorf("%w: cannot %v for %v: %w", ErrStuck, chore(c), now.Sub(p.failing), p.err))
		case r.tooOld(now, p.busy):
			faults = append(faults, fmt.Errorf("%w: cannot %v: no answer for %v", ErrStuck, chore(c), now.Sub(p.busy)))
		}
	}
	return faults
}

// stuckTopics lists the topics whose publisher has failed or not returned for too long.
func (r *Relay) stuckTopics(now time.Time) (faults []error) {
	for _, t := range r.topics {
		sentAt, _ := t.sending()
		if t.failures > 0 && !r.paused && r.tooOld(now, t.since) {
			faults = append(faults, fmt.Errorf("%w: topic %s fails for %v: %w", ErrStuck, t.name, now.Sub(t.since), t.err))
		}
		if r.tooOld(now, sentAt) {
			faults = append(faults, fmt.Errorf("%w: topic %s: Publish has not returned for %v",
				ErrStuck, t.name, now.Sub(sentAt)))
		}
	}
	return faults
}

func (r *Relay) tooOld(now, since time.Time) bool {
	return !since.IsZero() && now.Sub(since) > r.cfg.StuckAfter
}
