package uow

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"
)

type dialect string

const (
	postgres dialect = "postgres"
	mariadb  dialect = "mysql"
	sqlite   dialect = "sqlite"
)

func dialectOf(db *gorm.DB) (dialect, error) {
	switch d := dialect(db.Name()); d {
	case postgres, mariadb, sqlite:
		return d, nil
	default:
		return "", fmt.Errorf("uow: dialect %q is not supported, only postgres, mysql and sqlite", d)
	}
}

// isolation is READ COMMITTED on MySQL and MariaDB, whose default locks gaps, and the server's default elsewhere.
func (d dialect) isolation() sql.IsolationLevel {
	if d == mariadb {
		return sql.LevelReadCommitted
	}
	return sql.LevelDefault
}

// transient reports whether err is nobody's fault, the transaction is gone, and running it again may help.
func (d dialect) transient(err error) bool {
	if code, ok := sqlState(err); ok {
		return code == "40001" || code == "40P01" || endsSession(code)
	}
	if e := (*mysql.MySQLError)(nil); errors.As(err, &e) {
		return e.Number == 1205 || e.Number == 1213 || killed(e)
	}
	if code, ok := sqliteCode(d, err); ok {
		return code == 5 || code == 6 // SQLITE_BUSY, SQLITE_LOCKED
	}
	return disconnected(err)
}

// ends reports whether a statement that failed with err ended the transaction, or may have.
func (d dialect) ends(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || d.transient(err) ||
		d.rolledBack(err)
}

// rolledBack reports whether err is what a database says that has rolled the transaction back. One that is found only
// while rows are read, by whoever reads them, may reach us as fn's error.
func (d dialect) rolledBack(err error) bool {
	if code, ok := sqlState(err); ok {
		return code == "40001" || code == "40P01"
	}
	if e := (*mysql.MySQLError)(nil); errors.As(err, &e) {
		return e.Number == 1213 || e.Number == 1206 // ER_LOCK_TABLE_FULL
	}
	code, ok := sqliteCode(d, err)
	if !ok {
		return false
	}
	switch code { // https://sqlite.org/lang_transaction.html, section 3.2
	case 5, 7, 9, 10, 11, 13: // BUSY, NOMEM, INTERRUPT, IOERR, CORRUPT, FULL
		return true
	}
	return false
}

// refused reports whether a failed COMMIT was answered by the server, so that nothing was committed.
func (d dialect) refused(err error) bool {
	if code, ok := sqlState(err); ok {
		return !endsSession(code) && code != "40003"
	}
	if e := (*mysql.MySQLError)(nil); errors.As(err, &e) {
		return !killed(e) && !inDoubt(e)
	}
	return false
}

// inDoubt reports whether MySQL or MariaDB say no more of a COMMIT than that something went wrong (1180), that it was
// interrupted (1317), or that a plugin failed around it (3100).
func inDoubt(e *mysql.MySQLError) bool {
	return e.Number == 1180 || e.Number == 1317 || e.Number == 3100
}

// endsSession reports whether an error of PostgreSQL's comes with the end of the connection: it broke, the server ended
// it, or the transaction was idle (25P03) or under way (25P04) for longer than the server allows. Who meets it may not
// be who took so long.
func endsSession(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P0") || code == "25P03" || code == "25P04"
}

// killed reports whether an error of MySQL's or MariaDB's comes with the end of the connection: the server shuts down
// (1053), or somebody has ended the session (1927 on MariaDB, 3169), or the server has, for idling (4031).
func killed(e *mysql.MySQLError) bool {
	return e.Number == 1053 || e.Number == 1927 || e.Number == 3169 || e.Number == 4031
}

func disconnected(err error) bool {
	var op *net.OpError
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &op)
}

func sqlState(err error) (string, bool) {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState(), true
	}
	return "", false
}

// sqliteCode returns SQLite's primary result code.
func sqliteCode(d dialect, err error) (int, bool) {
	var e interface{ Code() int }
	if d == sqlite && errors.As(err, &e) {
		return e.Code() & 0xff, true
	}
	return 0, false
}
