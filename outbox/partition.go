package outbox

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"
)

// ahead is for how many days from today the archive's partitions are created.
const ahead = 3

// A partition of the archive is named after its day.
const (
	partitionPostgres = "outbox_archive_d"
	partitionMySQL    = "d"
	dayLayout         = "20060102"
)

func dayName(prefix string, day int64) string {
	return prefix + time.Unix(day*86_400, 0).UTC().Format(dayLayout)
}

// dayOf returns the day that a partition is named after; ok is false for others.
func dayOf(prefix, name string) (n int64, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	t, err := time.Parse(dayLayout, rest)
	return t.Unix() / 86_400, err == nil
}

// partitionsToDo tells which days have no partition yet and which partitions are older than the oldest day to keep.
// Days before the newest partition are none of ours to create: on MySQL they are in it.
func partitionsToDo(prefix string, names []string, today, oldest int64) (create []int64, drop []string) {
	newest := today - 1
	for _, name := range names {
		n, ok := dayOf(prefix, name)
		if !ok {
			continue
		}
		newest = max(newest, n)
		if n < oldest {
			drop = append(drop, name)
		}
	}
	for d := newest + 1; d < today+ahead; d++ {
		create = append(create, d)
	}
	return create, drop
}

// partitionPostgres creates and drops partitions. Both need a lock that nobody else may hold; it waits for it for so
// short a time that nobody has to wait long behind it, and tries again in the next round.
func (r *Relay) partitionPostgres(ctx context.Context, today, oldest int64) error {
	tx, err := r.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	x := execer{ctx, tx, r.dialect}
	if _, err := x.exec("SET LOCAL lock_timeout = '1s'"); err != nil {
		return err
	}
	names, err := x.strings(`SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'outbox_archive'::regclass`)
	if err != nil {
		return err
	}
	create, drop := partitionsToDo(partitionPostgres, names, today, oldest)
	if len(create)+len(drop) == 0 {
		return nil
	}
	late, err := x.numbers("SELECT DISTINCT day FROM outbox_archive_rest WHERE day >= ?", today)
	if err != nil {
		return err
	}
	var free bool
	err = tx.QueryRowContext(ctx, "SELECT pg_try_advisory_xact_lock('outbox_archive'::regclass::oid::bigint)").Scan(&free)
	if err != nil || !free { // another relay does it
		return err
	}
	for _, d := range create {
		if slices.Contains(late, d) { // it began before its partition was there, and stays without
			continue
		}
		_, err := x.exec("CREATE TABLE IF NOT EXISTS " + dayName(partitionPostgres, d) +
			" PARTITION OF outbox_archive FOR VALUES FROM (" + itoa(d) + ") TO (" + itoa(d+1) + ")")
		if err != nil {
			return err
		}
	}
	for _, name := range drop {
		if _, err := x.exec("DROP TABLE IF EXISTS " + name); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// partitionMySQL creates and drops partitions, on a connection of its own, since a lock's timeout is the session's.
func (r *Relay) partitionMySQL(ctx context.Context, today, oldest int64) (err error) {
	conn, err := r.pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	const lock = "SHA1(CONCAT(DATABASE(), '.outbox_archive'))" // locks are the whole server's, their names short
	var free sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+lock+", 0)").Scan(&free); err != nil || free.Int64 == 0 {
		return err // another relay does it
	}
	last := context.WithoutCancel(ctx)
	defer func() {
		for _, q := range []string{"SET SESSION lock_wait_timeout = DEFAULT", "DO RELEASE_LOCK(" + lock + ")"} {
			_, e := conn.ExecContext(last, q)
			err = errors.Join(err, e)
		}
	}()
	if _, err := conn.ExecContext(ctx, "SET SESSION lock_wait_timeout = 1"); err != nil {
		return err
	}
	x := execer{ctx, conn, r.dialect}
	names, err := x.strings(`SELECT partition_name FROM information_schema.partitions
		WHERE table_schema = DATABASE() AND table_name = 'outbox_archive'`)
	if err != nil {
		return err
	}
	create, drop := partitionsToDo(partitionMySQL, names, today, oldest)
	if len(create) > 0 {
		list := ""
		for _, d := range create {
			list += "PARTITION " + dayName(partitionMySQL, d) + " VALUES LESS THAN (" + itoa(d+1) + "), "
		}
		_, err := x.exec("ALTER TABLE outbox_archive REORGANIZE PARTITION rest INTO (" + list +
			"PARTITION rest VALUES LESS THAN MAXVALUE)")
		if err != nil {
			return err
		}
	}
	if slices.Sort(drop); len(drop) > 0 {
		_, err = x.exec("ALTER TABLE outbox_archive DROP PARTITION " + strings.Join(drop, ", "))
	}
	return err
}
