package judge

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// promise is a line of the buyers' journal: the shop accepted an order.
type promise struct{ key, order string }

// readJournal reads what buyers were promised. A line that was cut off counts for nothing: its buyer was killed before
// they took the order for accepted. No journal means that no buyer came.
func readJournal(path string) ([]promise, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var ps []promise
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return ps, nil
		}
		if err != nil {
			return nil, err
		}
		if part := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(part) == 3 && part[2] == "202" {
			ps = append(ps, promise{key: part[0], order: part[1]})
		}
	}
}

// each calls scan for every row of a query.
func each(ctx context.Context, db *sql.DB, query string, scan func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func readOrders(ctx context.Context, db *sql.DB, e *evidence, v *Verdict) error {
	const query = `SELECT id, status, total, cancel_requested, closed_at FROM orders`
	return each(ctx, db, query, func(rows *sql.Rows) error {
		o := &order{}
		var id string
		var closed int64
		if err := rows.Scan(&id, &o.status, &o.total, &o.cancel, &closed); err != nil {
			return err
		}
		e.orders[id] = o
		v.Placed++
		switch o.status {
		case "confirmed":
			v.Confirmed++
			v.closed = append(v.closed, closed)
		case "rejected":
			v.Rejected++
		case "cancelled":
			v.Cancelled++
		}
		return nil
	})
}

func readSagas(ctx context.Context, db *sql.DB, e *evidence, v *Verdict) error {
	const query = `SELECT type, saga_key, status FROM saga_instances`
	return each(ctx, db, query, func(rows *sql.Rows) error {
		var kind, key, status string
		if err := rows.Scan(&kind, &key, &status); err != nil {
			return err
		}
		o := e.orders[key]
		if o != nil && kind == "fulfil-order" {
			o.fulfilled = true
		}
		ended := slices.Contains([]string{"completed", "compensated", "cancelled", "aborted"}, status)
		pending := o != nil && o.status != "confirmed" && o.status != "rejected" && o.status != "cancelled"
		switch {
		case o == nil:
			v.fault(&v.Lost, 1, "saga %s %s looks after an order that is not there", kind, key)
		case !ended && !pending: // else the order is counted as stuck
			v.fault(&v.Stuck, 1, "saga %s %s is still %s", kind, key, status)
		}
		return nil
	})
}

func readLedger(ctx context.Context, db *sql.DB, e *evidence, v *Verdict) error {
	const query = `SELECT reference, sum(operation = 'capture'),
			sum(CASE operation WHEN 'capture' THEN amount ELSE -amount END)
		FROM ledger WHERE refused = '' AND operation IN ('capture', 'refund') GROUP BY reference`
	return each(ctx, db, query, func(rows *sql.Rows) error {
		var id string
		var captures int
		var net int64
		if err := rows.Scan(&id, &captures, &net); err != nil {
			return err
		}
		if o := e.orders[id]; o != nil {
			o.captures, o.net = captures, net
		} else if net != 0 {
			v.fault(&v.ChargedTwice, 1, "%d was charged for %s, which is no order", net, id)
		}
		return nil
	})
}

// readStock counts reserved and sold units by their rows; the number of free ones is only cross-checked.
func readStock(ctx context.Context, db *sql.DB, e *evidence, v *Verdict) error {
	const query = `SELECT p.sku, p.seeded, p.free, coalesce(r.taken, 0) FROM products p LEFT JOIN (
			SELECT sku, sum(quantity) AS taken FROM reservations WHERE status IN ('held', 'committed') GROUP BY sku
		) r ON r.sku = p.sku`
	return each(ctx, db, query, func(rows *sql.Rows) error {
		var sku string
		var seeded, free, taken int
		if err := rows.Scan(&sku, &seeded, &free, &taken); err != nil {
			return err
		}
		if taken > seeded {
			v.fault(&v.Oversold, taken-seeded, "%s: %d units sold of %d", sku, taken, seeded)
		} else if free+taken != seeded {
			v.fault(&v.Unaccounted, 1, "%s: %d units, %d sold, but %d free", sku, seeded, taken, free)
		}
		return nil
	})
}
