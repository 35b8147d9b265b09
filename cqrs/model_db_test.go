package cqrs_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// modelDB is a database: READ COMMITTED, row locks until the end of the transaction, deadlocks found, all or nothing.
type modelDB struct {
	mu      sync.Mutex
	rng     *rand.Rand
	rows    map[string]*modelRow
	changed chan struct{}
	seq     int
	leases  int
	effects []string
	strict  bool // Lease as gormstore does: nothing of a queue of which something is leased
	slow    time.Duration
	faults  int // of 1000 transactions: the commit fails; as many: its answer is lost
	quiet   bool
}

type modelRow struct {
	val  any // committed; nil: absent
	lock *modelTx
}

type modelParked struct {
	cqrs.Parked
	seq        int
	due, until time.Time
}

type modelLetter struct {
	cqrs.DeadLetter
	state string
}

type modelTx struct {
	db      *modelDB
	p       *modelProcess
	writes  map[string]any
	locks   []string
	waits   *modelTx
	effects []string
	over    bool
	wrote   bool
}

type (
	modelTxKey    struct{}
	modelFrameKey struct{}
)

type deadlock struct{}

func (deadlock) Error() string    { return "deadlock" }
func (deadlock) SQLState() string { return "40P01" }

var errDeadlock error = deadlock{}

func (d *modelDB) in(ctx context.Context) bool { return ctx.Value(modelTxKey{}) != nil }

func (d *modelDB) nap() {
	if d.slow == 0 {
		return
	}
	d.mu.Lock()
	n := time.Duration(0)
	switch r := d.rng.IntN(100); {
	case r < 60:
	case r < 97:
		n = time.Duration(d.rng.Int64N(int64(d.slow)))
	default:
		n = time.Duration(d.rng.Int64N(int64(d.slow) * 40))
	}
	if d.quiet {
		n = 0
	}
	d.mu.Unlock()
	if n > 0 {
		time.Sleep(n)
	}
}

// modelProcess is a process's connection.
type modelProcess struct {
	*modelDB
	cut bool // its database is away
}

var errAway = &net.OpError{Op: "read", Err: syscall.ECONNRESET}

// Do runs fn in a transaction; nested calls undo their own effects.
func (p *modelProcess) Do(ctx context.Context, fn func(context.Context) error) error {
	if tx, ok := ctx.Value(modelTxKey{}).(*modelTx); ok {
		return tx.part(ctx, fn)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tx := &modelTx{db: p.modelDB, p: p, writes: map[string]any{}}
	err := fn(context.WithValue(context.WithoutCancel(ctx), modelTxKey{}, tx))
	p.nap()
	lost, err := tx.end(err)
	p.nap()
	if lost {
		return errAway
	}
	return err
}

func (tx *modelTx) part(ctx context.Context, fn func(context.Context) error) error {
	d := tx.db
	d.mu.Lock()
	n := len(tx.effects)
	d.mu.Unlock()
	f := &frame{}
	err := fn(context.WithValue(ctx, modelFrameKey{}, f))
	d.mu.Lock()
	defer d.mu.Unlock()
	f.over.Store(true)
	if err != nil {
		tx.effects = tx.effects[:n]
	}
	return err
}

// end commits, or undoes everything because of err, or of bad luck. lost means that the answer to COMMIT is.
func (tx *modelTx) end(err error) (lost bool, _ error) {
	d := tx.db
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && tx.wrote && !d.quiet {
		switch r := d.rng.IntN(1000); {
		case r < d.faults:
			err = errAway
		case r < 2*d.faults:
			err = errors.New("commit refused")
		case r < 3*d.faults:
			lost = true
		}
	}
	if err == nil && tx.p.cut {
		err = errAway
	}
	tx.over = true
	if err == nil {
		for name, val := range tx.writes {
			d.row(name).val = val
		}
		d.effects = append(d.effects, tx.effects...)
	}
	for _, name := range tx.locks {
		d.row(name).lock = nil
	}
	close(d.changed)
	d.changed = make(chan struct{})
	return lost, err
}

// effect is what a handler writes.
func (d *modelDB) effect(ctx context.Context, id string) error {
	tx, ok := ctx.Value(modelTxKey{}).(*modelTx)
	if !ok {
		return errors.New("no transaction")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, ok := ctx.Value(modelFrameKey{}).(*frame); !ok || f.over.Load() || tx.over {
		return errEnded
	}
	tx.effects = append(tx.effects, id)
	return nil
}

// chance is true once in n times, until the run comes to its end.
func (d *modelDB) chance(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.quiet && d.rng.IntN(n) == 0
}

// calm is the end of bad luck.
func (d *modelDB) calm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = true
}

func (d *modelDB) isQuiet() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.quiet
}

func (p *modelProcess) cutOff(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
}

func (d *modelDB) row(k string) *modelRow {
	r := d.rows[k]
	if r == nil {
		r = &modelRow{}
		d.rows[k] = r
	}
	return r
}

// lock locks a row; with d.mu held, which it gives up while it waits.
func (tx *modelTx) lock(k string) error {
	for {
		if tx.over {
			return errEnded
		}
		r := tx.db.row(k)
		if r.lock == tx {
			return nil
		}
		if r.lock == nil {
			r.lock = tx
			tx.locks = append(tx.locks, k)
			return nil
		}
		for o := r.lock; o != nil; o = o.waits {
			if o == tx {
				return errDeadlock
			}
		}
		tx.waits = r.lock
		ch := tx.db.changed
		tx.db.mu.Unlock()
		<-ch
		tx.db.mu.Lock()
		tx.waits = nil
	}
}

func (tx *modelTx) get(k string) any {
	if v, ok := tx.writes[k]; ok {
		return v
	}
	return tx.db.row(k).val
}

func (tx *modelTx) put(k string, v any) {
	tx.writes[k] = v
	tx.wrote = true
}

// begin opens a call.
func (d *modelDB) begin(ctx context.Context) (*modelTx, func(), error) {
	tx, ok := ctx.Value(modelTxKey{}).(*modelTx)
	if !ok {
		return nil, nil, errors.New("no transaction")
	}
	d.nap()
	d.mu.Lock()
	if tx.over || tx.p.cut {
		d.mu.Unlock()
		return nil, nil, errAway
	}
	return tx, func() { d.mu.Unlock(); d.nap() }, nil
}

func (p *modelProcess) Claim(ctx context.Context, group string, ids []string) ([]bool, error) {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	fresh := make([]bool, len(ids))
	for i, id := range ids {
		k := "inbox/" + group + "/" + id
		if err := tx.lock(k); err != nil {
			return nil, err
		}
		fresh[i] = tx.get(k) == nil
		if fresh[i] {
			tx.put(k, true)
		}
	}
	return fresh, nil
}

func (p *modelProcess) Unclaim(ctx context.Context, group string, ids []string) error {
	tx, end, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for _, id := range ids {
		tx.put("inbox/"+group+"/"+id, nil)
	}
	return nil
}
