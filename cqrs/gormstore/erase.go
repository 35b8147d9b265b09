package gormstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs"
	"gorm.io/gorm"
)

// An Erasure names messages whose content is to go, because it is about a person who has asked for that. All that is
// given must hold; Key or IDs is required.
type Erasure struct {
	Group string   // "" means all groups
	Key   string   // of the messages, as stored: a key longer than 200 bytes is stored as a hash
	IDs   []string // of the messages; at most 1000
}

func (e Erasure) where() (string, []any, error) {
	if e.Key == "" && len(e.IDs) == 0 {
		return "", nil, errors.New("gormstore: Erasure needs a Key or IDs")
	}
	if len(e.IDs) > 1000 {
		return "", nil, fmt.Errorf("gormstore: Erasure.IDs has %d, at most 1000 are allowed", len(e.IDs))
	}
	where, args := " WHERE 1=1", []any{}
	if e.Group != "" {
		where, args = where+" AND grp=?", append(args, e.Group)
	}
	if e.Key != "" {
		where, args = where+" AND msg_key=?", append(args, e.Key)
	}
	if len(e.IDs) > 0 {
		where, args = where+" AND id IN ?", append(args, e.IDs)
	}
	return where, args, nil
}

// Erase deletes parked messages and dead letters, whatever waits behind them goes on, and writes to the operators' log
// that they were there, without their content. It returns how many messages there were. They do not run any more; one
// that runs right now is undone. It needs [By]. What else knows the person (the outbox, the application's own tables)
// is not touched.
func (d *DeadLetters) Erase(ctx context.Context, e Erasure) (int, error) {
	if _, err := actorOf(ctx); err != nil {
		return 0, err
	}
	where, args, err := e.where()
	if err != nil {
		return 0, err
	}
	erased := 0
	err = in(ctx, d.work, func(ctx context.Context, tx *gorm.DB) (err error) {
		erased, err = d.erase(ctx, tx, where, args)
		return err
	})
	return erased, err
}

func (d *DeadLetters) erase(ctx context.Context, tx *gorm.DB, where string, args []any) (int, error) {
	type row struct{ Grp, ID, Queue string }
	ids := map[string]map[string]bool{} // by group
	find := func(table, lock string) ([]row, error) {
		rows, err := query[row](tx, "find what to erase",
			"SELECT grp, id, queue FROM "+table+where+" ORDER BY grp, id"+lock, args...)
		for _, r := range rows {
			if ids[r.Grp] == nil {
				ids[r.Grp] = map[string]bool{}
			}
			ids[r.Grp][r.ID] = true
		}
		return rows, err
	}
	// A replay that is under way has ended, and parked the letter, when the letter is locked. What dies meanwhile was
	// parked, and is found by its ID.
	if _, err := find("cqrs_dead", locking(tx, "FOR UPDATE")); err != nil {
		return 0, err
	}
	parked, err := find("cqrs_parked", "")
	if err != nil {
		return 0, err
	}
	var twins []*cqrs.Parked
	for _, r := range parked {
		twins = append(twins, &cqrs.Parked{Record: cqrs.Record{Group: r.Grp, ID: r.ID, Queue: r.Queue}})
	}
	if err := NewParking().Consume(ctx, twins); err != nil {
		return 0, err
	}
	erased := 0
	for group, set := range ids {
		names := make([]string, 0, len(set))
		for id := range set {
			names = append(names, id)
		}
		if err := d.Resolve(ctx, group, names); err != nil {
			return 0, err
		}
		if err := note(ctx, tx, "dead", group, "erase", names); err != nil {
			return 0, err
		}
		erased += len(names)
	}
	return erased, nil
}
