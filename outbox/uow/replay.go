package uow

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"reflect"
	"strings"
)

// locks reports whether a query with rows may wait for locks while its rows are read. Servers then report a deadlock,
// which ends the transaction, as late as that, where only the reader sees it.
func locks(k kind, query string) bool {
	if k == change {
		return true
	}
	q := strings.ToUpper(query)
	if strings.Contains(q, "SHARE") { // FOR SHARE, FOR KEY SHARE, LOCK IN SHARE MODE
		return true
	}
	if !strings.Contains(q, "UPDATE") {
		return false
	}
	q = strings.Join(strings.Fields(q), " ")
	return strings.Contains(q, "FOR UPDATE") || strings.Contains(q, "FOR NO KEY UPDATE")
}

// A replay has the rows of a query that was read to its end.
type replay struct {
	columns []string
	types   []*sql.ColumnType
	values  [][]any
	next    int
}

// record reads rows to their end.
func record(rows *sql.Rows, err error) (*replay, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	r := &replay{}
	if r.columns, err = rows.Columns(); err != nil {
		return nil, err
	}
	if r.types, err = rows.ColumnTypes(); err != nil {
		return nil, err
	}
	for rows.Next() {
		values, to := make([]any, len(r.columns)), make([]any, len(r.columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			return nil, err
		}
		r.values = append(r.values, values)
	}
	return r, rows.Err()
}

// rows hands the rows out again; only database/sql can make a sql.Rows.
func (r *replay) rows(ctx context.Context) (*sql.Rows, error) {
	db := sql.OpenDB(r)
	defer func() { _ = db.Close() }() // the connection goes when its rows are closed
	return db.QueryContext(ctx, "")   //nolint:sqlclosecheck // the caller closes them
}

// row is rows for the first of them.
func (r *replay) row(ctx context.Context) *sql.Row {
	db := sql.OpenDB(r)
	defer func() { _ = db.Close() }()
	return db.QueryRowContext(ctx, "")
}

var (
	_ driver.Connector      = (*replay)(nil)
	_ driver.QueryerContext = (*replay)(nil)
	_ driver.Conn           = (*replay)(nil)
	_ driver.Rows           = (*replay)(nil)

	_ driver.RowsColumnTypeScanType         = (*replay)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*replay)(nil)
	_ driver.RowsColumnTypeNullable         = (*replay)(nil)
)

func (r *replay) Connect(context.Context) (driver.Conn, error) { return r, nil }
func (r *replay) Driver() driver.Driver                        { return nil }

func (r *replay) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return r, nil
}
func (r *replay) Prepare(string) (driver.Stmt, error) { return nil, driver.ErrSkip }
func (r *replay) Begin() (driver.Tx, error)           { return nil, driver.ErrSkip }

func (r *replay) Columns() []string { return r.columns }
func (r *replay) Close() error      { return nil }

func (r *replay) Next(dest []driver.Value) error {
	if r.next == len(r.values) {
		return io.EOF
	}
	for i, v := range r.values[r.next] {
		dest[i] = v
	}
	r.next++
	return nil
}

func (r *replay) ColumnTypeScanType(i int) reflect.Type      { return r.types[i].ScanType() }
func (r *replay) ColumnTypeDatabaseTypeName(i int) string    { return r.types[i].DatabaseTypeName() }
func (r *replay) ColumnTypeNullable(i int) (may, known bool) { return r.types[i].Nullable() }
