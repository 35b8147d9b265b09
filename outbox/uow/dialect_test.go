package uow_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/surge-go/surge/outbox/uow"
)

type state string

func (s state) Error() string    { return string(s) }
func (s state) SQLState() string { return string(s) }

type code int

func (c code) Error() string { return fmt.Sprint(int(c)) }
func (c code) Code() int     { return int(c) }

func TestClassification(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dialect            string
		err                error
		transient, refused bool
	}{
		{"postgres", state("40001"), true, true},
		{"postgres", state("40P01"), true, true},
		{"postgres", state("57P01"), true, false},
		{"postgres", state("08006"), true, false},
		{"postgres", state("25P03"), true, false},
		{"postgres", state("25P04"), true, false},
		{"postgres", state("25P02"), false, true},
		{"postgres", state("23505"), false, true},
		{"mysql", &mysql.MySQLError{Number: 1213}, true, true},
		{"mysql", &mysql.MySQLError{Number: 1205}, true, true},
		{"mysql", &mysql.MySQLError{Number: 1053}, true, false},
		{"mysql", &mysql.MySQLError{Number: 1927}, true, false},
		{"mysql", &mysql.MySQLError{Number: 4031}, true, false},
		{"mysql", &mysql.MySQLError{Number: 1180}, false, false},
		{"mysql", &mysql.MySQLError{Number: 1317}, false, false},
		{"mysql", &mysql.MySQLError{Number: 3100}, false, false},
		{"mysql", &mysql.MySQLError{Number: 1062}, false, true},
		{"mysql", mysql.ErrInvalidConn, true, false},
		{"sqlite", code(5 | 2<<8), true, false},
		{"sqlite", code(19), false, false},
		{"postgres", code(5), false, false},
		{"postgres", driver.ErrBadConn, true, false},
		{"postgres", context.Canceled, false, false},
		{"postgres", errors.New("own"), false, false},
	} {
		err := fmt.Errorf("wrapped: %w", c.err)
		if got := uow.Transient(c.dialect, err); got != c.transient {
			t.Errorf("%s %v: transient %v", c.dialect, c.err, got)
		}
		if got := uow.Refused(c.dialect, err); got != c.refused {
			t.Errorf("%s %v: refused %v", c.dialect, c.err, got)
		}
	}
}

func TestKindOfStatement(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT 1 FOR UPDATE":                "r",
		" \n(select 1) UNION (select 2)":     "r",
		"-- note\n/* more */ INSERT INTO x":  "c",
		"update x set y = 1":                 "c",
		"WITH a AS (INSERT …) SELECT 1":      "o",
		"CREATE TABLE x (y INT)":             "o",
		"ROLLBACK TO SAVEPOINT sp1":          "b",
		"ROLLBACK;":                          "e",
		"rollback work to sp1":               "b",
		"/* never ends":                      "o",
		"":                                   "o",
		"INSERT INTO x VALUES (1); ":         "c",
		"SELECT 1; INSERT INTO x VALUES (1)": "o",
	} {
		if got := uow.KindOf(query); got != want {
			t.Errorf("%q is %s, want %s", query, got, want)
		}
	}
}

// A deadlock that is met while rows are read goes unseen where a query is not known to lock them.
func TestLocksOfStatement(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"SELECT 1 FOR UPDATE":                      true,
		"select 1\nfor  no\tkey\nupdate of x":      true,
		"SELECT 1 FOR SHARE":                       true,
		"SELECT 1 LOCK IN SHARE MODE":              true,
		"UPDATE x SET y = 1 RETURNING y":           true,
		"SELECT updated_at FROM x WHERE y = 'for'": false,
	} {
		if got := uow.Locks(query); got != want {
			t.Errorf("%q locks: %v, want %v", query, got, want)
		}
	}
}

func FuzzKindOfStatement(f *testing.F) {
	f.Add("/* a */ SELECT 1")
	f.Add("--")
	f.Fuzz(func(t *testing.T, query string) {
		_, more, _ := strings.Cut(query, ";")
		want := map[bool]string{true: "c", false: "o"}[strings.TrimSpace(more) == ""]
		if got := uow.KindOf("INSERT " + query); got != want || uow.KindOf(query) == "" {
			t.Errorf("%q is %s, want %s", query, got, want)
		}
	})
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	files := fstest.MapFS{}
	for _, d := range []string{"sqlite", "postgres", "mysql"} {
		files[d+"/001_first.sql"] = &fstest.MapFile{Data: []byte(
			"-- items; and more\nCREATE TABLE items (\n  id INTEGER PRIMARY KEY,\n  n INTEGER\n);\n" +
				"INSERT INTO items (id, n) VALUES (1, 0);\n")}
		files[d+"/002_second.sql"] = &fstest.MapFile{Data: []byte("INSERT INTO items (id, n) VALUES (2, 0)")}
	}
	onEach(t, func(t *testing.T, db *gorm.DB) {
		var wg sync.WaitGroup
		for range 4 { // replicas that start together
			wg.Go(func() {
				if err := uow.Migrate(t.Context(), db, "test", files); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := count(t, db, "1 = 1"); got != 2 {
			t.Errorf("%d rows, want 2", got)
		}
		if err := uow.Migrate(t.Context(), db, "empty", fstest.MapFS{}); err == nil {
			t.Error("a package without migrations was accepted")
		}
	})
}

// On MySQL and MariaDB tables do not go away with the transaction: the next call goes on where one was cut off, and does
// not take somebody else's table for its own.
func TestMigrateGoesOn(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	file := func(text string) fstest.MapFS {
		return fstest.MapFS{"mysql/001_first.sql": {Data: []byte(text)}}
	}
	const first, second = "CREATE TABLE items (id INT PRIMARY KEY, n INT);\nINSERT INTO items VALUES (1, 0);\n",
		"CREATE INDEX items_n ON items (n);\nINSERT INTO items VALUES (2, 0);\nCREATE TABLE others (id INT);\n"
	if err := uow.Migrate(t.Context(), db, "test", file(first+second+"KILL CONNECTION_ID();\n")); err == nil {
		t.Fatal("its session was not ended")
	}
	exec(t, db, "DROP TABLE others")
	for range 2 {
		if err := uow.Migrate(t.Context(), db, "test", file(first+second)); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, db, "DELETE FROM others")
	if got := count(t, db, "1 = 1"); got != 2 {
		t.Errorf("%d rows, want 2", got)
	}
	for range 2 {
		if err := uow.Migrate(t.Context(), db, "other", file("CREATE TABLE mine (id INT);\n"+first)); err == nil {
			t.Error("a table that was there was taken for the package's own")
		}
		exec(t, db, "DROP TABLE IF EXISTS mine")
	}
}

// It goes on wherever it was cut off, and takes for done only what is done.
func TestMigrateGoesOnAnywhere(t *testing.T) {
	t.Parallel()
	const create, killed = "CREATE TABLE a (id INT);\n", "KILL CONNECTION_ID();\n"
	const cut = "CREATE TRIGGER cut BEFORE INSERT ON surge_migrations FOR EACH ROW " +
		"BEGIN IF NEW.package = 'test' AND NEW.number = 1 THEN SIGNAL SQLSTATE '45000'; END IF; END"
	for name, c := range map[string]struct{ file, before, first, again, check string }{
		"at the end":        {"001_a.sql", cut, create, create, "DROP TABLE a"},
		"number zero":       {"000_a.sql", "", create + killed, create + "CREATE TABLE b (id INT)", "DROP TABLE b"},
		"behind a drop":     {"001_a.sql", "", "ALTER TABLE items DROP COLUMN n;\n" + killed, "ALTER TABLE items DROP COLUMN n", "SELECT 1"},
		"before duplicates": {"001_a.sql", "INSERT INTO items VALUES (1, 7), (2, 7)", create + killed, create + "CREATE UNIQUE INDEX u ON items (n)", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openMySQL(t)
			if err := uow.Migrate(t.Context(), db, "before", fstest.MapFS{"mysql/001_b.sql": {
				Data: []byte("CREATE TABLE items (id INT PRIMARY KEY, n INT)"),
			}}); err != nil {
				t.Fatal(err)
			}
			if c.before != "" {
				exec(t, db, c.before)
			}
			if err := uow.Migrate(t.Context(), db, "test", fstest.MapFS{"mysql/" + c.file: {Data: []byte(c.first)}}); err == nil {
				t.Fatal("it was not cut off")
			}
			exec(t, db, "DROP TRIGGER IF EXISTS cut")
			err := uow.Migrate(t.Context(), db, "test", fstest.MapFS{"mysql/" + c.file: {Data: []byte(c.again)}})
			if (err != nil) != (c.check == "") {
				t.Fatal(err)
			}
			if c.check != "" {
				exec(t, db, c.check)
			}
		})
	}
}

func TestStatements(t *testing.T) {
	t.Parallel()
	got := uow.Statements("-- c;\nA ';' b;\n\nC\n  d;\nE")
	if !slices.Equal(got, []string{"A ';' b", "C\n  d", "E"}) {
		t.Errorf("%q", got)
	}
}
