package saga

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/flow"
	"github.com/surge-go/surge/saga/internal/store"
)

// Participant registers the handler of a step's command and the handler of its compensation. The processor needs a
// unit of work of outbox/uow, whose database has the table saga_participants. do and undo may meet in any order and
// number:
//
//   - a duplicate of do gets the stored reply, whichever message brought it: the token counts;
//   - an undo without a do is answered and remembered, and the do that comes after it is refused as not executed;
//   - an undo without a do is refused if the do may have been purged (see [ParticipantPurger]): the saga parks;
//   - an undo that meets a do which answers later ([cqrs.ErrDeferred], as handlers of package effect do) waits for it;
//   - a do past its deadline, which was not begun before, is refused as not executed, and stays refused.
//
// What do wrote is undone when it returns a [cqrs.Rejection] or [cqrs.ErrNotExecuted]; the answer is stored and sent.
// A Rejection by undo parks the saga for an operator. Every other error is retried by the processor. do and undo run
// in the lane's transaction; the tokens of a whole batch cost one lookup and one write. Commands that no saga sent are
// handled without memory.
//
// Options hold for both handlers; [cqrs.Locks] looks at the type of its parameter. Faults are kept for the
// processor's Run and Validate.
func Participant[C cqrs.Request[R], R, U any](
	p *cqrs.Processor, do func(context.Context, C) (R, error), undo func(context.Context, U) error,
	o ...cqrs.HandlerOption,
) {
	pt := &participant{p: p}
	options := append(append([]cqrs.HandlerOption(nil), o...), cqrs.OnReply(pt.remember))
	cqrs.HandleBatch(p, func(ctx context.Context, items []*cqrs.Item[C, R]) error {
		return doAll(ctx, pt, do, items)
	}, options...)
	var u U
	if _, nothing := any(u).(none); nothing {
		return
	}
	cqrs.On(p, func(ctx context.Context, m U) error {
		return pt.undo(ctx, func(ctx context.Context) error { return undo(ctx, m) })
	}, o...)
}

type none struct{}

// NoUndo is the undo of a participant that has none, as from the pivot on.
func NoUndo(context.Context, none) error { return nil }

// participant is the part without type parameters. All participants of a processor write in one statement.
type participant struct{ p *cqrs.Processor }

// partsOf owns what the participants of a transaction leave behind.
type partsOf struct{ p *cqrs.Processor }

func (pt *participant) put(ctx context.Context, part *store.Part) error {
	part.Created = time.Now().UnixMilli()
	return uow.BeforeCommit(ctx, partsOf{pt.p}, writeParts, part)
}

// writeParts stores what is known of each token at the end of the transaction.
func writeParts(ctx context.Context, parts []*store.Part) error {
	last := make(map[string]*store.Part, len(parts))
	var list []*store.Part
	for _, p := range parts {
		before := last[p.Token]
		if before == nil {
			q := *p
			last[p.Token] = &q
			list = append(list, &q)
			continue
		}
		if p.Fresh { // two runs of the same do: each looked before the other had written
			return fmt.Errorf("saga: %s: %w", p.Token, errTwin)
		}
		if before.State == store.Open {
			fresh := before.Fresh
			*before = *p
			before.Fresh = fresh
		}
	}
	if err := store.WriteParts(ctx, list); err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	return nil
}

// tokenOf returns the token that a command's participant keeps its row under.
func tokenOf(env cqrs.Envelope) (own flow.Token, row string, ok bool) {
	if env.Token == "" {
		return own, "", false
	}
	own, ok = flow.ParseToken(env.Token)
	return own, own.Of().String(), ok
}

const maxCode = 255

// remember stores the reply in the transaction in which it is sent, at once or later.
func (pt *participant) remember(ctx context.Context, env cqrs.Envelope, a cqrs.Answer) error {
	_, row, ok := tokenOf(env)
	if !ok {
		return nil
	}
	part := &store.Part{Token: row, State: store.Done, Outcome: string(a.Outcome), Reply: a.Payload}
	if a.Rejection != nil {
		part.Code, part.Reply = storable(a.Rejection.Code, maxCode), nil
		if a.Rejection.Err != nil {
			part.Reply = []byte(a.Rejection.Err.Error())
		}
	}
	return pt.put(ctx, part)
}

// doAll runs the commands of a batch whose tokens are new, and answers the others as before.
func doAll[C cqrs.Request[R], R any](
	ctx context.Context, pt *participant, do func(context.Context, C) (R, error), items []*cqrs.Item[C, R],
) error {
	rows := make([]string, 0, len(items))
	for _, it := range items {
		if _, row, ok := tokenOf(it.Envelope); ok {
			rows = append(rows, row)
		}
	}
	known, err := store.Parts(ctx, rows, false)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	ran := map[string]bool{}
	for _, it := range items {
		_, row, ok := tokenOf(it.Envelope)
		switch {
		case !ok:
			runDo(ctx, pt, do, it)
		case ran[row]: // its twin is in this very batch: its reply is not stored yet
			it.Fail(cqrs.Later(0, errTwin))
		case known[row] != nil:
			again(pt, it, known[row])
		default:
			ran[row] = true
			if err := pt.put(ctx, &store.Part{Token: row, State: store.Open, Fresh: true}); err != nil {
				return err
			}
			if d := it.Envelope.Deadline; !d.IsZero() && time.Now().After(d) {
				it.Fail(cqrs.ErrNotExecuted)
				continue
			}
			runDo(ctx, pt, do, it)
		}
	}
	return nil
}

var (
	errTwin = errors.New("saga: the same command is in the same batch")
	errOpen = errors.New("saga: the command to undo has not settled yet")
)

// runDo runs one command in a part of its own: only with a result, or an answer that comes later, stays what it wrote.
func runDo[C cqrs.Request[R], R any](
	ctx context.Context, pt *participant, do func(context.Context, C) (R, error), it *cqrs.Item[C, R],
) {
	var result R
	var answer error
	run := func(ctx context.Context) (err error) {
		result, err = do(cqrs.WithEnvelope(ctx, it.Envelope), it.Message)
		answer = err
		if errors.Is(err, cqrs.ErrDeferred) {
			return nil
		}
		return err
	}
	var err error
	if w := pt.p.UnitOfWork(); w != nil {
		err = w.Do(ctx, run)
	} else {
		err = run(ctx)
	}
	switch {
	case err != nil:
		it.Fail(err)
	case answer != nil:
		it.Fail(answer)
	default:
		it.Reply(result)
	}
}

// again answers a command that is known.
func again[C cqrs.Request[R], R any](pt *participant, it *cqrs.Item[C, R], part *store.Part) {
	switch {
	case part.State == store.Open: // its reply is on its way
		it.Fail(cqrs.ErrDeferred)
	case part.State != store.Done:
		it.Fail(cqrs.ErrNotExecuted)
	case part.Outcome == string(cqrs.OutcomeOK):
		var r R
		if len(part.Reply) > 0 {
			if err := pt.p.Catalog().Codec().Decode(part.Reply, &r); err != nil {
				it.Fail(fmt.Errorf("saga: stored reply of %s: %w", part.Token, err))
				return
			}
		}
		it.Reply(r)
	case part.Outcome == string(cqrs.OutcomeRejected):
		it.Fail(cqrs.Reject(part.Code, errors.New(string(part.Reply))))
	default:
		it.Fail(cqrs.ErrNotExecuted)
	}
}

const openDelay = 500 * time.Millisecond

// undo settles the do first: it runs only if that was done.
func (pt *participant) undo(ctx context.Context, run func(context.Context) error) error {
	env, _ := cqrs.EnvelopeOf(ctx)
	t, row, ok := tokenOf(env)
	if !ok || t.Aim != flow.ToUndo {
		return run(ctx)
	}
	known, err := store.Parts(ctx, []string{row}, true)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	part := known[row]
	switch {
	case part == nil:
		if err := forgotten(ctx, t.Saga); err != nil {
			return err
		}
		return note(ctx, store.Part{Token: row, State: store.Barred, Fresh: true})
	case part.State == store.Open:
		return cqrs.Later(openDelay, errOpen)
	case part.State != store.Done || part.Outcome != string(cqrs.OutcomeOK):
		return nil
	}
	if err := run(ctx); err != nil {
		return err
	}
	return note(ctx, store.Part{Token: row, State: store.Undone})
}

// forgotten refuses an undo that finds no do, if the saga is so old that its do may have been purged. A do is never
// older than its saga.
func forgotten(ctx context.Context, saga string) error {
	purged, err := store.Purged(ctx)
	if err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	if purged == 0 || startOf(saga) >= purged {
		return nil
	}
	return cqrs.Reject("forgotten", errors.New("saga: whether there is something to undo was purged"))
}

// startOf is when an instance was started, in unix milliseconds, as its ID tells; 0 if it does not.
func startOf(saga string) int64 {
	id, err := uuid.Parse(saga)
	if err != nil || id.Version() != 7 {
		return 0
	}
	sec, nsec := id.Time().UnixTime()
	return sec*1000 + nsec/int64(time.Millisecond)
}

// note writes at once what an undo decided, so that a do later in the same transaction sees it.
func note(ctx context.Context, part store.Part) error {
	part.Outcome, part.Created = string(cqrs.OutcomeNotExecuted), time.Now().UnixMilli()
	if err := store.WriteParts(ctx, []*store.Part{&part}); err != nil {
		return fmt.Errorf("saga: %w", err)
	}
	return nil
}

// ParticipantPurger forgets what participants remember of commands that have settled. It is a purger for package
// idempotency's sweeper, which runs it in bounded transactions.
type ParticipantPurger struct {
	// Keep is how long tokens are remembered: longer than the retention of the command topics, which the processor
	// checks if its Remember is told of Keep, and than any saga runs or is parked. A command that comes after it runs
	// again; an undo is refused with the code "forgotten", for an operator who finds out what there is to undo, and
	// settles or skips it. 0 means 30 days.
	Keep time.Duration
}

// Purge forgets at most limit tokens, in the unit of work in ctx, and returns how many.
func (p ParticipantPurger) Purge(ctx context.Context, limit int) (int, error) {
	if p.Keep < 0 || limit <= 0 {
		return 0, fmt.Errorf("saga: ParticipantPurger: Keep is %s and limit %d; must not be negative", p.Keep, limit)
	}
	keep := or(p.Keep, 30*24*time.Hour)
	n, err := store.PurgeParts(ctx, time.Now().Add(-keep).UnixMilli(), limit)
	if err != nil {
		return 0, fmt.Errorf("saga: %w", err)
	}
	return int(n), nil
}
