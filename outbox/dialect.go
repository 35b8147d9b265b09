package outbox

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"gorm.io/gorm"
)

// A dialect knows how a database says what the package needs.
type dialect struct {
	name   string
	clock  string // microseconds since 1970 by the database's clock
	update string // suffix that locks the rows read
	vars   int    // bind variables per statement; 0 for no bound
}

var dialects = map[string]dialect{
	"postgres": {
		name:   "postgres",
		clock:  "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
		update: " FOR UPDATE",
	},
	"mysql": {
		name:   "mysql",
		clock:  "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))",
		update: " FOR UPDATE",
		vars:   65_535,
	},
	"sqlite": {
		name:  "sqlite",
		clock: "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
		// SQLite allows 32,766, but the pure Go drivers look each variable up among all others: 64 rows cost
		// half of what 256 do.
		vars: 512,
	},
}

func dialectOf(db *gorm.DB) (dialect, error) {
	d, ok := dialects[db.Name()]
	if !ok {
		return d, fmt.Errorf("outbox: dialect %q is not supported, only postgres, mysql and sqlite", db.Name())
	}
	return d, nil
}

func (d dialect) postgres() bool { return d.name == "postgres" }
func (d dialect) sqlite() bool   { return d.name == "sqlite" }
func (d dialect) mysql() bool    { return d.name == "mysql" }

// skip is like update, and passes over what others have locked.
func (d dialect) skip() string {
	if d.update == "" {
		return ""
	}
	return d.update + " SKIP LOCKED"
}

// sql replaces {now} by the clock and, on PostgreSQL, each ? by $1, $2, ….
func (d dialect) sql(query string) string {
	query = strings.ReplaceAll(query, "{now}", d.clock)
	if !d.postgres() {
		return query
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

// rows says what follows FROM in a statement that locks rows of table by their seq, and its argument. On MySQL and
// MariaDB it goes from one to the next through the primary key: the plan for a list may be a scan, which waits for rows
// that an idle transaction has inserted.
func (d dialect) rows(table string, seqs []int64) (string, []any) {
	if d.mysql() {
		list, _ := json.Marshal(seqs) //nolint:errchkjson // integers always encode
		return "JSON_TABLE(?, '$[*]' COLUMNS (n BIGINT PATH '$')) AS j STRAIGHT_JOIN " + table +
			" AS o ON o.seq = j.n WHERE true", []any{string(list)}
	}
	if consecutive(seqs) {
		return table + " WHERE seq >= ? AND seq <= ?", []any{seqs[0], seqs[len(seqs)-1]}
	}
	where, args := d.among("seq", seqs)
	return table + " WHERE " + where, args
}

// consecutive reports whether numbers are all those from the first to the last: to look for a range is half the work.
func consecutive(seqs []int64) bool {
	for i := range seqs {
		if seqs[i] != seqs[0]+int64(i) {
			return false
		}
	}
	return len(seqs) > 0
}

// deletion returns a statement that deletes rows of table by their seq, and its argument.
func (d dialect) deletion(table string, seqs []int64) (string, []any) {
	rows, args := d.rows(table, seqs)
	if d.mysql() {
		return "DELETE o FROM " + rows, args
	}
	return "DELETE FROM " + rows, args
}

// same returns a condition that two texts are the same. MySQL and MariaDB leave spaces at the end out of a comparison:
// "k" and "k " would be one key, and a key of spaces none.
func (d dialect) same(a, b string) string {
	if d.mysql() {
		return "(" + a + " = " + b + " AND CHAR_LENGTH(" + a + ") = CHAR_LENGTH(" + b + "))"
	}
	return a + " = " + b
}

// is returns a condition that a column of text is a value, and its arguments.
func (d dialect) is(column, value string) (string, []any) {
	if d.mysql() {
		return d.same(column, "?"), []any{value, value}
	}
	return d.same(column, "?"), []any{value}
}

// among returns a condition that column is one of values, and its argument if it has one. The statement's text
// does not depend on the number of values where that lets the database keep its plan.
func (d dialect) among(column string, values []int64) (string, []any) {
	switch {
	case d.postgres():
		return column + " = ANY(?)", []any{values}
	case d.sqlite():
		list, _ := json.Marshal(values) //nolint:errchkjson // integers always encode
		return column + " IN (SELECT value FROM json_each(?))", []any{string(list)}
	}
	b := []byte(column + " IN (")
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, v, 10)
	}
	if len(values) == 0 {
		b = append(b, "NULL"...)
	}
	return string(append(b, ')')), nil
}
