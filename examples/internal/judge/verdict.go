package judge

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "github.com/glebarez/sqlite" // registers the driver "sqlite"
)

// maxFaults bounds how many faults are described; all are counted.
const maxFaults = 20

// A Verdict is what the files say.
type Verdict struct {
	Placed, Confirmed, Rejected, Cancelled           int
	Oversold, ChargedTwice, Lost, Stuck, Unaccounted int
	Faults                                           []string // the first of them, for people

	closed []int64 // when each confirmed order was, in microseconds
}

// OK reports whether every promise was kept.
func (v *Verdict) OK() bool {
	return v.Oversold == 0 && v.ChargedTwice == 0 && v.Lost == 0 && v.Stuck == 0 && v.Unaccounted == 0
}

// Fulfilled counts the orders that were confirmed from then on and before until.
func (v *Verdict) Fulfilled(from, until time.Time) int {
	n := 0
	for _, at := range v.closed {
		if at >= from.UnixMicro() && at < until.UnixMicro() {
			n++
		}
	}
	return n
}

func (v *Verdict) fault(count *int, by int, format string, args ...any) {
	*count += by
	if len(v.Faults) < maxFaults {
		v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
	}
}

// order is a row of the order service.
type order struct {
	status    string
	total     int64
	cancel    bool
	fulfilled bool // a saga of that order exists
	captures  int
	net       int64 // captured minus refunded
}

// evidence is everything that was read.
type evidence struct {
	orders   map[string]*order
	promises []promise
}

// Judge reads the files in dir. It may run while the services do, and then tells of the moment; an error means that
// a file cannot be read, not that a promise was broken.
func Judge(ctx context.Context, dir string) (*Verdict, error) {
	v := &Verdict{}
	e := &evidence{orders: map[string]*order{}}
	var err error
	if e.promises, err = readJournal(filepath.Join(dir, "buyers.journal")); err != nil {
		return nil, fmt.Errorf("judge: %w", err)
	}
	for _, f := range []struct {
		file string
		read func(context.Context, *sql.DB, *evidence, *Verdict) error
	}{
		{"order.db", readOrders},
		{"shipping.db", readSagas},
		{"bank.db", readLedger},
		{"inventory.db", readStock},
	} {
		if err := with(ctx, filepath.Join(dir, f.file), func(db *sql.DB) error { return f.read(ctx, db, e, v) }); err != nil {
			return nil, fmt.Errorf("judge: %s: %w", f.file, err)
		}
	}
	judgePromises(e, v)
	judgeOrders(e, v)
	judgeKeys(e, v)
	return v, nil
}

// with opens a file for reading only.
func with(ctx context.Context, path string, f func(*sql.DB) error) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(5000)"}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return err
	}
	if err := db.PingContext(ctx); err != nil {
		return errors.Join(err, db.Close())
	}
	return errors.Join(f(db), db.Close())
}

// judgePromises finds the orders that buyers were promised and nobody knows.
func judgePromises(e *evidence, v *Verdict) {
	told := map[string]bool{}
	for _, p := range e.promises {
		if e.orders[p.order] == nil && !told[p.order] {
			told[p.order] = true
			v.fault(&v.Lost, 1, "order %s was promised (key %s) and is not there", p.order, p.key)
		}
	}
}

// judgeOrders looks at each order alone.
func judgeOrders(e *evidence, v *Verdict) {
	for id, o := range e.orders {
		switch o.status {
		case "confirmed":
			if o.cancel {
				v.fault(&v.Stuck, 1, "order %s was to be cancelled and is still confirmed", id)
			}
		case "rejected", "cancelled":
		default:
			if o.fulfilled {
				v.fault(&v.Stuck, 1, "order %s is still %s", id, o.status)
			}
		}
		if !o.fulfilled {
			v.fault(&v.Lost, 1, "order %s is %s and no saga looks after it", id, o.status)
		}
		judgeMoney(id, o, v)
	}
}

func judgeMoney(id string, o *order, v *Verdict) {
	switch {
	case o.captures > 1:
		v.fault(&v.ChargedTwice, 1, "order %s was charged %d times", id, o.captures)
	case o.net > 0 && o.status != "confirmed" && !o.cancel:
		v.fault(&v.ChargedTwice, 1, "order %s is %s and was charged %d", id, o.status, o.net)
	case o.net > 0 && o.status == "cancelled":
		v.fault(&v.ChargedTwice, 1, "order %s is cancelled and was not refunded", id)
	case o.net < 0:
		v.fault(&v.Unaccounted, 1, "order %s got back %d more than it was charged", id, -o.net)
	case o.status == "confirmed" && !o.cancel && o.net != o.total:
		v.fault(&v.Unaccounted, 1, "order %s costs %d and was charged %d", id, o.total, o.net)
	}
}

// judgeKeys finds buyers who asked once and were charged for several orders.
func judgeKeys(e *evidence, v *Verdict) {
	orders := map[string]map[string]bool{}
	for _, p := range e.promises {
		if orders[p.key] == nil {
			orders[p.key] = map[string]bool{}
		}
		orders[p.key][p.order] = true
	}
	for key, ids := range orders {
		charged := 0
		for id := range ids {
			if o := e.orders[id]; o != nil && o.captures > 0 {
				charged++
			}
		}
		if charged > 1 {
			v.fault(&v.ChargedTwice, 1, "key %s was charged for %d orders", key, charged)
		}
	}
}
