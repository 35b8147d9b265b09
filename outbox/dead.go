package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// A DeadFilter selects dead messages; a zero field selects all.
type DeadFilter struct {
	ID    string // of the message
	Topic string
	Key   string
	Limit int // at most so many, oldest first; 0 means all
}

func (f DeadFilter) validate() error { return notNegative("DeadFilter.Limit", f.Limit) }

func notNegative(name string, n int) error {
	if n < 0 {
		return fmt.Errorf("outbox: %s is %d, it may not be negative", name, n)
	}
	return nil
}

// A DeadMessage was given up after [RelayConfig.Attempts].
type DeadMessage struct {
	Seq       int64 // its place in the order when it was published
	ID        string
	Topic     string
	Key       string // "" if it had none
	Type      string
	Metadata  message.Metadata
	Payload   []byte
	Attempts  int
	Error     string    // of the last attempt
	CreatedAt time.Time // when it entered the outbox, by the database's clock
	DiedAt    time.Time
}

// An Action says who does something by hand, and why. Both are required; they are kept with the message.
type Action struct {
	Actor  string // at most 255 characters
	Reason string
}

func (a Action) validate() error {
	if strings.TrimSpace(a.Actor) == "" || strings.TrimSpace(a.Reason) == "" {
		return ErrNoActor
	}
	if n := utf8.RuneCountInString(a.Actor); n > maxText {
		return fmt.Errorf("outbox: Action.Actor has %d characters, at most %d", n, maxText)
	}
	return nil
}

// deadPage is how many dead messages are read or treated by one statement.
const deadPage = 100

// Dead lists the dead messages that nobody has replayed or discarded, oldest first. They are read page by page, so
// ones that die meanwhile may appear.
func (o *Outbox) Dead(ctx context.Context, f DeadFilter) iter.Seq2[DeadMessage, error] {
	return func(yield func(DeadMessage, error) bool) {
		if err := f.validate(); err != nil {
			yield(DeadMessage{}, err)
			return
		}
		after, left := int64(0), f.Limit
		for {
			page, err := o.deadPage(ctx, f, after)
			if err != nil {
				yield(DeadMessage{}, fmt.Errorf("outbox: list dead messages: %w", err))
				return
			}
			for _, m := range page {
				if !yield(m, nil) {
					return
				}
				after = m.Seq
				if left--; left == 0 {
					return
				}
			}
			if len(page) < deadPage {
				return
			}
		}
	}
}

func (f DeadFilter) where(d dialect, after int64) (string, []any) {
	where, args := "state = 'dead' AND seq > ?", []any{after}
	for _, c := range []struct{ column, value string }{
		{"id", f.ID}, {"topic", f.Topic}, {"aggregateid", f.Key},
	} {
		if c.value != "" {
			cond, more := d.is(c.column, c.value)
			where, args = where+" AND "+cond, append(args, more...)
		}
	}
	return where + " ORDER BY seq LIMIT ?", args
}

func (o *Outbox) deadPage(ctx context.Context, f DeadFilter, after int64) (page []DeadMessage, err error) {
	where, args := f.where(o.dialect, after)
	x := execer{ctx, o.joined(ctx), o.dialect}
	err = x.query("SELECT seq, "+columns+", attempts, error, created_at, died_at FROM outbox_dead WHERE "+where,
		append(args, deadPage), func(rows *sql.Rows) error {
			var rec record
			var m DeadMessage
			var created, died int64
			if err := rec.scan(rows, &m.Attempts, &m.Error, &created, &died); err != nil {
				return err
			}
			m.Metadata, err = parseHeaders(rec.headers)
			if err != nil {
				m.Metadata = message.Metadata{}
			}
			m.Seq, m.ID, m.Topic, m.Key, m.Type, m.Payload = rec.seq, rec.id, rec.topic, rec.key, rec.typ, rec.payload
			m.CreatedAt, m.DiedAt = time.UnixMicro(created), time.UnixMicro(died)
			page = append(page, m)
			return nil
		})
	return page, err
}

// Replay publishes dead messages again, with their ids, behind everything that is in the outbox now, and returns how
// many. The dead rows stay as a record of who did it and why, without their contents. It joins the unit of work
// in ctx; else each hundred messages are a transaction, and an error leaves the earlier ones replayed.
func (o *Outbox) Replay(ctx context.Context, f DeadFilter, a Action) (int, error) {
	return o.act(ctx, f, a, "replayed", func(x execer, where string, args []any) error {
		if o.dialect.postgres() {
			where += " AND pg_current_xact_id() IS NOT NULL"
		}
		_, err := x.exec("INSERT INTO outbox ("+columns+") SELECT "+columns+
			" FROM outbox_dead WHERE "+where+" ORDER BY seq", args...)
		if err != nil {
			return err
		}
		return uow.AfterCommit(x.ctx, o.wake)
	})
}

// Discard gives dead messages up for good and returns how many. Otherwise it is like [Outbox.Replay].
func (o *Outbox) Discard(ctx context.Context, f DeadFilter, a Action) (int, error) {
	return o.act(ctx, f, a, "discarded", func(execer, string, []any) error { return nil })
}

// act does something with dead messages, page by page, and records who did it.
func (o *Outbox) act(
	ctx context.Context, f DeadFilter, a Action, state string, do func(x execer, where string, args []any) error,
) (total int, err error) {
	if err := errors.Join(a.validate(), f.validate()); err != nil {
		return 0, err
	}
	run, err := o.alone(ctx, uow.Config{MaxShare: 1})
	if err != nil {
		return 0, err
	}
	last, err := o.lastDead(ctx)
	if err != nil {
		return 0, fmt.Errorf("outbox: dead messages %s: %w", state, err)
	}
	for {
		limit := deadPage
		if f.Limit > 0 {
			limit = min(limit, f.Limit-total)
		}
		var n int
		err := run(ctx, func(ctx context.Context) error {
			x := execer{ctx, uow.DB(ctx).Statement.ConnPool, o.dialect}
			n = 0
			seqs, err := o.lockDead(x, f, last, limit)
			if err != nil || len(seqs) == 0 {
				return err
			}
			n = len(seqs)
			where, args := o.dialect.among("seq", seqs)
			if err := do(x, where, args); err != nil {
				return err
			}
			_, err = x.exec("UPDATE outbox_dead SET state = '"+state+"', actor = ?, reason = ?, acted_at = {now}, "+
				"headers = '{}', payload = '' WHERE "+where, append([]any{cleanText(a.Actor), cleanText(a.Reason)}, args...)...)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("outbox: dead messages %s: %w", state, err)
		}
		total += n
		o.cfg.Logger.Info("outbox dead messages", "state", state, "count", n, "actor", a.Actor)
		if n < limit || total == f.Limit {
			return total, nil
		}
	}
}

// alone returns what runs a function in the unit of work in ctx, or else in one of its own. To make one may take a
// connection, and the one in ctx may have the only one.
func (o *Outbox) alone(
	ctx context.Context, cfg uow.Config,
) (func(context.Context, func(context.Context) error) error, error) {
	if uow.In(ctx) {
		return func(ctx context.Context, fn func(context.Context) error) error { return fn(ctx) }, nil
	}
	unit, err := uow.New(o.db, cfg)
	if err != nil {
		return nil, err
	}
	return unit.Do, nil
}

// lastDead returns the place of the newest dead message. What is replayed and dies at once is behind it, and not
// replayed again.
func (o *Outbox) lastDead(ctx context.Context) (last int64, err error) {
	x := execer{ctx, o.joined(ctx), o.dialect}
	err = x.conn.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM outbox_dead WHERE state = 'dead'").Scan(&last)
	return last, err
}

// joined returns the transaction in ctx, or else the database.
func (o *Outbox) joined(ctx context.Context) gorm.ConnPool {
	if uow.In(ctx) {
		return uow.DB(ctx).Statement.ConnPool
	}
	return o.db.Statement.ConnPool
}

func (o *Outbox) lockDead(x execer, f DeadFilter, last int64, limit int) (seqs []int64, err error) {
	where, args := f.where(o.dialect, 0)
	return x.numbers("SELECT seq FROM outbox_dead WHERE seq <= ? AND "+where+o.dialect.update,
		append(append([]any{last}, args...), limit)...)
}
