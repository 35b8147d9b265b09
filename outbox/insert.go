package outbox

import (
	"context"
	"fmt"
	"strings"

	"gorm.io/gorm"
)

// exec runs a statement in the database's own notation.
type exec func(ctx context.Context, query string, args ...any) error

// onConn runs statements on conn.
func onConn(conn gorm.ConnPool) exec {
	return func(ctx context.Context, query string, args ...any) error {
		_, err := conn.ExecContext(ctx, query, args...)
		return err
	}
}

// maxBytes bounds a statement on MySQL, where max_allowed_packet may be as low as 16 MiB.
const maxBytes = 4 << 20

// insert writes records in order: one statement for those that leave now, one for those that wait for their time,
// and more only where a database bounds the size of a statement.
func (o *Outbox) insert(ctx context.Context, exec exec, records []record) error {
	now := records
	var later []record
	for i := range records {
		if records[i].due == 0 {
			continue
		}
		now, later = split(records)
		break
	}
	if err := o.insertInto(ctx, exec, "outbox", now); err != nil {
		return err
	}
	return o.insertInto(ctx, exec, "outbox_scheduled", later)
}

func split(records []record) (now, later []record) {
	for i := range records {
		if records[i].due == 0 {
			now = append(now, records[i])
		} else {
			later = append(later, records[i])
		}
	}
	return now, later
}

func (o *Outbox) insertInto(ctx context.Context, exec exec, table string, records []record) error {
	if len(records) == 0 {
		return nil
	}
	if o.dialect.postgres() {
		insert := insertArrays
		if len(records) == 1 {
			insert = insertOne
		}
		if err := insert(ctx, exec, table, records); err != nil {
			return fmt.Errorf("outbox: insert %d messages: %w", len(records), err)
		}
		return nil
	}
	for len(records) > 0 {
		n := o.chunk(records)
		if err := insertValues(ctx, exec, table, records[:n]); err != nil {
			return fmt.Errorf("outbox: insert %d messages: %w", n, err)
		}
		records = records[n:]
	}
	return nil
}

// chunk returns how many records fit into one statement.
func (o *Outbox) chunk(records []record) int {
	const varsPerRow = 8
	n, bytes := 0, 0
	for n < len(records) && (n+1)*varsPerRow <= o.dialect.vars {
		r := &records[n]
		bytes += len(r.id) + len(r.topic) + len(r.key) + len(r.typ) + len(r.headers) + len(r.payload)
		if n > 0 && bytes > maxBytes {
			break
		}
		n++
	}
	return n
}

// insertArrays inserts with one statement of constant text. pg_current_xact_id gives the transaction its number
// before the first seq is taken, which is what lets a relay tell when no lower seq can appear any more.
func insertArrays(ctx context.Context, exec exec, table string, records []record) error {
	n := len(records)
	shards, dues := make([]int64, n), make([]int64, n)
	ids, topics, keys, types := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	headers, payloads := make([]string, n), make([][]byte, n)
	for i := range records {
		r := &records[i]
		shards[i], dues[i], ids[i], topics[i], keys[i] = int64(r.shard), r.due, r.id, r.topic, r.key
		types[i], headers[i], payloads[i] = r.typ, r.headers, r.payload
	}
	due, arg, args := "", "", []any{shards, ids, topics, keys, types, headers, payloads}
	if table == "outbox_scheduled" {
		due, arg, args = ", due_at", ", $8::bigint[]", append(args, dues)
	}
	return exec(ctx, `INSERT INTO `+table+` (`+columns+due+`)
		SELECT `+columns+due+`
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[]`+arg+`)
		WITH ORDINALITY AS u(`+columns+due+`, place)
		WHERE pg_current_xact_id() IS NOT NULL ORDER BY place`, args...)
}

// insertOne is insertArrays for one record, which costs the server less.
func insertOne(ctx context.Context, exec exec, table string, records []record) error {
	r := &records[0]
	due, arg, args := "", "", []any{r.shard, r.id, r.topic, r.key, r.typ, r.headers, r.payload}
	if table == "outbox_scheduled" {
		due, arg, args = ", due_at", ", $8::bigint", append(args, r.due)
	}
	return exec(ctx, `INSERT INTO `+table+` (`+columns+due+`)
		SELECT $1::smallint, $2::text, $3::text, $4::text, $5::text, $6::text, $7::bytea`+arg+`
		WHERE pg_current_xact_id() IS NOT NULL`, args...)
}

// insertValues inserts with one statement of many rows.
func insertValues(ctx context.Context, exec exec, table string, records []record) error {
	due, row := "", "(?,?,?,?,?,?,?)"
	if table == "outbox_scheduled" {
		due, row = ", due_at", "(?,?,?,?,?,?,?,?)"
	}
	var b strings.Builder
	b.WriteString("INSERT INTO " + table + " (" + columns + due + ") VALUES ")
	args := make([]any, 0, len(records)*8)
	for i := range records {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(row)
		r := &records[i]
		args = append(args, r.shard, r.id, r.topic, r.key, r.typ, r.headers, r.payload)
		if due != "" {
			args = append(args, r.due)
		}
	}
	return exec(ctx, b.String(), args...)
}
