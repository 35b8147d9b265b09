package store

import (
	"context"
	"fmt"
	"strings"
)

// The states of a participant's row.
const (
	Open   = "open"   // the do has begun, its outcome comes later
	Done   = "done"   // the do was answered: see Outcome
	Undone = "undone" // the do was undone
	Barred = "barred" // the undo came first: the do must never run
)

// A Part is what a participant remembers under a token.
type Part struct {
	Token, State  string
	Outcome, Code string
	Reply         []byte // the result, or a rejection's text
	Fresh         bool   // to be written: there is no row yet
	Created       int64
}

// Parts looks tokens up, at most one statement. Locked rows stay as they are until the transaction ends.
func Parts(ctx context.Context, tokens []string, lock bool) (map[string]*Part, error) {
	found := make(map[string]*Part, len(tokens))
	if len(tokens) == 0 {
		return found, nil
	}
	c := open(ctx)
	cond, args := c.any("token", tokens)
	suffix := ""
	if lock && c.name != sqlite {
		suffix = " ORDER BY token FOR UPDATE"
	}
	err := c.each(ctx, func(scan func(...any) error) error {
		p := &Part{}
		if err := scan(&p.Token, &p.State, &p.Outcome, &p.Code, &p.Reply); err != nil {
			return err
		}
		found[p.Token] = p
		return nil
	}, "SELECT token, state, outcome, code, reply FROM saga_participants WHERE "+cond+suffix, args...)
	if err != nil {
		return nil, fmt.Errorf("look up %d tokens: %w", len(tokens), err)
	}
	return found, nil
}

// WriteParts inserts fresh parts, and moves the others on: from open to done, from done to undone. A fresh part
// whose token is taken fails the statement: somebody else was faster, and the handler must look again.
func WriteParts(ctx context.Context, parts []*Part) error {
	var fresh, known []*Part
	for _, p := range parts {
		if p.Fresh {
			fresh = append(fresh, p)
		} else {
			known = append(known, p)
		}
	}
	c := open(ctx)
	if _, err := c.insert(ctx, "saga_participants", len(fresh), partColumns(fresh), "", nil); err != nil {
		return err
	}
	if len(known) == 0 {
		return nil
	}
	if err := c.moveParts(ctx, known); err != nil {
		return fmt.Errorf("update %d participants: %w", len(known), err)
	}
	return nil
}

func partColumns(parts []*Part) []column {
	return []column{
		texts("token", parts, func(p *Part) string { return p.Token }),
		texts("state", parts, func(p *Part) string { return p.State }),
		texts("outcome", parts, func(p *Part) string { return p.Outcome }),
		texts("code", parts, func(p *Part) string { return p.Code }),
		blobs("reply", parts, func(p *Part) []byte { return p.Reply }),
		ints("created_at", parts, func(p *Part) int64 { return p.Created }),
	}
}

const (
	moveSet  = "state = v.state, outcome = v.outcome, code = v.code, reply = v.reply"
	moveFrom = "((s.state = 'open' AND v.state = 'done') OR (s.state = 'done' AND v.state = 'undone'))"
)

func (c conn) moveParts(ctx context.Context, parts []*Part) error {
	cols := partColumns(parts)
	switch c.name {
	case postgres:
		from, args := unnest(cols)
		_, err := c.exec(ctx, "UPDATE saga_participants AS s SET "+moveSet+" FROM "+from+
			" WHERE s.token = v.token AND s.token = ANY(?::text[]) AND "+moveFrom, append(args, cols[0].array)...)
		return err
	case mysql:
		// The state comes last: assignments before it see the old one.
		ok := strings.NewReplacer("s.", "", "v.state", "VALUES(state)").Replace(moveFrom)
		var set []string
		for _, name := range []string{"outcome", "code", "reply", "state"} {
			set = append(set, fmt.Sprintf("%s = IF(%s, VALUES(%s), %s)", name, ok, name, name))
		}
		_, err := c.insert(ctx, "saga_participants", len(parts), cols,
			"ON DUPLICATE KEY UPDATE "+strings.Join(set, ", "), nil)
		return err
	}
	return chunks(len(parts), len(cols), func(from, to int) error {
		rows, args := values(cols, from, to)
		_, err := c.exec(ctx, "UPDATE saga_participants AS s SET "+moveSet+" FROM ("+c.named(cols, rows)+
			") AS v WHERE s.token = v.token AND "+moveFrom, args...)
		return err
	})
}

// named is SQLite's table of values with names.
func (c conn) named(cols []column, rows string) string {
	list := make([]string, len(cols))
	for i, col := range cols {
		list[i] = fmt.Sprintf("column%d AS %s", i+1, col.name)
	}
	return "SELECT " + strings.Join(list, ", ") + " FROM (VALUES " + rows + ")"
}

// PurgeParts deletes at most limit parts that were written before a time and are not open, and notes that time. It
// runs inside a unit of work.
func PurgeParts(ctx context.Context, before int64, limit int) (int64, error) {
	c := open(ctx)
	old := "SELECT token FROM saga_participants WHERE created_at < ? AND state <> 'open' ORDER BY created_at LIMIT ?"
	if c.name == mysql { // no LIMIT in a subquery of IN
		old = "SELECT token FROM (" + old + ") AS v"
	}
	n, err := c.exec(ctx, "DELETE FROM saga_participants WHERE token IN ("+old+")", before, limit)
	if err == nil && n > 0 {
		err = c.notePurge(ctx, before)
	}
	if err != nil {
		return 0, fmt.Errorf("purge participants: %w", err)
	}
	return n, nil
}

// horizon is the token of the row that tells how far PurgeParts has come. No command has it; it is open, so it stays.
const horizon = "horizon"

func (c conn) notePurge(ctx context.Context, before int64) error {
	conflict := "ON CONFLICT (token) DO UPDATE SET created_at = excluded.created_at " +
		"WHERE saga_participants.created_at < excluded.created_at"
	if c.name == mysql {
		conflict = "ON DUPLICATE KEY UPDATE created_at = GREATEST(created_at, VALUES(created_at))"
	}
	row := []*Part{{Token: horizon, State: Open, Created: before}}
	_, err := c.insert(ctx, "saga_participants", 1, partColumns(row), conflict, nil)
	return err
}

// Purged returns the time before which parts may have been purged; 0 if none ever was.
func Purged(ctx context.Context) (before int64, err error) {
	c := open(ctx)
	err = c.each(ctx, func(scan func(...any) error) error { return scan(&before) },
		"SELECT created_at FROM saga_participants WHERE token = ?", horizon)
	if err != nil {
		return 0, fmt.Errorf("look up what was purged: %w", err)
	}
	return before, nil
}
