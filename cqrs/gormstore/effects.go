package gormstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Effects is an [effect.Store]. The intents recorded in one transaction are inserted by one statement, and the
// results that settle together are locked by one and removed by one. It is safe for concurrent use.
type Effects struct{ work *uow.UnitOfWork }

// NewEffects returns the store on work's database.
func NewEffects(work *uow.UnitOfWork) (*Effects, error) {
	if work == nil {
		return nil, errors.New("gormstore: NewEffects needs a unit of work")
	}
	return &Effects{work}, nil
}

// The owners of what is gathered in a transaction.
type (
	addEffects    struct{ *Effects }
	lockEffects   struct{ *Effects }
	removeEffects struct{ *Effects }
)

// Add records an intent in the transaction in ctx; outside of one it returns [uow.ErrNoTransaction].
func (e *Effects) Add(ctx context.Context, rec *effect.Record, committed func()) error {
	if err := uow.BeforeCommit(ctx, addEffects{e}, e.insert, rec); err != nil {
		return err
	}
	return uow.AfterCommit(ctx, committed)
}

func (e *Effects) insert(ctx context.Context, records []*effect.Record) error {
	tx := uow.DB(ctx)
	now := nowOn(tx)
	row := fmt.Sprintf("(?,?,?,?,?,?,%[1]s,%[1]s,%[1]s+?,?,?,?)", now)
	return chunks(records, func(records []*effect.Record) error {
		args := make([]any, 0, len(records)*10)
		for _, r := range records {
			envelope, err := json.Marshal(r.Envelope)
			if err != nil {
				return fmt.Errorf("gormstore: encode an envelope: %w", err)
			}
			args = append(args, r.ID, r.Name, r.Key, r.Owner, r.Doubt, r.Attempts, r.Keep.Microseconds(),
				string(envelope), r.Command, r.Intent)
		}
		_, err := exec(tx, "record effects", "INSERT INTO cqrs_effects (id,name,effect_key,owner,doubt,attempts,"+
			"created_at,due_at,keep_until,envelope,command,intent) VALUES "+
			strings.TrimSuffix(strings.Repeat(row+",", len(records)), ","), args...)
		return err
	})
}

type effectRow struct {
	ID, Name, EffectKey, Owner, Envelope string
	Command, Intent                      []byte
	Attempts                             int
	Doubt                                bool
	Keep                                 int64
}

func (r effectRow) record(owner string) *effect.Record {
	rec := &effect.Record{
		ID: r.ID, Name: r.Name, Key: r.EffectKey, Owner: owner, Command: r.Command, Intent: r.Intent,
		Attempts: r.Attempts, Doubt: r.Doubt, Keep: time.Duration(r.Keep) * time.Microsecond,
	}
	if json.Unmarshal([]byte(r.Envelope), &rec.Envelope) != nil {
		rec.Command, rec.Intent = nil, nil // unreadable: it is parked
	}
	return rec
}

// Claim lets owner hold due intents that no live owner holds.
func (e *Effects) Claim(ctx context.Context, owner string, names []string, limit int) ([]*effect.Record, error) {
	var claimed []*effect.Record
	if len(names) == 0 || limit <= 0 {
		return nil, nil
	}
	err := in(ctx, e.work, func(_ context.Context, tx *gorm.DB) error {
		claimed = nil
		now := nowOn(tx)
		rows, err := query[effectRow](tx, "find due effects", "SELECT id,name,effect_key,owner,envelope,command,"+
			"intent,attempts,doubt,keep_until-"+now+" AS keep FROM cqrs_effects WHERE NOT parked AND due_at<="+now+
			" AND name IN ? AND NOT EXISTS (SELECT 1 FROM cqrs_effect_owners o WHERE o.owner=cqrs_effects.owner"+
			" AND o.expires_at>"+now+") ORDER BY due_at LIMIT ?"+locking(tx, "FOR UPDATE SKIP LOCKED"), names, limit)
		if err == nil {
			rows, err = abandoned(tx, rows)
		}
		if err != nil || len(rows) == 0 {
			return err
		}
		ids := make([]string, len(rows))
		for i, r := range rows {
			ids[i] = r.ID
			claimed = append(claimed, r.record(owner))
		}
		_, err = exec(tx, "claim effects", "UPDATE cqrs_effects SET owner=?, doubt=? WHERE id IN ?", owner, true, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

// abandoned leaves out what a living runner has taken while the rows were looked for and locked: the statement that
// locks them sees who owns them now, and not that this owner has begun since.
func abandoned(tx *gorm.DB, rows []effectRow) ([]effectRow, error) {
	var owners []string
	for _, r := range rows {
		if r.Owner != "" {
			owners = append(owners, r.Owner)
		}
	}
	if len(owners) == 0 {
		return rows, nil
	}
	slices.Sort(owners)
	live, err := query[string](tx, "look for living runners",
		"SELECT owner FROM cqrs_effect_owners WHERE owner IN ? AND expires_at>"+nowOn(tx), slices.Compact(owners))
	return slices.DeleteFunc(rows, func(r effectRow) bool { return slices.Contains(live, r.Owner) }), err
}

type settling struct {
	id, owner string
	held      bool
}

// SettlesBeforeCommit implements uow.Settler: lock writes nothing, so there is nothing to take back for a result that
// is refused.
func (s *settling) SettlesBeforeCommit() {}

// Settle runs apply and removes the intent in one transaction, which other results may share.
func (e *Effects) Settle(ctx context.Context, rec *effect.Record, apply func(ctx context.Context) error) error {
	s := &settling{id: rec.ID, owner: rec.Owner}
	ctx = uow.Prepare(ctx, lockEffects{e}, s, e.lock)
	return e.work.Do(ctx, func(ctx context.Context) error {
		if !s.held {
			return effect.ErrLost
		}
		if err := apply(ctx); err != nil {
			return err
		}
		return uow.BeforeCommit(ctx, removeEffects{e}, e.remove, s)
	})
}

// lock finds out which of the intents are still held, and keeps it so until the commit.
func (e *Effects) lock(ctx context.Context, items []*settling) error {
	tx := uow.DB(ctx)
	ids := make([]string, len(items))
	for i, s := range items {
		ids[i] = s.id
	}
	slices.Sort(ids)
	held := make(map[string]string, len(ids))
	err := chunks(ids, func(ids []string) error {
		rows, err := query[struct{ ID, Owner string }](tx, "lock effects", "SELECT id,owner FROM cqrs_effects"+
			" WHERE id IN ? AND NOT parked ORDER BY id"+locking(tx, "FOR UPDATE"), ids)
		for _, r := range rows {
			held[r.ID] = r.Owner
		}
		return err
	})
	for _, s := range items {
		owner, found := held[s.id]
		s.held = found && owner == s.owner
	}
	return err
}

func (e *Effects) remove(ctx context.Context, items []*settling) error {
	tx, byOwner := uow.DB(ctx), map[string][]string{} // one, as a rule
	for _, s := range items {
		byOwner[s.owner] = append(byOwner[s.owner], s.id)
	}
	for owner, ids := range byOwner {
		err := chunks(ids, func(ids []string) error {
			n, err := exec(tx, "remove effects", "DELETE FROM cqrs_effects WHERE owner=? AND id IN ?", owner, ids)
			if err == nil && n != int64(len(ids)) {
				return fmt.Errorf("gormstore: %d of %d settled effects were removed: %w", n, len(ids), effect.ErrLost)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Postpone gives an intent back, due after p.Delay, or parks it.
func (e *Effects) Postpone(ctx context.Context, rec *effect.Record, p effect.Postponement) error {
	return in(ctx, e.work, func(_ context.Context, tx *gorm.DB) error {
		n, err := exec(tx, "postpone an effect", "UPDATE cqrs_effects SET owner='', due_at="+nowOn(tx)+"+?, attempts=?,"+
			" doubt=?, parked=?, error=? WHERE id=? AND owner=? AND attempts=? AND NOT parked", max(p.Delay, 0).Microseconds(),
			p.Attempts, p.Doubt, p.Park, clip(p.Error, maxError), rec.ID, rec.Owner, rec.Attempts)
		if err == nil && n == 0 {
			return effect.ErrLost
		}
		return err
	})
}

const maxError = 2000 // bytes of an error's text that are kept

// Beat keeps owner alive for lease, or ends it, and returns what it holds. A lease that has run out is remembered for
// an hour.
func (e *Effects) Beat(ctx context.Context, owner string, lease time.Duration) (held []*effect.Record, err error) {
	err = in(ctx, e.work, func(_ context.Context, tx *gorm.DB) (err error) {
		if held = nil; lease <= 0 {
			return e.giveBack(tx, owner)
		}
		if err = e.renew(tx, owner, lease); err == nil {
			held, err = e.held(tx, owner)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// held returns what owner holds. All of that is due: the condition keeps the search within the index.
func (e *Effects) held(tx *gorm.DB, owner string) ([]*effect.Record, error) {
	rows, err := query[struct {
		ID, Name string
		Attempts int
	}](tx, "find held effects", "SELECT id,name,attempts FROM cqrs_effects WHERE NOT parked AND due_at<="+nowOn(tx)+
		" AND owner=?", owner)
	held := make([]*effect.Record, len(rows))
	for i, r := range rows {
		held[i] = &effect.Record{ID: r.ID, Name: r.Name, Owner: owner, Attempts: r.Attempts}
	}
	return held, err
}

func (e *Effects) renew(tx *gorm.DB, owner string, lease time.Duration) error {
	now := nowOn(tx)
	n, err := exec(tx, "renew the lease", "UPDATE cqrs_effect_owners SET expires_at="+now+"+?"+
		" WHERE owner=? AND expires_at>"+now, lease.Microseconds(), owner)
	if err != nil || n > 0 {
		return err
	}
	known, err := query[string](tx, "renew the lease", "SELECT owner FROM cqrs_effect_owners WHERE owner=?", owner)
	if err != nil {
		return err
	}
	if len(known) > 0 {
		return effect.ErrLost
	}
	if err := forget(tx, owner); err != nil {
		return err
	}
	_, err = exec(tx, "begin a lease", "INSERT INTO cqrs_effect_owners (owner,expires_at) VALUES (?,"+now+"+?)",
		owner, lease.Microseconds())
	return err
}

// forget ends earlier incarnations of the owner, and owners that died an hour ago.
func forget(tx *gorm.DB, owner string) error {
	_, err := exec(tx, "forget owners", "DELETE FROM cqrs_effect_owners WHERE expires_at<"+nowOn(tx)+"-?",
		time.Hour.Microseconds())
	name, _, _ := strings.Cut(owner, "#")
	if err != nil || name == "" {
		return err
	}
	_, err = exec(tx, "end earlier incarnations", "DELETE FROM cqrs_effect_owners WHERE SUBSTR(owner,1,?)=?",
		utf8.RuneCountInString(name)+1, name+"#") // not LIKE, for which case does not count on SQLite
	return err
}

func (e *Effects) giveBack(tx *gorm.DB, owner string) error {
	if _, err := exec(tx, "end the lease", "DELETE FROM cqrs_effect_owners WHERE owner=?", owner); err != nil {
		return err
	}
	_, err := exec(tx, "give effects back", "UPDATE cqrs_effects SET owner='' WHERE owner=? AND NOT parked", owner)
	return err
}
