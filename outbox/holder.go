package outbox

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Holder is what holds the horizon back: the oldest transaction of the server, or what stands for one. What was
// deleted since it began stays on disk, and reads have to step over it; on PostgreSQL relays also look back as far as
// it. Some transaction always is the oldest: only one that stays for minutes is of interest.
//
// PostgreSQL shows other roles' sessions in full to a member of pg_read_all_stats (part of pg_monitor), and MySQL and
// MariaDB show transactions to users with the PROCESS privilege. Without these, a Holder has an ID at most, and
// [Stats].HolderErr says so. SQLite has none.
type Holder struct {
	Kind        string        // "session", or on PostgreSQL "prepared transaction" or "replication slot"
	ID          string        // process id (PostgreSQL), thread id (MySQL), or name
	Application string        // application_name (PostgreSQL), user (MySQL); plugin of a slot
	State       string        // as the server calls it: "idle in transaction", "Sleep", …; "" if unknown
	Statement   time.Duration // since its last statement began (PostgreSQL), or its state (MySQL); 0 if unknown
	Age         time.Duration // since its transaction began; 0 if unknown
}

// errUnseen is why PostgreSQL does not tell what a session does.
var errUnseen = errors.New("the role may not see other sessions; it needs pg_read_all_stats")

const holderPostgres = `
SELECT kind, id, application, state, statement, age, unseen FROM (
	SELECT 'session' AS kind, pid::text AS id, coalesce(application_name, '') AS application,
		coalesce(state, '') AS state, query = '<insufficient privilege>' AS unseen,
		coalesce((extract(epoch FROM clock_timestamp() - query_start) * 1000000)::bigint, 0) AS statement,
		coalesce((extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint, 0) AS age,
		greatest(age(backend_xid), age(backend_xmin)) AS behind
	FROM pg_stat_activity
	WHERE pid <> pg_backend_pid() AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
		AND (datname = current_database() OR datname IS NULL OR backend_xid IS NOT NULL)
	UNION ALL
	SELECT 'prepared transaction', gid, owner::text, 'prepared', false, 0,
		(extract(epoch FROM clock_timestamp() - prepared) * 1000000)::bigint, age(transaction)
	FROM pg_prepared_xacts
	UNION ALL
	SELECT 'replication slot', slot_name::text, coalesce(plugin::text, slot_type),
		CASE WHEN active THEN 'active' ELSE 'inactive' END, false, 0, 0, age(xmin)
	FROM pg_replication_slots WHERE xmin IS NOT NULL
) AS x ORDER BY behind DESC, age DESC LIMIT 1`

// trx_started is in the system's time zone, NOW() in the session's.
const holderMySQL = `
SELECT 'session', CAST(t.trx_mysql_thread_id AS CHAR), coalesce(p.user, ''), coalesce(p.command, ''),
	coalesce(p.time, 0) * 1000000, TIMESTAMPDIFF(MICROSECOND, t.trx_started,
		coalesce(CONVERT_TZ(NOW(6), @@session.time_zone, 'SYSTEM'), NOW(6))), 0
FROM information_schema.innodb_trx t LEFT JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
WHERE t.trx_mysql_thread_id <> connection_id() ORDER BY t.trx_started LIMIT 1`

// holder returns what holds the horizon back, or nil if nothing does.
func (o *Outbox) holder(ctx context.Context) (*Holder, error) {
	query := holderPostgres
	switch o.dialect.name {
	case "mysql":
		query = holderMySQL
	case "sqlite":
		return nil, nil
	}
	var h Holder
	var statement, age int64
	var unseen bool
	err := o.db.Statement.ConnPool.QueryRowContext(ctx, query).
		Scan(&h.Kind, &h.ID, &h.Application, &h.State, &statement, &age, &unseen)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	case unseen:
		err = errUnseen
	}
	h.Statement, h.Age = time.Duration(statement)*time.Microsecond, time.Duration(age)*time.Microsecond
	return &h, err
}
