package store

import (
	"context"
	"fmt"
	"strings"
)

// maxArgs bounds the variables of a statement. The databases allow tens of thousands, but the time that SQLite's
// driver takes to bind them grows with their square.
const maxArgs = 768

// A column holds the values of many rows.
type column struct {
	name  string
	typ   string // PostgreSQL's
	array any
	at    func(i int) any
}

func texts[T any](name string, rows []T, f func(T) string) column {
	v := make([]string, len(rows))
	for i, r := range rows {
		v[i] = f(r)
	}
	return column{name, "text", v, func(i int) any { return v[i] }}
}

func ints[T any](name string, rows []T, f func(T) int64) column {
	v := make([]int64, len(rows))
	for i, r := range rows {
		v[i] = f(r)
	}
	return column{name, "bigint", v, func(i int) any { return v[i] }}
}

func blobs[T any](name string, rows []T, f func(T) []byte) column {
	v := make([][]byte, len(rows))
	for i, r := range rows {
		if v[i] = f(r); v[i] == nil {
			v[i] = []byte{}
		}
	}
	return column{name, "bytea", v, func(i int) any { return v[i] }}
}

func names(cols []column) string {
	list := make([]string, len(cols))
	for i, c := range cols {
		list[i] = c.name
	}
	return strings.Join(list, ", ")
}

// unnest is PostgreSQL's table of the rows, named v.
func unnest(cols []column) (string, []any) {
	args := make([]any, len(cols))
	arrays := make([]string, len(cols))
	for i, c := range cols {
		args[i] = c.array
		arrays[i] = "?::" + c.typ + "[]"
	}
	return "unnest(" + strings.Join(arrays, ", ") + ") AS v(" + names(cols) + ")", args
}

// values is the list of rows from..to.
func values(cols []column, from, to int) (string, []any) {
	row := "(?" + strings.Repeat(",?", len(cols)-1) + ")"
	args := make([]any, 0, (to-from)*len(cols))
	for i := from; i < to; i++ {
		for _, c := range cols {
			args = append(args, c.at(i))
		}
	}
	return row + strings.Repeat(","+row, to-from-1), args
}

// chunks calls f for ranges of n rows that fit into one statement.
func chunks(n, cols int, f func(from, to int) error) error {
	step := max(1, maxArgs/cols)
	for from := 0; from < n; from += step {
		if err := f(from, min(n, from+step)); err != nil {
			return err
		}
	}
	return nil
}

// insert writes n rows. conflict is what follows the rows; with returning it ends in a column that is scanned.
func (c conn) insert(
	ctx context.Context, table string, n int, cols []column, conflict string, returning func(string),
) (affected int64, err error) {
	if n == 0 {
		return 0, nil
	}
	run := func(query string, args []any) error {
		if returning == nil {
			k, err := c.exec(ctx, query, args...)
			affected += k
			return err
		}
		return c.each(ctx, func(scan func(...any) error) error {
			var s string
			if err := scan(&s); err != nil {
				return err
			}
			returning(s)
			return nil
		}, query, args...)
	}
	head := "INSERT INTO " + table + " (" + names(cols) + ") "
	if c.name == postgres {
		from, args := unnest(cols)
		err = run(head+"SELECT "+names(cols)+" FROM "+from+" "+conflict, args)
	} else {
		err = chunks(n, len(cols), func(from, to int) error {
			rows, args := values(cols, from, to)
			return run(head+"VALUES "+rows+" "+conflict, args)
		})
	}
	if err != nil {
		return affected, fmt.Errorf("insert %d rows into %s: %w", n, table, err)
	}
	return affected, nil
}
