package outbox

import (
	"context"
	"math"
	"time"

	"github.com/surge-go/surge/outbox/uow"
)

const (
	tendEvery = time.Minute // how often a relay looks for what has been kept long enough
	maxPurge  = 1_000       // rows purged by one transaction
)

// tendLoop removes what has been kept long enough and has the archive's partitions ready.
func (r *Relay) tendLoop(ctx context.Context) {
	for ctx.Err() == nil {
		r.tend(ctx)
		_ = sleep(ctx, tendEvery)
	}
}

// tend does one round. Any relay may do it, and several at once do no harm.
func (r *Relay) tend(ctx context.Context) {
	if err := r.purgeDead(ctx); err != nil && ctx.Err() == nil {
		r.cfg.Logger.Warn("outbox cannot purge dead messages", "error", err)
	}
	if err := r.tendArchive(ctx); err != nil && ctx.Err() == nil {
		r.cfg.Logger.Warn("outbox cannot tend its archive", "error", err)
	}
}

// purgeDead deletes the records of what was done about dead messages, and dead messages that nobody did anything
// about, when they have been kept long enough.
func (r *Relay) purgeDead(ctx context.Context) error {
	const settled = "state IN ('replayed', 'discarded') AND acted_at < {now} - ?"
	err := r.deleteOld(ctx, "outbox_dead", settled, r.cfg.KeepSettled.Microseconds())
	if err != nil || r.cfg.KeepDead == 0 {
		return err
	}
	return r.deleteOld(ctx, "outbox_dead", "state = 'dead' AND died_at < {now} - ?", r.cfg.KeepDead.Microseconds())
}

// deleteOld deletes rows in transactions of a bounded size.
func (r *Relay) deleteOld(ctx context.Context, table, where string, args ...any) error {
	x := execer{ctx, r.pool, r.dialect}
	for ctx.Err() == nil {
		seqs, err := x.numbers("SELECT seq FROM "+table+" WHERE "+where+" ORDER BY seq LIMIT "+itoa(maxPurge), args...)
		if err != nil || len(seqs) == 0 {
			return err
		}
		err = r.unit.Do(ctx, func(ctx context.Context) error {
			cond, list := r.dialect.among("seq", seqs)
			_, err := execer{ctx, uow.DB(ctx).Statement.ConnPool, r.dialect}.
				exec("DELETE FROM "+table+" WHERE "+cond+" AND "+where, append(list, args...)...)
			return err
		})
		if err != nil || len(seqs) < maxPurge {
			return err
		}
	}
	return ctx.Err()
}

// tendArchive creates the archive's partitions of the next days and drops those whose days have been kept.
func (r *Relay) tendArchive(ctx context.Context) error {
	if r.cfg.Archive == 0 {
		return nil
	}
	var today int64
	if err := r.pool.QueryRowContext(ctx, r.dialect.sql("SELECT "+r.dialect.today())).Scan(&today); err != nil {
		return err
	}
	oldest := int64(math.MinInt32) // a day is kept until its last message is old enough
	if kept := int64((r.cfg.Archive-1)/day) + 1; kept < 1<<31 {
		oldest = today - kept
	}
	var err error
	switch {
	case r.dialect.postgres():
		err = r.partitionPostgres(ctx, today, oldest)
	case r.dialect.mysql():
		err = r.partitionMySQL(ctx, today, oldest)
	}
	if err != nil {
		return err
	}
	table := "outbox_archive"
	if r.dialect.postgres() {
		table = "outbox_archive_rest"
	}
	return r.deleteOld(ctx, table, "day < ?", oldest)
}
