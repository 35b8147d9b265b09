package uow

import (
	"context"
	"database/sql"

	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
	"gorm.io/gorm/schema"
)

// noTransaction returns a handle on which every statement fails with ErrNoTransaction. An error on the handle
// alone is not enough: some of GORM's ways to a statement use the dialect and the pool before they look at it.
func noTransaction(ctx context.Context) *gorm.DB {
	db, err := gorm.Open(nowhere{}, &gorm.Config{
		ConnPool:               nowhere{},
		SkipDefaultTransaction: true,
		DisableAutomaticPing:   true,
		Logger:                 logger.Discard,
	})
	if err != nil {
		return &gorm.DB{Error: err}
	}
	return db.WithContext(ctx)
}

// nowhere is a dialect and a connection pool in one, for a database that is not there.
type nowhere struct{}

var (
	_ gorm.Dialector        = nowhere{}
	_ gorm.ConnPool         = nowhere{}
	_ gorm.ConnPoolBeginner = nowhere{}
)

func (nowhere) PrepareContext(context.Context, string) (*sql.Stmt, error) {
	return nil, ErrNoTransaction
}

func (nowhere) ExecContext(context.Context, string, ...any) (sql.Result, error) {
	return nil, ErrNoTransaction
}

func (nowhere) QueryContext(context.Context, string, ...any) (*sql.Rows, error) {
	return nil, ErrNoTransaction
}

func (nowhere) QueryRowContext(ctx context.Context, _ string, _ ...any) *sql.Row {
	return errorRow(ctx, ErrNoTransaction)
}

func (nowhere) BeginTx(context.Context, *sql.TxOptions) (gorm.ConnPool, error) {
	return nil, ErrNoTransaction
}

func (nowhere) Name() string { return "nowhere" }

func (nowhere) Initialize(db *gorm.DB) error {
	callbacks.RegisterDefaultCallbacks(db, &callbacks.Config{})
	return nil
}

func (nowhere) Migrator(*gorm.DB) gorm.Migrator                     { return nil }
func (nowhere) DataTypeOf(*schema.Field) string                     { return "" }
func (nowhere) DefaultValueOf(*schema.Field) clause.Expression      { return clause.Expr{SQL: "DEFAULT"} }
func (nowhere) BindVarTo(w clause.Writer, _ *gorm.Statement, _ any) { _ = w.WriteByte('?') }
func (nowhere) QuoteTo(w clause.Writer, s string)                   { _, _ = w.WriteString(s) }
func (nowhere) Explain(query string, _ ...any) string               { return query }
