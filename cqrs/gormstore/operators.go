package gormstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
	"gorm.io/gorm"
)

// ErrNoActor is returned by what changes stored messages when the context does not say who asks and why.
var ErrNoActor = errors.New("gormstore: an operator's action needs an actor and a reason, see By")

// ErrNotDead is returned for a dead letter that is not there, or is being replayed right now.
var ErrNotDead = errors.New("gormstore: no such dead letter")

type actor struct{ name, reason string }

type actorKey struct{}

// By returns a context whose actions are logged as this actor's, for this reason. Both are required.
func By(ctx context.Context, name, reason string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor{name, reason})
}

func actorOf(ctx context.Context) (actor, error) {
	a, _ := ctx.Value(actorKey{}).(actor)
	if strings.TrimSpace(a.name) == "" || strings.TrimSpace(a.reason) == "" {
		return a, ErrNoActor
	}
	return a, nil
}

// note writes what was done to the operators' log. A context without an actor is a program's own doing.
func note(ctx context.Context, tx *gorm.DB, kind, group, action string, ids []string) error {
	a, err := actorOf(ctx)
	if err != nil {
		a = actor{"system", ""}
	}
	now := nowOn(tx)
	return chunks(ids, func(ids []string) error {
		args := make([]any, 0, len(ids)*6)
		for _, id := range ids {
			args = append(args, kind, group, id, action, clip(a.name, maxActor), clip(a.reason, maxError))
		}
		_, err := exec(tx, "write the operators' log", "INSERT INTO cqrs_operator_log (kind,grp,id,action,actor,reason,at)"+
			" VALUES "+strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,"+now+"),", len(ids)), ","), args...)
		return err
	})
}

const maxActor = 200 // bytes of an actor's name that are kept

// DeadFilter selects dead letters; empty fields select all.
type DeadFilter struct {
	Group, Type, Topic, Key string
	State                   string    // StateDead, StateReplaying or "" for both
	Reason                  string    // part of the last error
	Before                  time.Time // died before
	After, AfterGroup       string    // go on behind the letter with this ID in this group, see List
	Limit                   int       // 0 means 100, at most 1000
}

// A Letter is a dead letter as operators see it.
type Letter struct {
	cqrs.DeadLetter
	State string
}

// List returns letters, ordered by ID, which for IDs made by this module is the order of their making, and by group.
// To page through them, give the last letter's ID as After and its group as AfterGroup. Without AfterGroup it goes on
// with the next ID, which suffices where Group is given; else letters of the same message in other groups are missed.
func (d *DeadLetters) List(ctx context.Context, f DeadFilter) ([]Letter, error) {
	where, args := f.where()
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var letters []Letter
	err := in(ctx, d.work, func(_ context.Context, tx *gorm.DB) error {
		letters = nil
		rows, err := query[deadRow](tx, "list dead letters", "SELECT "+deadColumns+" FROM cqrs_dead"+where+
			" ORDER BY id, grp LIMIT ?", append(args, min(limit, 1000))...)
		for _, r := range rows {
			l, err := r.letter()
			if err != nil {
				return err
			}
			letters = append(letters, Letter{*l, r.State})
		}
		return err
	})
	return letters, err
}

func (f DeadFilter) where() (string, []any) {
	var where []string
	var args []any
	add := func(present bool, condition string, arg any) {
		if present {
			where = append(where, condition)
			args = append(args, arg)
		}
	}
	add(f.Group != "", "grp=?", f.Group)
	add(f.Type != "", "type=?", f.Type)
	add(f.Topic != "", "topic=?", f.Topic)
	add(f.Key != "", "msg_key=?", f.Key)
	add(f.State != "", "state=?", f.State)
	add(f.Reason != "", "reason LIKE ? ESCAPE '!'", "%"+likeEscape.Replace(f.Reason)+"%")
	add(!f.Before.IsZero(), "died_at<?", f.Before.UnixMicro())
	add(f.After != "" && f.AfterGroup == "", "id>?", f.After)
	add(f.After != "" && f.AfterGroup != "", "(id,grp)>?", []string{f.After, f.AfterGroup})
	if len(where) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(where, " AND "), args
}

var likeEscape = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// Show returns one letter, or [ErrNotDead].
func (d *DeadLetters) Show(ctx context.Context, group, id string) (*Letter, error) {
	var letter *Letter
	err := in(ctx, d.work, func(_ context.Context, tx *gorm.DB) error {
		rows, err := query[deadRow](tx, "show a dead letter", "SELECT "+deadColumns+" FROM cqrs_dead WHERE grp=? AND id=?",
			group, id)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return fmt.Errorf("%w: %s of %s", ErrNotDead, id, group)
		}
		l, err := rows[0].letter()
		if err == nil {
			letter = &Letter{*l, rows[0].State}
		}
		return err
	})
	return letter, err
}

// Edit replaces a dead letter's payload, once [DeadLettersConfig.Validate] accepts the result. It needs [By].
// It returns [ErrNotDead] for one that is gone or being replayed.
func (d *DeadLetters) Edit(ctx context.Context, group, id string, payload []byte) error {
	if _, err := actorOf(ctx); err != nil {
		return err
	}
	return in(ctx, d.work, func(ctx context.Context, tx *gorm.DB) error {
		letters, err := read(tx, group, []string{id}, StateDead)
		if err != nil {
			return err
		}
		if len(letters) == 0 {
			return fmt.Errorf("%w: %s of %s", ErrNotDead, id, group)
		}
		letter := letters[0]
		letter.Payload = payload
		if d.cfg.Validate != nil {
			if err := d.cfg.Validate(ctx, letter); err != nil {
				return fmt.Errorf("gormstore: edit dead letter %s: %w", id, err)
			}
		}
		_, err = exec(tx, "edit a dead letter", "UPDATE cqrs_dead SET payload=? WHERE grp=? AND id=?",
			payloadOf(&letter.Record), group, id)
		if err != nil {
			return err
		}
		return note(ctx, tx, "dead", group, "edit", []string{id})
	})
}

// Discard drops dead letters for good and lets the messages behind them go on. It needs [By] and returns how
// many it dropped; letters being replayed are left alone.
func (d *DeadLetters) Discard(ctx context.Context, group string, ids []string) (int, error) {
	if _, err := actorOf(ctx); err != nil {
		return 0, err
	}
	dropped := 0
	err := in(ctx, d.work, func(ctx context.Context, tx *gorm.DB) error {
		letters, err := read(tx, group, ids, StateDead)
		if err != nil || len(letters) == 0 {
			dropped = 0
			return err
		}
		dropped = len(letters)
		return d.discard(ctx, tx, group, letters)
	})
	return dropped, err
}

func (d *DeadLetters) discard(ctx context.Context, tx *gorm.DB, group string, letters []*cqrs.DeadLetter) error {
	ids := make([]string, len(letters))
	twins := make([]*cqrs.Parked, len(letters))
	for i, l := range letters {
		ids[i] = l.ID
		twins[i] = &cqrs.Parked{Record: l.Record}
	}
	if err := NewParking().Consume(ctx, twins); err != nil {
		return err
	}
	if err := d.Resolve(ctx, group, ids); err != nil {
		return err
	}
	return note(ctx, tx, "dead", group, "discard", ids)
}

// Purge drops dead letters that died more than age ago and hold nothing up, and log entries of that age, at
// most limit of each, and returns how many. Call it until it returns less than limit, which is at least 1.
func (d *DeadLetters) Purge(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := purgeable(limit); err != nil {
		return 0, err
	}
	purged := int64(0)
	err := in(ctx, d.work, func(_ context.Context, tx *gorm.DB) error {
		purged = 0
		before := nowOn(tx) + "-?"
		for _, sql := range []string{
			// PostgreSQL checks what has changed meanwhile against the outer condition alone.
			"DELETE FROM cqrs_dead WHERE NOT blocking AND state='" + StateDead + "' AND (grp,id) IN (SELECT grp,id FROM" +
				" (SELECT grp,id FROM cqrs_dead WHERE died_at<" + before + " AND NOT blocking AND state='" + StateDead +
				"' ORDER BY died_at LIMIT ?) old)",
			"DELETE FROM cqrs_operator_log WHERE seq IN (SELECT seq FROM (SELECT seq FROM cqrs_operator_log WHERE at<" +
				before + " ORDER BY at LIMIT ?) old)",
		} {
			n, err := exec(tx, "purge dead letters", sql, age.Microseconds(), limit)
			if err != nil {
				return err
			}
			purged = max(purged, n)
		}
		return nil
	})
	return int(purged), err
}

func purgeable(limit int) error {
	if limit < 1 {
		return fmt.Errorf("gormstore: Purge has the limit %d, at least 1 is needed", limit)
	}
	return nil
}
