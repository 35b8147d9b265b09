package effect

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A commit whose answer is lost may have left an intent with this runner that the runner does not know of: the one that
// records it, or the one that claims it. Nobody else takes it while this runner beats, so the runner looks itself.

// A holding is an intent in the hands of an owner. Another owner of the same intent is another holding: a call that
// outlives its lease does not hide what its successor has to do.
type holding struct{ owner, id string }

func (rec *Record) holding() holding { return holding{rec.Owner, rec.ID} }

// compare finds what the store says this runner holds and the runner has not known of for a lease. That is long enough
// for a claim, or for the hook of a commit, that was under way when the store looked.
func (r *Runner) compare(held []*Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, unknown := time.Now(), map[holding]time.Time{}
	r.astray = nil
	for _, rec := range held {
		h := rec.holding()
		if r.known[h] || r.leaving[h] > 0 {
			continue
		}
		since, again := r.unknown[h]
		if !again {
			since = now
		}
		unknown[h] = since
		if now.Sub(since) >= r.cfg.Lease {
			r.astray = append(r.astray, rec)
		}
	}
	r.unknown = unknown
}

// release gives back what went astray, so that whoever claims it carries it out. Whether its transaction's answer was
// all that got lost cannot be told, hence the doubt.
func (r *Runner) release(ctx context.Context) error {
	for {
		rec := r.stray()
		if rec == nil {
			return nil
		}
		p := Postponement{Attempts: rec.Attempts, Doubt: true, Error: "its runner did not know of it"}
		err := r.store.Postpone(ctx, rec, p)
		if errors.Is(err, ErrLost) {
			continue
		}
		if err != nil {
			return fmt.Errorf("effect: give back %s, which went astray: %w", rec.ID, err) // the next beat finds it again
		}
		r.cfg.Logger.Warn("an effect went astray, it is claimed again", "effect", rec.Name, "id", rec.ID)
	}
}

// stray takes the next intent that is still unknown.
func (r *Runner) stray() *Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.astray) > 0 {
		rec := r.astray[0]
		r.astray = r.astray[1:]
		if rec.Owner == r.owner && !r.stopped && !r.known[rec.holding()] && r.leaving[rec.holding()] == 0 {
			return rec
		}
	}
	return nil
}
