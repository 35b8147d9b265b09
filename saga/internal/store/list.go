package store

import (
	"context"
	"fmt"
	"strings"
)

// A Filter chooses instances; zero fields choose all.
type Filter struct {
	Type, Key, Tag string
	Status         []string
	Before         int64  // changed before this time
	After          string // ids greater than this
	Limit          int
}

// List returns instances in the order of their ids, which is that of their starts. States and places are left out.
func List(ctx context.Context, f Filter) ([]*Row, error) {
	c := open(ctx)
	where, args := []string{"id > ?", "status <> ?"}, []any{f.After, Awaited}
	and := func(cond string, a ...any) {
		where, args = append(where, cond), append(args, a...)
	}
	if f.Type != "" {
		and("type = ?", f.Type)
	}
	if f.Key != "" {
		and("saga_key = ?", f.Key)
	}
	if f.Tag != "" {
		at := "instr"
		if c.name == postgres {
			at = "strpos"
		}
		and(at+"(tags, ?) > 0", "|"+f.Tag+"|")
	}
	if f.Before != 0 {
		and("updated_at < ?", f.Before)
	}
	if len(f.Status) > 0 {
		list, a := c.in(f.Status)
		and("status IN "+list, a...)
	}
	query := "SELECT id, type, saga_key, def_version, status, step, reason, version, '', '', tags, COALESCE(due_at, 0), " +
		"COALESCE(ended_at, 0), created_at, updated_at FROM saga_instances WHERE " + strings.Join(where, " AND ") +
		" ORDER BY id LIMIT ?"
	rows, err := c.rows(ctx, query, append(args, f.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return rows, nil
}
