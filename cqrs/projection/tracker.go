package projection

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// A tracker stands in for positions on a bus that has none: it knows which messages the live model of this process
// has applied and its shadow has not been seen to apply.
type tracker struct {
	commits sync.RWMutex // held shared from a batch's transaction until its messages are noted

	mu     sync.Mutex
	shadow int64               // 0: there is none
	ahead  map[string]struct{} // the live model has them
	behind map[string]struct{} // the shadow has had them before the live model

	// What the live model has applied lately, in two halves: an archive may not have noted it when a shadow begins.
	recent, older map[string]struct{}
	turn          time.Time // of the halves
}

// lately is how long an archive is given to note a publication whose messages are applied already.
const lately = 15 * time.Second

// begin tracks for a shadow that begins or goes on in this process.
func (t *tracker) begin(f *feeder) {
	if f.positioned {
		return
	}
	t.commits.Lock()
	defer t.commits.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shadow == f.gen.Number {
		return // its feeder has failed and begins again
	}
	t.shadow, t.ahead, t.behind = f.gen.Number, map[string]struct{}{}, map[string]struct{}{}
	maps.Copy(t.ahead, t.older)
	maps.Copy(t.ahead, t.recent)
}

// end forgets a shadow, unless another one has taken its place.
func (t *tracker) end(shadow int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shadow == shadow {
		t.shadow, t.ahead, t.behind = 0, nil, nil
	}
}

// enter is called before the transaction of a batch, and what it returns behind it.
func (t *tracker) enter(l *lane) func(committed bool, events []*event) {
	if l.f.positioned {
		return func(bool, []*event) {}
	}
	t.commits.RLock()
	return func(committed bool, events []*event) {
		defer t.commits.RUnlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if !committed {
			return
		}
		for _, e := range events {
			switch {
			case e.route == nil:
			case l.f.gen.Number == t.shadow:
				t.shadowHas(e.id(), l.topic != "")
			default:
				t.liveHas(e.id())
			}
		}
	}
}

// shadowHas notes what the shadow has before the live model only if it came from the bus: what the archive has, the
// live model has had for long.
func (t *tracker) shadowHas(id string, fromBus bool) {
	if _, ok := t.ahead[id]; ok {
		delete(t.ahead, id)
	} else if fromBus {
		t.behind[id] = struct{}{}
	}
}

func (t *tracker) liveHas(id string) {
	if now := time.Now(); t.recent == nil || now.After(t.turn) {
		t.older, t.recent, t.turn = t.recent, map[string]struct{}{}, now.Add(lately)
	}
	t.recent[id] = struct{}{}
	if t.shadow == 0 {
		return
	}
	if _, ok := t.behind[id]; ok {
		delete(t.behind, id)
	} else {
		t.ahead[id] = struct{}{}
	}
}

func (t *tracker) size() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int64(len(t.ahead))
}

// maxAsked is how many messages the inbox is asked about at once.
const maxAsked = 500

// some returns ids that the shadow has not been seen to apply.
func (t *tracker) some() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make([]string, 0, min(len(t.ahead), maxAsked))
	for id := range t.ahead {
		if len(ids) == maxAsked {
			break
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (t *tracker) remove(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		delete(t.ahead, id)
	}
}

// missing asks the inbox whether the shadow has not applied something that the live model has. Whoever calls it with
// the answer yes undoes the transaction, and with it what was claimed to ask.
func (p *Projection) missing(ctx context.Context, shadow int64) (bool, error) {
	ids := p.track.some()
	if len(ids) == 0 {
		return false, nil
	}
	if p.cfg.Inbox == nil {
		return true, nil
	}
	fresh, err := p.cfg.Inbox.Claim(ctx, p.group(shadow), ids)
	if err != nil {
		return true, err
	}
	var known []string
	for i, isNew := range fresh {
		if !isNew {
			known = append(known, ids[i])
		}
	}
	p.track.remove(known) // applied by the shadow, and committed: nobody feeds it now, or Claim has waited
	return len(known) < len(ids) || p.track.size() > 0, nil
}

var errAsked = errors.New("projection: asked")

// prune asks the inbox about some of very many messages.
func (p *Projection) prune(ctx context.Context, shadow int64) error {
	err := p.work.Do(ctx, func(ctx context.Context) error {
		if _, err := p.missing(ctx, shadow); err != nil {
			return err
		}
		return errAsked // undoes the claims
	})
	if errors.Is(err, errAsked) {
		return nil
	}
	return err
}
