package pglisten

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/surge-go/surge/outbox"
)

// Config configures a Listener; the zero value works.
type Config struct {
	// Check is how long the connection may be silent before it is asked whether it still works: how long a peer that
	// vanished goes unnoticed. 0 means 30 s.
	Check time.Duration
	// Timeout is for connecting, and for the answer to a check. 0 means 5 s.
	Timeout time.Duration
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Check", c.Check}, {"Timeout", c.Timeout}} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("pglisten: Config.%s is %v, it may not be negative", f.name, f.value))
		}
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if c.Check == 0 {
		c.Check = 30 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	return c
}

// Name is the application_name of a Listener's connection, unless the URL gives another.
const Name = "surge-outbox-listener"

// Listener wakes relays. It is safe for concurrent use; each call of Listen has a connection of its own.
type Listener struct {
	conn *pgx.ConnConfig
	cfg  Config
}

// New returns a Listener for the database at url, a PostgreSQL URL or keyword/value string as pgx takes it; an empty
// one leaves everything to the PG… variables of the environment. The URL's search_path must lead to the same outbox
// table as the relay's. New does not connect.
func New(url string, cfg Config) (*Listener, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("pglisten: %w", err)
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = Name
	}
	return &Listener{conn: conn, cfg: cfg.withDefaults()}, nil
}

// Listen connects, calls wake once, since something may have been committed before, and then for every notification
// about the outbox table, until ctx ends or the connection breaks. It always returns an error; a relay that has
// it as [outbox.RelayConfig.Listen] calls it again, with backoff.
func (l *Listener) Listen(ctx context.Context, wake func()) error {
	if wake == nil {
		return errors.New("pglisten: Listen needs a function wake, got nil")
	}
	conn, table, err := l.connect(ctx)
	if err != nil {
		return fmt.Errorf("pglisten: connect: %w", err)
	}
	defer l.close(ctx, conn)
	wake()
	for {
		n, err := l.next(ctx, conn)
		if err != nil {
			return fmt.Errorf("pglisten: %w", err)
		}
		if n != nil && (table == "" || n.Payload == table) {
			wake()
		}
	}
}

// connect opens a connection that listens, and returns the object id of the table that counts.
func (l *Listener) connect(ctx context.Context) (conn *pgx.Conn, table string, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	conn, err = pgx.ConnectConfig(ctx, l.conn.Copy())
	if err != nil {
		return nil, "", err
	}
	_, err = conn.Exec(ctx, "LISTEN "+outbox.Channel)
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT coalesce(to_regclass('outbox')::oid::text, '')").Scan(&table)
	}
	if err != nil {
		l.close(ctx, conn)
		return nil, "", err
	}
	return conn, table, nil
}

func (l *Listener) close(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing that could be lost
}

// next returns the next notification, or nil after a silence in which the connection proved to work.
func (l *Listener) next(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	waiting, cancel := context.WithTimeout(ctx, l.cfg.Check)
	defer cancel()
	n, err := conn.WaitForNotification(waiting)
	switch {
	case err == nil:
		return n, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case waiting.Err() == nil || conn.IsClosed():
		return nil, err
	}
	asking, done := context.WithTimeout(ctx, l.cfg.Timeout)
	defer done()
	return nil, conn.Ping(asking)
}
