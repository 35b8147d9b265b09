package gormstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// The states of a dead letter. One that has run or was discarded is gone.
const (
	StateDead      = "dead"
	StateReplaying = "replaying"
)

// DeadLettersConfig configures [DeadLetters]; the zero value works.
type DeadLettersConfig struct {
	// Validate checks a letter that an operator has edited, for instance by decoding it with the catalog.
	// nil accepts everything.
	Validate func(ctx context.Context, letter *cqrs.DeadLetter) error
}

// DeadLetters is a [cqrs.DeadLetters] in the table cqrs_dead, and what operators do with it. The methods of
// the port use the transaction in the context; the others join it or have one of their own. What operators do
// is written to cqrs_operator_log with its actor and reason. It is safe for concurrent use.
type DeadLetters struct {
	work *uow.UnitOfWork
	cfg  DeadLettersConfig
}

// NewDeadLetters returns the store on work's database.
func NewDeadLetters(work *uow.UnitOfWork, cfg DeadLettersConfig) (*DeadLetters, error) {
	if work == nil {
		return nil, errors.New("gormstore: NewDeadLetters needs a unit of work")
	}
	return &DeadLetters{work, cfg}, nil
}

const deadColumns = recordColumns + ",state,blocking,reason,died_at"

type deadRow struct {
	Record        recordRow `gorm:"embedded"`
	State, Reason string
	Blocking      bool
	DiedAt        int64
}

func (r deadRow) letter() (*cqrs.DeadLetter, error) {
	rec, err := r.Record.record()
	return &cqrs.DeadLetter{
		Record: rec, Reason: r.Reason, Blocking: r.Blocking, DiedAt: time.UnixMicro(r.DiedAt).UTC(),
	}, err
}

// Put stores letters as dead.
func (d *DeadLetters) Put(ctx context.Context, letters []*cqrs.DeadLetter) error {
	tx := uow.DB(ctx)
	return chunks(letters, func(letters []*cqrs.DeadLetter) error { return putDead(tx, letters) })
}

func putDead(tx *gorm.DB, letters []*cqrs.DeadLetter) error {
	args := make([]any, 0, len(letters)*14)
	for _, l := range letters {
		values, err := recordArgs(&l.Record)
		if err != nil {
			return err
		}
		args = append(append(args, values...), StateDead, l.Blocking, clip(l.Reason, maxReason), l.DiedAt.UnixMicro())
	}
	_, err := exec(tx, "put dead letters", "INSERT INTO cqrs_dead ("+deadColumns+") VALUES "+
		strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?,?,?,?,?,?,?,?),", len(letters)), ",")+dieAgain(tx), args...)
	return err
}

const maxReason = 16 << 10 // bytes of the last error that are kept

// dieAgain makes a letter that was being replayed dead again, with what the replay has taught; one that is
// dead stays as it is. State comes last: MySQL sees the assignments before it.
func dieAgain(tx *gorm.DB) string {
	columns := []string{"payload", "metadata", "failures", "attempt", "reason", "blocking", "died_at", "state"}
	mysql := tx.Name() == "mysql"
	set := make([]string, len(columns))
	for i, c := range columns {
		if mysql {
			set[i] = fmt.Sprintf("%[1]s=IF(cqrs_dead.state='%[2]s',VALUES(%[1]s),cqrs_dead.%[1]s)", c, StateReplaying)
		} else {
			set[i] = fmt.Sprintf("%[1]s=excluded.%[1]s", c)
		}
	}
	if mysql {
		return " ON DUPLICATE KEY UPDATE " + strings.Join(set, ",")
	}
	return " ON CONFLICT (grp,id) DO UPDATE SET " + strings.Join(set, ",") +
		" WHERE cqrs_dead.state='" + StateReplaying + "'"
}

// Get returns the letters that are there.
func (d *DeadLetters) Get(ctx context.Context, group string, ids []string) ([]*cqrs.DeadLetter, error) {
	return read(uow.DB(ctx), group, ids, "")
}

func read(tx *gorm.DB, group string, ids []string, state string) ([]*cqrs.DeadLetter, error) {
	ids = slices.Sorted(slices.Values(ids))
	var letters []*cqrs.DeadLetter
	err := chunks(ids, func(ids []string) error {
		sql, args := "SELECT "+deadColumns+" FROM cqrs_dead WHERE grp=? AND id IN ?", []any{group, ids}
		if state != "" {
			sql, args = sql+" AND state=?", append(args, state)
		}
		rows, err := query[deadRow](tx, "read dead letters", sql+" ORDER BY id"+locking(tx, "FOR UPDATE"), args...)
		for _, r := range rows {
			l, err := r.letter()
			if err != nil {
				return err
			}
			letters = append(letters, l)
		}
		return err
	})
	return letters, err
}

// Replay turns dead letters into letters being replayed and returns those that it turned. [By] names who asks.
func (d *DeadLetters) Replay(ctx context.Context, group string, ids []string) ([]*cqrs.DeadLetter, error) {
	tx := uow.DB(ctx)
	letters, err := read(tx, group, ids, StateDead)
	if err != nil || len(letters) == 0 {
		return nil, err
	}
	turned := make([]string, len(letters))
	for i, l := range letters {
		turned[i] = l.ID
	}
	err = chunks(turned, func(ids []string) error {
		_, err := exec(tx, "replay dead letters", "UPDATE cqrs_dead SET state=? WHERE grp=? AND id IN ?",
			StateReplaying, group, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return letters, note(ctx, tx, "dead", group, "replay", turned)
}

// Resolve ends letters.
func (d *DeadLetters) Resolve(ctx context.Context, group string, ids []string) error {
	tx := uow.DB(ctx)
	return chunks(slices.Sorted(slices.Values(ids)), func(ids []string) error {
		_, err := exec(tx, "resolve dead letters", "DELETE FROM cqrs_dead WHERE grp=? AND id IN ?", group, ids)
		return err
	})
}
