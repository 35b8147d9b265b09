package idempotency

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

// An intent is a caller's wish for a key. It is attached to the context before the transaction begins; the
// intents of all callers that share the transaction are claimed by one statement.
type intent struct {
	store *GormStore
	req   ClaimRequest
	lease bool // outlives the transaction
	http  bool // the answer is an HTTP handler's

	// Set by each run of the transaction.
	slot   *slot
	failed error // why the command of this request did not run
	used   bool  // it has its answer

	// Set when the transaction has committed.
	spent    bool // the key has its answer
	replayed bool // which was there before
}

// A slot is one key in one transaction: what its claim found, and what this transaction made of it.
type slot struct {
	id          string
	fingerprint Fingerprint // the row's
	claim       Claim
	lease       bool        // claimed to outlive the transaction
	taken       bool        // and handed to a caller
	done        *settlement // an answer that this transaction will store
}

// A settlement says what is to become of a slot at the commit. Those of parts that were undone do not arrive.
type settlement struct {
	kind   settlementKind
	slot   *slot
	result Result
	on     *settlement // what a replay relied on
}

type settlementKind int

const (
	opened   settlementKind = iota // the claim; without one of the next two it is withdrawn
	answered                       // the result is to be stored
	leased                         // the claim stands
	relied                         // a neighbor's answer was given to a duplicate
)

// The owners under which the unit of work gathers; all stores of one unit share them.
type (
	claims      struct{ work *uow.UnitOfWork }
	settlements struct{ work *uow.UnitOfWork }
)

// SettlesBeforeCommit implements uow.Settler: settleAll withdraws the claim of a part that left no answer.
func (in *intent) SettlesBeforeCommit() {}

// prepare attaches the intent to the transaction that the next Do joins.
func (in *intent) prepare(ctx context.Context) context.Context {
	return uow.Prepare(ctx, claims{in.store.work}, in, claimAll)
}

// claimAll claims the keys of all intents. It runs first in every transaction that they share.
func claimAll(ctx context.Context, intents []*intent) error {
	slots := map[string]*slot{}
	for _, in := range intents {
		in.failed, in.used = nil, false
		id := in.req.Key.String()
		if slots[id] == nil {
			slots[id] = &slot{id: id, lease: in.lease}
		}
		in.slot = slots[id]
	}
	rows := rowsFor(intents, slots)
	err := inChunks(rows, func(rows []*row) error { return claimRows(ctx, rows, slots, intents) })
	if err != nil {
		for _, in := range intents {
			in.failed = err
		}
	}
	return err
}

// rowsFor returns one row per slot, from the first intent that wants it, sorted so that transactions that claim
// the same keys do not deadlock.
func rowsFor(intents []*intent, slots map[string]*slot) []*row {
	rows := map[string]*row{}
	for _, in := range intents {
		id := in.slot.id
		if rows[id] != nil {
			continue
		}
		r := &row{id: id, fingerprint: in.req.Fingerprint, token: rand.Int64N(1 << 62)}
		r.keepMillis = millis(in.store.cfg.Retention)
		if in.lease {
			r.leaseMillis = millis(in.req.Lease)
		}
		if in.req.Started {
			r.state = rowStarted
		}
		rows[id] = r
		slots[id].fingerprint = r.fingerprint
		slots[id].claim = Claim{
			Key: in.req.Key, State: Acquired, Token: r.token, Lease: in.req.Lease, Started: in.req.Started,
		}
	}
	return slices.SortedFunc(maps.Values(rows), func(a, b *row) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
}

// millis rounds up.
func millis(d time.Duration) int64 {
	n := d.Milliseconds()
	if d%time.Millisecond > 0 {
		n++
	}
	return n
}

func claimRows(ctx context.Context, rows []*row, slots map[string]*slot, intents []*intent) error {
	ours, err := insertKeys(ctx, rows)
	if err != nil {
		return err
	}
	var rest []string
	for _, r := range rows {
		if !ours[r.id] {
			rest = append(rest, r.id)
			continue
		}
		if err := slots[r.id].settle(ctx, intents[0].store, &settlement{kind: opened}); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	found, err := selectKeys(ctx, rest)
	if err != nil {
		return err
	}
	for _, id := range rest {
		if err := slots[id].meet(ctx, found[id], firstFor(intents, id)); err != nil {
			return err
		}
	}
	return nil
}

func firstFor(intents []*intent, id string) *intent {
	i := slices.IndexFunc(intents, func(in *intent) bool { return in.slot.id == id })
	return intents[i]
}

// meet settles what a slot finds when its key is there already: r is nil when another transaction holds it.
func (sl *slot) meet(ctx context.Context, r *row, in *intent) error {
	c := &sl.claim
	if r == nil {
		c.State = InFlight
		return nil
	}
	sl.fingerprint = r.fingerprint
	c.State = InFlight // for those who come with another fingerprint than the row's, it does not matter
	c.Token, c.Points, c.Started = r.token, r.points, r.state == rowStarted || r.state == rowUnknown
	switch {
	case r.state == rowDone || r.state == rowDoneEmpty:
		c.State, c.Result = Replay, r.result
	case r.open || r.leased:
	case c.Started && !in.req.Takeover:
		c.State = Unknown
	case r.fingerprint == in.req.Fingerprint:
		return sl.takeOver(ctx, in)
	}
	return nil
}

// takeOver makes the claim of a lost attempt this one's.
func (sl *slot) takeOver(ctx context.Context, in *intent) error {
	c := &sl.claim
	c.Recovered = c.Started
	c.Started = c.Started || in.req.Started
	state := rowClaimed
	if c.Started {
		state = rowStarted
	}
	s := statementIn(ctx)
	s.add("UPDATE idempotency_keys SET token = ?, state = ?, lease_until = ", c.Token+1, state)
	if in.lease {
		s.add("? + "+s.dialect.now(), millis(in.req.Lease))
	} else {
		s.add("0")
	}
	n, err := s.add(" WHERE id = ? AND token = ?", sl.id, c.Token).exec(ctx)
	if err != nil || n == 0 {
		return err
	}
	c.State = Acquired
	c.Token++
	return sl.settle(ctx, in.store, &settlement{kind: opened})
}

// settle gathers st for the commit.
func (sl *slot) settle(ctx context.Context, s *GormStore, st *settlement) error {
	st.slot = sl
	return uow.BeforeCommit(ctx, settlements{s.work}, settleAll, st)
}

// settleAll stores the answers of all parts and withdraws the claims of those that left none. It runs last.
func settleAll(ctx context.Context, all []*settlement) error {
	kept, stored := map[*slot]bool{}, map[*settlement]bool{}
	var done []*settlement
	for _, st := range all {
		switch st.kind {
		case answered:
			done = append(done, st)
			stored[st] = true
			kept[st.slot] = true
		case leased:
			kept[st.slot] = true
		}
	}
	var withdrawn []string
	for _, st := range all {
		switch {
		case st.kind == relied && !stored[st.on]:
			return errUndone
		case st.kind == opened && !kept[st.slot] && st.slot.claim.Recovered:
			return errUndone // its unknown outcome must stay known: nobody may delete it
		case st.kind == opened && !kept[st.slot]:
			withdrawn = append(withdrawn, st.slot.id)
		}
	}
	if err := inChunks(done, func(c []*settlement) error { return completeKeys(ctx, c) }); err != nil {
		return err
	}
	return inChunks(withdrawn, func(c []string) error { return deleteKeys(ctx, c) })
}

// take hands a claim that outlives the transaction to its caller; of several only one gets it.
func (in *intent) take(ctx context.Context) (Claim, error) {
	sl := in.slot
	c := sl.claim
	switch {
	case sl.fingerprint != in.req.Fingerprint:
		c.State = Mismatch
	case c.State != Acquired:
	case !sl.lease || sl.taken:
		c.State = InFlight
	default:
		sl.taken = true
		return c, sl.settle(ctx, in.store, &settlement{kind: leased})
	}
	return c, nil
}

// resolve says what a caller inside the transaction is to do: return the answer that is there, fail, or (nil, nil)
// run and call answer.
func (in *intent) resolve(ctx context.Context) (*Result, error) {
	sl := in.slot
	switch {
	case in.spent || in.used:
		return nil, ErrSpent
	case sl == nil:
		return nil, uow.ErrNoTransaction
	case sl.fingerprint != in.req.Fingerprint:
		return nil, ErrMismatch
	case sl.claim.State == Replay && !sl.claim.Result.replayable(in.http):
		return nil, ErrNotReplayable
	case sl.claim.State == Replay:
		return &sl.claim.Result, in.commit(ctx, true)
	case sl.claim.State != Acquired:
		return nil, sl.claim.State.err()
	case sl.lease:
		return nil, ErrInFlight
	case sl.done == nil:
		return nil, nil //nolint:nilnil // documented: the caller is the one to run
	case sl.done.result.Lost:
		return nil, ErrNotReplayable
	}
	if err := sl.settle(ctx, in.store, &settlement{kind: relied, on: sl.done}); err != nil {
		return nil, err
	}
	return &sl.done.result, in.commit(ctx, true)
}

// answer stores the caller's answer with the commit.
func (in *intent) answer(ctx context.Context, r Result) error {
	st := &settlement{kind: answered, result: r}
	if err := in.slot.settle(ctx, in.store, st); err != nil {
		return err
	}
	in.slot.done = st
	return in.commit(ctx, false)
}

func (in *intent) commit(ctx context.Context, replayed bool) error {
	in.used = true
	return uow.AfterCommit(ctx, func() { in.spent, in.replayed = true, replayed })
}
