package idempotency

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// The states of a row. A row that is claimed with no lease belongs to the transaction that wrote it: it is
// completed or deleted before the commit, so nobody else ever sees it.
const (
	rowClaimed   = 0
	rowDone      = 1
	rowStarted   = 2
	rowUnknown   = 3
	rowDoneEmpty = 4 // done, but the answer is not kept
)

// A row is one row of idempotency_keys.
type row struct {
	id          string
	fingerprint Fingerprint
	state       int
	token       int64
	leaseMillis int64 // to be written; 0 for none
	keepMillis  int64 // to be written
	leased      bool  // read: whether the lease is alive
	open        bool  // read: claimed in this very transaction
	result      Result
	points      map[string]json.RawMessage
}

// insertKeys inserts the rows, which are sorted and distinct, that are not there, and returns the ids of those
// that it inserted. It never waits for another transaction on PostgreSQL; on MySQL at most lockWait seconds.
func insertKeys(ctx context.Context, rows []*row) (map[string]bool, error) {
	switch s := statementIn(ctx); s.dialect {
	case postgres:
		return inserted(insertKeysPostgres(s, rows).strings(ctx))
	case mysql:
		return insertKeysMySQL(ctx, rows)
	default:
		return inserted(insertValues(s, "INSERT INTO", rows).add(" ON CONFLICT DO NOTHING RETURNING id").strings(ctx))
	}
}

func inserted(ids []string, err error) (map[string]bool, error) {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set, err
}

func insertValues(s *statement, verb string, rows []*row) *statement {
	s.add(verb + " idempotency_keys (id, fingerprint, state, token, lease_until, expires_at)")
	return s.values(len(rows), func(i int) (string, []any) {
		r := rows[i]
		return "?, ?, ?, ?, CASE WHEN ? > 0 THEN ? + " + s.dialect.now() + " ELSE 0 END, ? + " + s.dialect.now(),
			[]any{r.id, r.fingerprint[:], r.state, r.token, r.leaseMillis, r.leaseMillis, r.keepMillis}
	})
}

// insertKeysPostgres takes an advisory lock per key first, without waiting. A plain INSERT of a key that another
// open transaction has inserted would block until that one ends, and with it all neighbors in this transaction.
// The locks of a database are common to its schemas, so the table's number is part of theirs.
func insertKeysPostgres(s *statement, rows []*row) *statement {
	n := len(rows)
	ids, prints, states := make([]string, n), make([][]byte, n), make([]int32, n)
	tokens, leases, keeps, locks := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, r := range rows {
		ids[i], prints[i], states[i], tokens[i] = r.id, r.fingerprint[:], int32(r.state), r.token
		leases[i], keeps[i], locks[i] = r.leaseMillis, r.keepMillis, lockNumber(r.id)
	}
	return s.add(`WITH claim AS MATERIALIZED (
		SELECT c.*, pg_try_advisory_xact_lock(c.lock # 'idempotency_keys'::regclass::oid::bigint) AS free
		FROM unnest(?::text[], ?::bytea[], ?::int[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[])
			AS c(id, fingerprint, state, token, lease, keep, lock))
		INSERT INTO idempotency_keys (id, fingerprint, state, token, lease_until, expires_at)
		SELECT id, fingerprint, state, token, CASE WHEN lease > 0 THEN lease + `+s.dialect.now()+` ELSE 0 END,
			keep + `+s.dialect.now()+` FROM claim WHERE free ORDER BY id
		ON CONFLICT DO NOTHING RETURNING id`, ids, prints, states, tokens, leases, keeps, locks)
}

// lockNumber is the number of a key's advisory lock. Two keys that share one cost a needless "in flight", no more.
func lockNumber(id string) int64 {
	f := fingerprint([]byte("surge idempotency"), []byte(id))
	return int64(binary.BigEndian.Uint64(f[:8])) //nolint:gosec // any 64 bits will do
}

// lockWait is how many seconds a claim waits on MySQL for another transaction's claim of the same key.
const lockWait = 1

// insertKeysMySQL bounds the wait for a duplicate's transaction. MySQL does not say which rows it inserted; unless
// all were, the tokens are read back.
func insertKeysMySQL(ctx context.Context, rows []*row) (map[string]bool, error) {
	bound := statementIn(ctx).add("SET @surge_lock_wait = @@SESSION.innodb_lock_wait_timeout,"+
		" SESSION innodb_lock_wait_timeout = ?", lockWait)
	if _, err := bound.exec(ctx); err != nil {
		return nil, err
	}
	n, err := insertValues(statementIn(ctx), "INSERT IGNORE INTO", rows).exec(ctx)
	_, reset := statementIn(ctx).add("SET SESSION innodb_lock_wait_timeout = @surge_lock_wait").exec(ctx)
	if err = errors.Join(err, reset); err != nil {
		return nil, err
	}
	ids, byID := make([]string, len(rows)), make(map[string]int64, len(rows))
	for i, r := range rows {
		ids[i], byID[r.id] = r.id, r.token
	}
	if int(n) == len(rows) {
		return inserted(ids, nil)
	}
	set := map[string]bool{}
	q := statementIn(ctx).add("SELECT id, token FROM idempotency_keys WHERE id").among(ids)
	err = q.each(ctx, func(r *sql.Rows) error {
		var id string
		var token int64
		if err := r.Scan(&id, &token); err != nil {
			return err
		}
		if byID[id] == token {
			set[id] = true
		}
		return nil
	})
	return set, err
}

// selectKeys returns the rows that are there.
func selectKeys(ctx context.Context, ids []string) (map[string]*row, error) {
	s := statementIn(ctx)
	s.add(`SELECT id, fingerprint, state, token, lease_until > ` + s.dialect.now() + `, lease_until = 0,
		status, header, body, points FROM idempotency_keys WHERE id`).among(ids)
	found := make(map[string]*row, len(ids))
	err := s.each(ctx, func(rows *sql.Rows) error {
		r, err := scanKey(rows)
		if err == nil {
			found[r.id] = r
		}
		return err
	})
	return found, err
}

func scanKey(rows *sql.Rows) (*row, error) {
	var r row
	var mark, header, points []byte
	err := rows.Scan(&r.id, &mark, &r.state, &r.token, &r.leased, &r.open,
		&r.result.Status, &header, &r.result.Body, &points)
	if err != nil {
		return nil, err
	}
	copy(r.fingerprint[:], mark)
	r.open = r.open && r.state == rowClaimed
	r.result.Lost = r.state == rowDoneEmpty
	if header != nil {
		err = json.Unmarshal(header, &r.result.Header)
	}
	if err == nil && points != nil {
		err = json.Unmarshal(points, &r.points)
	}
	if err != nil {
		return nil, fmt.Errorf("idempotency: row %s: %w", r.id, err)
	}
	return &r, nil
}

// encoded returns the columns of a result: state, status, header, body.
func (r Result) encoded() (state int, header, body []byte, err error) {
	if r.Lost {
		return rowDoneEmpty, nil, nil, nil
	}
	if r.Header != nil {
		header, err = json.Marshal(r.Header)
	}
	return rowDone, header, r.Body, err
}

// completeKeys stores results of keys that this transaction claimed.
func completeKeys(ctx context.Context, done []*settlement) error {
	rows := make([]encodedResult, len(done))
	for i, d := range done {
		state, header, body, err := d.result.encoded()
		if err != nil {
			return fmt.Errorf("idempotency: encode result: %w", err)
		}
		rows[i] = encodedResult{d.slot, state, d.result.Status, header, body}
	}
	s := statementIn(ctx)
	if s.dialect == postgres {
		_, err := completePostgres(s, rows).exec(ctx)
		return err
	}
	s.add("INSERT INTO idempotency_keys (id, fingerprint, state, token, lease_until, expires_at, status, header, body)")
	s.values(len(rows), func(i int) (string, []any) {
		r := rows[i]
		return "?, ?, ?, ?, 0, 0, ?, ?, ?",
			[]any{r.slot.id, r.slot.fingerprint[:], r.state, r.slot.claim.Token, r.status, r.header, r.body}
	})
	_, err := s.add(s.dialect.upsert("state", "status", "header", "body")).exec(ctx)
	return err
}

type encodedResult struct {
	slot          *slot
	state, status int
	header, body  []byte
}

func completePostgres(s *statement, rows []encodedResult) *statement {
	n := len(rows)
	ids, states, statuses := make([]string, n), make([]int32, n), make([]int32, n)
	headers, bodies := make([][]byte, n), make([][]byte, n)
	for i, r := range rows {
		ids[i], states[i], statuses[i] = r.slot.id, int32(r.state), int32(r.status) //nolint:gosec // small numbers
		headers[i], bodies[i] = r.header, r.body
	}
	return s.add(`UPDATE idempotency_keys AS k SET state = v.state, status = v.status, header = v.header, body = v.body
		FROM unnest(?::text[], ?::int[], ?::int[], ?::bytea[], ?::bytea[]) AS v(id, state, status, header, body)
		WHERE k.id = v.id AND k.id = ANY(?::text[])`, ids, states, statuses, headers, bodies, ids)
}

// deleteKeys forgets keys that this transaction claimed.
func deleteKeys(ctx context.Context, ids []string) error {
	_, err := statementIn(ctx).add("DELETE FROM idempotency_keys WHERE id").among(ids).exec(ctx)
	return err
}
