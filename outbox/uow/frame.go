package uow

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"sync/atomic"

	"gorm.io/gorm"
)

type frameKey struct{}

func frameOf(ctx context.Context) *frame {
	f, _ := ctx.Value(frameKey{}).(*frame)
	return f
}

// A frame is the share of one Do, outer or nested, in a transaction. It knows whether it changed a row.
type frame struct {
	tx       *transaction
	parent   *frame
	call     *call     // of a part
	prepared *prepared // what was prepared when it began
	pool     pool
	marks    marks // what was gathered when it began
	last     atomic.Pointer[handle]

	// Guarded by tx.mu.
	savepoint string
	wrote     bool
	bound     bool  // something was prepared for it before any savepoint: only a rollback of everything undoes that
	poisoned  error // PostgreSQL: a statement failed, and nothing works until a rollback
	over      bool
	used      bool   // a statement was run
	inner     *frame // of the nested Do that is under way
	running   int    // statements under way, those of frames inside included
}

// frame begins the frame of a part, or of a hook.
func (t *transaction) frame(p *prepared) *frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.framed(nil, p)
}

// framed is frame, within a parent, for who holds t.mu.
func (t *transaction) framed(parent *frame, p *prepared) *frame {
	f := &frame{tx: t, parent: parent, prepared: p, marks: t.mark()}
	f.pool.f = f
	return f
}

// A handle is a frame's gorm.DB with a context.
type handle struct {
	ctx context.Context
	db  *gorm.DB
}

// handle returns the frame's gorm.DB with ctx. It keeps the last one: most parts have one context, and many statements.
// One to which an error sticks, as that of a savepoint does, is not kept.
func (f *frame) handle(ctx context.Context) *gorm.DB {
	if h := f.last.Load(); h != nil && h.ctx == ctx && h.db.Error == nil {
		return h.db
	}
	// With a context, Session copies the statement; without, the pool would be set on the user's own handle.
	db := f.tx.unit.db.Session(&gorm.Session{NewDB: true, Context: ctx, SkipDefaultTransaction: true})
	db.Statement.ConnPool = &f.pool
	if reflect.TypeOf(ctx).Kind() == reflect.Pointer { // others may not be comparable
		f.last.Store(&handle{ctx, db})
	}
	return db
}

// nested runs fn as a part of the frame's part.
func (f *frame) nested(ctx context.Context, fn func(context.Context) error) error {
	child, err := f.nest(preparedOf(ctx))
	if err != nil {
		return err
	}
	defer f.unnest()
	ctx = context.WithValue(ctx, frameKey{}, child)
	returned := false
	defer func() {
		if !returned { // a panic or Goexit passes through
			_ = child.leave(errBroken)
		}
	}()
	err = prepareNested(ctx, child.prepared.since(f.prepared))
	if err == nil {
		err = fn(ctx)
	}
	returned = true
	return child.leave(err)
}

// leave ends a nested frame whose fn returned err. If what is around it has ended before, nothing is to be done.
func (f *frame) leave(err error) error {
	f.end()
	if f.parent.ended() {
		return errors.Join(err, errEnded)
	}
	if err == nil && f.sound() {
		f.keep()
		return f.release()
	}
	if err == nil {
		err = fmt.Errorf("%w: %w", ErrDoomed, f.failure())
	}
	f.unseen(err)
	f.undo(err)
	return err
}

// nest begins a nested Do, or says why there can be none now. Two at a time could not be undone apart from each other.
func (f *frame) nest(p *prepared) (*frame, error) {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if err := f.unusable(); err != nil {
		return nil, err
	}
	if f.inner != nil {
		return nil, ErrConcurrent
	}
	f.inner = f.tx.framed(f, p)
	return f.inner, nil
}

func (f *frame) unnest() {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	f.inner = nil
}

// unusable is usable for who holds tx.mu. A frame has ended with those around it: a part that was given up may still
// have one of its own.
func (f *frame) unusable() error {
	switch {
	case f.outlived():
		return errEnded
	case f.tx.doom != nil:
		return fmt.Errorf("%w: %w", ErrDoomed, f.tx.doom)
	case f.poisoned != nil:
		return fmt.Errorf("%w: %w", ErrDoomed, f.poisoned)
	}
	return nil
}

// outlived reports whether the frame, or one around it, has ended; for who holds tx.mu.
func (f *frame) outlived() bool {
	for ; f != nil; f = f.parent {
		if f.over {
			return true
		}
	}
	return false
}

// begin counts a statement as under way until done is called, or says why it may not run.
func (f *frame) begin(allowed bool) error {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if err := f.unusable(); err != nil && !allowed {
		return err
	}
	f.used = true
	f.count(1)
	return nil
}

func (f *frame) done() {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	f.count(-1)
}

func (f *frame) count(n int) {
	for ; f != nil; f = f.parent {
		f.running += n
	}
}

func (f *frame) sound() bool { return f.failure() == nil }

// errLeft is the failure of who leaves something behind that could neither be undone any more, nor be waited for.
var errLeft = errors.New("uow: fn has returned while a statement or a nested Do of it is under way")

func (f *frame) failure() error {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	switch {
	case f.tx.doom != nil:
		return f.tx.doom
	case f.poisoned != nil:
		return f.poisoned
	case f.inner != nil || f.running > 0:
		return errLeft
	}
	return nil
}

// part returns the call in whose part the frame is; nil in a hook.
func (f *frame) part() *call {
	for f.parent != nil {
		f = f.parent
	}
	return f.call
}

// end closes the frame's handle: a goroutine that outlives fn cannot write into the neighbors' transaction.
func (f *frame) end() {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	f.over = true
}

func (f *frame) ended() bool {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	return f.outlived()
}

// keep hands what the frame did to its parent.
func (f *frame) keep() {
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if f.parent != nil {
		f.parent.wrote = f.parent.wrote || f.wrote
	}
}

// undo undoes what the frame did, and reports whether the transaction can go on. If it cannot, it is ruined
// by cause, and a later run will have savepoints. A statement that is still under way, of a goroutine that fn has left
// behind, may write after everything that could be done here.
func (f *frame) undo(cause error) bool {
	t := f.tx
	if t.unit.dialect.rolledBack(cause) {
		t.ruin(cause)
	}
	t.mu.Lock()
	t.cut(f.marks)
	clean, still := true, f.running == 0
	for g := f; g != nil; g = g.inner {
		clean = clean && !g.wrote && g.poisoned == nil
	}
	savepoint, doomed := f.savepoint, t.doom != nil
	t.mu.Unlock()
	switch {
	case doomed:
		return false
	case savepoint != "" && !f.bound && still:
		return f.rollbackTo(savepoint)
	case clean && still:
		return true
	}
	t.ruin(&restart{cause})
	return false
}

// unseen notes an error of PostgreSQL's that fn met while it read rows, where the pool does not hear of it.
func (f *frame) unseen(err error) {
	if _, ok := sqlState(err); !ok || f.tx.unit.dialect != postgres {
		return
	}
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if f.used {
		f.poison(err)
	}
}

// restart is the cause of a transaction's end when a part of it has to be undone without a savepoint.
type restart struct{ err error }

func (r *restart) Error() string {
	if r.err == nil {
		return "uow: a part failed after a write"
	}
	return r.err.Error()
}
func (r *restart) Unwrap() error { return r.err }

func (f *frame) rollbackTo(savepoint string) bool {
	ctx, cancel := f.tx.unit.bounded()
	defer cancel()
	for _, q := range []string{"ROLLBACK TO SAVEPOINT ", "RELEASE SAVEPOINT "} {
		if _, err := f.tx.exec.ExecContext(ctx, q+savepoint); err != nil {
			f.tx.ruin(fmt.Errorf("uow: roll back to savepoint: %w", err))
			return false
		}
	}
	return true
}

// release drops the savepoint of a frame that succeeded; an outer one still covers it.
func (f *frame) release() error {
	if f.savepoint == "" {
		return nil
	}
	ctx, cancel := f.tx.unit.bounded()
	defer cancel()
	if _, err := f.tx.exec.ExecContext(ctx, "RELEASE SAVEPOINT "+f.savepoint); err != nil {
		f.tx.ruin(err)
		return fmt.Errorf("uow: release savepoint: %w", err)
	}
	return nil
}

// protect sets the savepoints that the frame and those around it still lack, outermost first.
// They are set as late as possible, so that a frame that only refuses costs none.
func (f *frame) protect(ctx context.Context) error {
	if f == nil || !f.tx.savepoints || f.savepoint != "" {
		return nil
	}
	if err := f.parent.protect(ctx); err != nil {
		return err
	}
	if f.parent == nil && !f.tx.many {
		return nil // alone in its transaction: that is undone as a whole
	}
	f.tx.mu.Lock()
	f.tx.names++
	name := "uow_" + strconv.Itoa(f.tx.names)
	f.tx.mu.Unlock()
	if _, err := f.tx.exec.ExecContext(ctx, "SAVEPOINT "+name); err != nil {
		f.tx.ruin(err)
		return fmt.Errorf("uow: set savepoint: %w", err)
	}
	f.tx.mu.Lock()
	f.savepoint = name
	f.tx.mu.Unlock()
	return nil
}
