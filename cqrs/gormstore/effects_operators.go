package gormstore

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// EffectFilter selects parked effects; empty fields select all.
type EffectFilter struct {
	Name  string
	After string // goes on behind the effect with this ID
	Limit int    // 0 means 100, at most 1000
}

// A ParkedEffect waits for an operator: its provider may have forgotten its key, or it has failed too often.
type ParkedEffect struct {
	ID, Name, Key string
	Attempts      int
	Recorded      time.Time // the database's clock
	Error         string
	Command       []byte // JSON
	Intent        []byte // JSON
}

// Parked returns parked effects, oldest first.
func (e *Effects) Parked(ctx context.Context, f EffectFilter) ([]ParkedEffect, error) {
	sql, args := "SELECT id,name,effect_key,attempts,created_at,error,command,intent FROM cqrs_effects"+
		" WHERE parked AND id>?", []any{f.After}
	if f.Name != "" {
		sql, args = sql+" AND name=?", append(args, f.Name)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var list []ParkedEffect
	err := in(ctx, e.work, func(_ context.Context, tx *gorm.DB) error {
		list = nil
		rows, err := query[struct {
			ID, Name, EffectKey, Error string
			Attempts                   int
			CreatedAt                  int64
			Command, Intent            []byte
		}](tx, "list parked effects", sql+" ORDER BY id LIMIT ?", append(args, min(limit, 1000))...)
		for _, r := range rows {
			list = append(list, ParkedEffect{
				r.ID, r.Name, r.EffectKey, r.Attempts, time.UnixMicro(r.CreatedAt).UTC(), r.Error, r.Command, r.Intent,
			})
		}
		return err
	})
	return list, err
}

// Retry lets parked effects go on, under the same key, for keep longer: the operator vouches that the provider
// still knows the key, or that repeating the effect does no harm. They are asked about before they are sent
// again. It needs [By] and a keep of more than 0, and returns how many it freed.
func (e *Effects) Retry(ctx context.Context, ids []string, keep time.Duration) (int, error) {
	if keep <= 0 {
		return 0, fmt.Errorf("gormstore: Retry has a keep of %v, more than 0 is needed", keep)
	}
	return e.act(ctx, "retry", ids, func(tx *gorm.DB, ids []string) error {
		now := nowOn(tx)
		_, err := exec(tx, "retry effects", "UPDATE cqrs_effects SET parked=?, doubt=?, attempts=0, owner='', due_at="+now+
			", keep_until="+now+"+? WHERE id IN ?", false, true, keep.Microseconds(), ids)
		return err
	})
}

// Discard drops parked effects for good. Their commands are never answered: whoever waits must be told by other
// means. It needs [By] and returns how many it dropped.
func (e *Effects) Discard(ctx context.Context, ids []string) (int, error) {
	return e.act(ctx, "discard", ids, func(tx *gorm.DB, ids []string) error {
		_, err := exec(tx, "discard effects", "DELETE FROM cqrs_effects WHERE id IN ?", ids)
		return err
	})
}

func (e *Effects) act(
	ctx context.Context, action string, ids []string, fn func(tx *gorm.DB, ids []string) error,
) (int, error) {
	if _, err := actorOf(ctx); err != nil {
		return 0, err
	}
	count := 0
	err := in(ctx, e.work, func(ctx context.Context, tx *gorm.DB) error {
		count = 0
		return chunks(ids, func(ids []string) error {
			rows, err := query[struct{ ID, Name string }](tx, "lock parked effects", "SELECT id,name FROM cqrs_effects"+
				" WHERE id IN ? AND parked ORDER BY id"+locking(tx, "FOR UPDATE"), ids)
			if err != nil || len(rows) == 0 {
				return err
			}
			byName := map[string][]string{}
			found := make([]string, len(rows))
			for i, r := range rows {
				found[i] = r.ID
				byName[r.Name] = append(byName[r.Name], r.ID)
			}
			count += len(found)
			for name, ids := range byName {
				if err := note(ctx, tx, "effect", name, action, ids); err != nil {
					return err
				}
			}
			return fn(tx, found)
		})
	})
	return count, err
}

// EffectStats tells how effects stand.
type EffectStats struct {
	Open   int64         // recorded and not settled
	Parked int64         // waiting for an operator
	Oldest time.Duration // age of the oldest open one; 0 when there is none
}

// Stats counts the effects.
func (e *Effects) Stats(ctx context.Context) (EffectStats, error) {
	var stats EffectStats
	err := in(ctx, e.work, func(_ context.Context, tx *gorm.DB) error {
		now := nowOn(tx)
		rows, err := query[struct {
			Parked   bool
			N, Since int64
		}](tx, "count effects", "SELECT parked, COUNT(*) AS n, "+now+"-MIN(created_at) AS since"+
			" FROM cqrs_effects GROUP BY parked")
		stats = EffectStats{}
		for _, r := range rows {
			if r.Parked {
				stats.Parked = r.N
				continue
			}
			stats.Open, stats.Oldest = r.N, time.Duration(r.Since)*time.Microsecond
		}
		return err
	})
	return stats, err
}
