package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

// Awaited is the status of a placeholder: something came for a saga that is not started yet.
const Awaited = "awaited"

// A Row is an instance at rest. Times are unix milliseconds; 0 stands for NULL.
type Row struct {
	ID, Type, Key        string
	DefVersion           int64
	Status, Step, Reason string
	Version              int64
	State, Place         string
	Tags                 string
	Due, Ended           int64
	Created, Updated     int64
}

const rowColumns = "id, type, saga_key, def_version, status, step, reason, version, state, place, tags, " +
	"COALESCE(due_at, 0), COALESCE(ended_at, 0), created_at, updated_at"

func (r *Row) scan(scan func(...any) error) error {
	return scan(&r.ID, &r.Type, &r.Key, &r.DefVersion, &r.Status, &r.Step, &r.Reason, &r.Version, &r.State, &r.Place,
		&r.Tags, &r.Due, &r.Ended, &r.Created, &r.Updated)
}

func (c conn) rows(ctx context.Context, query string, args ...any) ([]*Row, error) {
	var list []*Row
	err := c.each(ctx, func(scan func(...any) error) error {
		r := &Row{}
		list = append(list, r)
		return r.scan(scan)
	}, query, args...)
	return list, err
}

// MustLock reports whether an update can only be sure of its row's version when the row is locked at load.
func MustLock(ctx context.Context) bool { return open(ctx).name == mysql }

// Load returns the instances with these ids, in the order of ids; locked ones in that order.
func Load(ctx context.Context, ids []string, lock bool) ([]*Row, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	c := open(ctx)
	cond, args := c.any("id", ids)
	suffix := ""
	if lock && c.name != sqlite {
		suffix = " ORDER BY id FOR UPDATE"
	}
	list, err := c.rows(ctx, "SELECT "+rowColumns+" FROM saga_instances WHERE "+cond+suffix, args...)
	if err != nil {
		return nil, fmt.Errorf("load %d instances: %w", len(ids), err)
	}
	slices.SortFunc(list, func(a, b *Row) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// A Key names an instance for people.
type Key struct{ Type, Key string }

// Find returns the ids of instances by their keys.
func Find(ctx context.Context, keys []Key) (map[Key]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	c := open(ctx)
	cols := []column{
		texts("type", keys, func(k Key) string { return k.Type }),
		texts("saga_key", keys, func(k Key) string { return k.Key }),
	}
	var list string
	var args []any
	switch c.name {
	case postgres:
		list, args = unnest(cols)
		list = "SELECT type, saga_key FROM " + list
	case sqlite:
		list, args = values(cols, 0, len(keys))
		list = "VALUES " + list
	default:
		list, args = values(cols, 0, len(keys))
	}
	found := make(map[Key]string, len(keys))
	err := c.each(ctx, func(scan func(...any) error) error {
		var id string
		var k Key
		if err := scan(&id, &k.Type, &k.Key); err != nil {
			return err
		}
		found[k] = id
		return nil
	}, "SELECT id, type, saga_key FROM saga_instances WHERE (type, saga_key) IN ("+list+")", args...)
	if err != nil {
		return nil, fmt.Errorf("find %d instances: %w", len(keys), err)
	}
	return found, nil
}

// Known is what [Due] is to look for: instances of one type and version of a definition, or placeholders, of version 0.
type Known struct {
	Type    string
	Version int
}

// Due returns instances whose time has come, at most limit, locked where there are locks; those that somebody else
// holds are left to him, and those that are not known to whoever knows them.
func Due(ctx context.Context, now int64, known []Known, limit int) ([]*Row, error) {
	if len(known) == 0 {
		return nil, nil
	}
	c := open(ctx)
	kind, suffix := "type || ':' || def_version", " FOR UPDATE SKIP LOCKED"
	switch c.name {
	case mysql:
		kind = "CONCAT(type, ':', def_version)"
	case sqlite:
		suffix = ""
	}
	list := make([]string, len(known))
	for i, k := range known {
		list[i] = fmt.Sprintf("%s:%d", k.Type, k.Version)
	}
	// No index has the joined columns, so every planner walks the one of due_at, in order, and filters.
	cond, args := c.any(kind, list)
	rows, err := c.rows(ctx, "SELECT "+rowColumns+" FROM saga_instances WHERE due_at <= ? AND "+cond+
		" ORDER BY due_at LIMIT ?"+suffix, append(append([]any{now}, args...), limit)...)
	if err != nil {
		return nil, fmt.Errorf("look for due instances: %w", err)
	}
	return rows, nil
}

// Insert adds instances and returns the ids of those whose key was free.
func Insert(ctx context.Context, rows []*Row) (map[string]bool, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	c := open(ctx)
	cols := append([]column{
		texts("type", rows, func(r *Row) string { return r.Type }),
		texts("saga_key", rows, func(r *Row) string { return r.Key }),
		ints("created_at", rows, func(r *Row) int64 { return r.Created }),
	}, stepColumns(rows)...)
	won := make(map[string]bool, len(rows))
	take := func(id string) { won[id] = true }
	if c.name != mysql {
		_, err := c.insert(ctx, "saga_instances", len(rows), cols,
			"ON CONFLICT (type, saga_key) DO NOTHING RETURNING id", take)
		return won, err
	}
	if _, err := c.insert(ctx, "saga_instances", len(rows), cols, "ON DUPLICATE KEY UPDATE id = id", nil); err != nil {
		return nil, err
	}
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	cond, args := c.any("id", ids)
	err := c.each(ctx, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		take(id)
		return nil
	}, "SELECT id FROM saga_instances WHERE "+cond, args...)
	return won, err
}

// stepColumns are those that a transition writes. due_at and ended_at are nullable, so they have the raw names here.
func stepColumns(rows []*Row) []column {
	return []column{
		texts("id", rows, func(r *Row) string { return r.ID }),
		ints("version", rows, func(r *Row) int64 { return r.Version }),
		ints("def_version", rows, func(r *Row) int64 { return r.DefVersion }),
		texts("status", rows, func(r *Row) string { return r.Status }),
		texts("step", rows, func(r *Row) string { return r.Step }),
		texts("reason", rows, func(r *Row) string { return r.Reason }),
		texts("state", rows, func(r *Row) string { return r.State }),
		texts("place", rows, func(r *Row) string { return r.Place }),
		texts("tags", rows, func(r *Row) string { return r.Tags }),
		ints("updated_at", rows, func(r *Row) int64 { return r.Updated }),
		nullable("due_at", rows, func(r *Row) int64 { return r.Due }),
		nullable("ended_at", rows, func(r *Row) int64 { return r.Ended }),
	}
}

func nullable(name string, rows []*Row, f func(*Row) int64) column {
	v := make([]sql.NullInt64, len(rows))
	p := make([]*int64, len(rows))
	for i, r := range rows {
		if n := f(r); n != 0 {
			v[i] = sql.NullInt64{Int64: n, Valid: true}
			p[i] = &v[i].Int64
		}
	}
	return column{name, "bigint", p, func(i int) any { return v[i] }}
}

// Update stores transitions: of rows whose version is still the one before Version. It returns the ids of those.
func Update(ctx context.Context, rows []*Row) (map[string]bool, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	c := open(ctx)
	won := make(map[string]bool, len(rows))
	cols := stepColumns(rows)
	var err error
	switch c.name {
	case postgres:
		err = c.updatePostgres(ctx, rows, cols, won)
	case mysql:
		err = c.updateLocked(ctx, rows, cols, won)
	default:
		err = chunks(len(rows), len(cols), func(from, to int) error {
			return c.updateSQLite(ctx, cols, from, to, won)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("update %d instances: %w", len(rows), err)
	}
	return won, nil
}

const assignments = `version = v.version, def_version = v.def_version, status = v.status, step = v.step,
	reason = v.reason, state = v.state, place = v.place, tags = v.tags, updated_at = v.updated_at, due_at = v.due_at,
	ended_at = v.ended_at`

// updatePostgres names the ids once more: a plan made while the table was empty would scan it for ever.
func (c conn) updatePostgres(ctx context.Context, rows []*Row, cols []column, won map[string]bool) error {
	from, args := unnest(cols)
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	return c.returned(ctx, won, "UPDATE saga_instances AS s SET "+assignments+" FROM "+from+
		" WHERE s.id = v.id AND s.version = v.version - 1 AND s.id = ANY(?::text[]) RETURNING s.id", append(args, ids)...)
}

func (c conn) updateSQLite(ctx context.Context, cols []column, from, to int, won map[string]bool) error {
	rows, args := values(cols, from, to)
	return c.returned(ctx, won, "UPDATE saga_instances AS s SET "+assignments+
		" FROM ("+c.named(cols, rows)+") AS v"+
		" WHERE s.id = v.id AND s.version = v.version - 1 RETURNING id", args...)
}

// updateLocked is for MySQL and MariaDB, which have neither RETURNING for updates nor one syntax for a table of
// values: the rows are locked and were just read, so their versions are known, and an insert that always conflicts
// is the update of many rows. The columns that the insert would need beside are never used.
func (c conn) updateLocked(ctx context.Context, rows []*Row, cols []column, won map[string]bool) error {
	all := append([]column{
		texts("type", rows, func(r *Row) string { return r.Type }),
		texts("saga_key", rows, func(r *Row) string { return r.Key }),
		ints("created_at", rows, func(r *Row) int64 { return r.Created }),
	}, cols...)
	set := make([]string, 0, len(cols))
	for _, col := range cols[1:] {
		set = append(set, col.name+" = VALUES("+col.name+")")
	}
	_, err := c.insert(ctx, "saga_instances", len(rows), all, "ON DUPLICATE KEY UPDATE "+strings.Join(set, ", "), nil)
	for _, r := range rows {
		won[r.ID] = true
	}
	return err
}

func (c conn) returned(ctx context.Context, won map[string]bool, query string, args ...any) error {
	return c.each(ctx, func(scan func(...any) error) error {
		var id string
		if err := scan(&id); err != nil {
			return err
		}
		won[id] = true
		return nil
	}, query, args...)
}

// Delete removes instances with their journals.
func Delete(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	c := open(ctx)
	cond, args := c.any("saga_id", ids)
	if _, err := c.exec(ctx, "DELETE FROM saga_journal WHERE "+cond, args...); err != nil {
		return fmt.Errorf("delete journals: %w", err)
	}
	cond, args = c.any("id", ids)
	if _, err := c.exec(ctx, "DELETE FROM saga_instances WHERE "+cond, args...); err != nil {
		return fmt.Errorf("delete instances: %w", err)
	}
	return nil
}

// Ended returns the ids of instances that ended before a time, at most limit.
func Ended(ctx context.Context, before int64, limit int) ([]string, error) {
	c := open(ctx)
	suffix := ""
	if c.name != sqlite {
		suffix = " FOR UPDATE SKIP LOCKED"
	}
	var ids []string
	err := c.each(ctx, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		ids = append(ids, id)
		return err
	}, "SELECT id FROM saga_instances WHERE ended_at < ? ORDER BY ended_at LIMIT ?"+suffix, before, limit)
	if err != nil {
		return nil, fmt.Errorf("look for ended instances: %w", err)
	}
	return ids, nil
}
