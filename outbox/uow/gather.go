package uow

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Prepare returns a context with which the next Do hands item to run when its transaction begins. run is called
// once per transaction with the items of all callers that share it, in the order of the queue, for one statement:
// it claims keys, takes locks in one order, loads what all will need. owner tells collectors apart and must be
// comparable; every caller with the same owner passes an equivalent run. A nested Do calls run with its own item
// alone, since its transaction began before. An error of run fails the callers it was called for. PartTimeout does not
// bound run, for it belongs to no single part: what it waits for must end with its context.
func Prepare[T any](
	ctx context.Context, owner any, item T, run func(ctx context.Context, items []T) error,
) context.Context {
	_ = map[any]bool{owner: true} // one that is not comparable panics here, and not in the writer
	p := &prepared{owner: owner, item: item, next: preparedOf(ctx)}
	p.run = func(ctx context.Context, same []*prepared) error {
		items := make([]T, len(same))
		for i, s := range same {
			item, ok := s.item.(T)
			if !ok {
				return fmt.Errorf("uow: Prepare: owner %v has items of types %T and %T", owner, s.item, items[i])
			}
			items[i] = item
		}
		return run(ctx, items)
	}
	return context.WithValue(ctx, preparedKey{}, p)
}

type preparedKey struct{}

type prepared struct {
	owner, item any
	run         func(context.Context, []*prepared) error
	next        *prepared // what was prepared before
}

func preparedOf(ctx context.Context) *prepared {
	p, _ := ctx.Value(preparedKey{}).(*prepared)
	return p
}

// A Settler is an item of [Prepare] whose collector itself takes back what it wrote for a part that failed: run also
// calls BeforeCommit, and the flush finds nothing there from such a part. A part that has prepared nothing else and
// fails without having changed a row then costs its neighbors nothing; without the method on its items the
// transaction runs again without it.
type Settler interface{ SettlesBeforeCommit() }

// binds reports whether something that was prepared has to be undone by the unit of work when the part fails.
func (p *prepared) binds() bool {
	for ; p != nil; p = p.next {
		if _, ok := p.item.(Settler); !ok {
			return true
		}
	}
	return false
}

// prepare runs what the calls of a batch prepared, owner by owner in order of first appearance.
func (t *transaction) prepare(batch []*call) error {
	var owners []any
	groups := map[any][]*prepared{}
	for _, c := range batch {
		if c.exited {
			continue
		}
		for _, p := range preparedOf(c.ctx).since(nil) {
			if groups[p.owner] == nil {
				owners = append(owners, p.owner)
			}
			groups[p.owner] = append(groups[p.owner], p)
		}
	}
	if len(owners) == 0 {
		return nil
	}
	return t.within(func(ctx context.Context) error {
		for _, o := range owners {
			if err := groups[o][0].run(ctx, groups[o]); err != nil {
				return err
			}
		}
		return nil
	})
}

// prepareNested runs what was prepared between an outer Do and a nested one.
func prepareNested(ctx context.Context, list []*prepared) error {
	for _, p := range list {
		if err := p.run(ctx, []*prepared{p}); err != nil {
			return err
		}
	}
	return nil
}

// since lists what was prepared after old, oldest first.
func (p *prepared) since(old *prepared) []*prepared {
	var list []*prepared
	for ; p != nil && p != old; p = p.next {
		list = append([]*prepared{p}, list...)
	}
	return list
}

// within calls fn with a frame that belongs to no part.
func (t *transaction) within(fn func(context.Context) error) error {
	f := t.frame(nil)
	defer f.end()
	ctx, cancel := t.unit.bounded()
	defer cancel()
	err := guard(func() error {
		err := fn(context.WithValue(ctx, frameKey{}, f))
		t.unit.dialect.ends(err) // see [shift.call]
		return err
	})
	if err == nil {
		err = f.failure()
	}
	return err
}

// guard calls a function of somebody else's on a goroutine of its own, so that neither its panic nor its Goexit ends
// the writer, on which all callers depend.
func guard(fn func() error) error {
	err := errors.New("uow: a function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("uow: panic: %v", v)
			}
		}()
		err = fn()
	}()
	<-done
	return err
}

// announce calls what was to be called after the commit. One that panics does not keep the others from being called.
func (t *transaction) announce() {
	for len(t.after) > 0 {
		err := guard(func() error {
			for len(t.after) > 0 {
				f := t.after[0]
				t.after = t.after[1:]
				f()
			}
			return nil
		})
		if err != nil {
			t.unit.cfg.Logger.Error("after the commit", "error", err)
		}
	}
}

// A gather collects the items that parts leave for one flush.
type gather interface {
	len() int
	truncate(n int)
	flush(ctx context.Context) error
	last() bool
}

type gathered[T any] struct {
	items   []T
	run     func(context.Context, []T) error
	postpon bool
}

func (g *gathered[T]) len() int       { return len(g.items) }
func (g *gathered[T]) truncate(n int) { g.items = g.items[:n] }
func (g *gathered[T]) last() bool     { return g.postpon }

func (g *gathered[T]) flush(ctx context.Context) error {
	items := g.items
	g.items = nil
	return g.run(ctx, items)
}

// BeforeCommit hands items to flush just before the commit. flush is called once per transaction with the items of
// all callers whose part was not undone, in order, for one statement. owner tells collectors apart and must be
// comparable; every caller with the same owner passes an equivalent flush. flush may write, publish and gather more.
// Its error rolls the transaction back. As in [Prepare], what it waits for must end with its context. Without a
// transaction in ctx it returns [ErrNoTransaction].
func BeforeCommit[T any](
	ctx context.Context, owner any, flush func(ctx context.Context, items []T) error, items ...T,
) error {
	return collect(ctx, owner, flush, false, items)
}

// BeforeCommitLast is [BeforeCommit] for flushes that come after all others. An outbox needs it: its rows get their
// sequence numbers once every row lock is held, which makes the order per key the order of commits.
func BeforeCommitLast[T any](
	ctx context.Context, owner any, flush func(ctx context.Context, items []T) error, items ...T,
) error {
	return collect(ctx, owner, flush, true, items)
}

func collect[T any](
	ctx context.Context, owner any, flush func(context.Context, []T) error, last bool, items []T,
) error {
	f := frameOf(ctx)
	if f == nil {
		return ErrNoTransaction
	}
	t := f.tx
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := f.unusable(); err != nil {
		return err
	}
	if t.gathers[owner] == nil {
		if t.gathers == nil {
			t.gathers = map[any]gather{}
		}
		t.gathers[owner] = &gathered[T]{run: flush, postpon: last}
		t.order = append(t.order, owner)
	}
	g, ok := t.gathers[owner].(*gathered[T])
	if !ok {
		return fmt.Errorf("uow: BeforeCommit: owner %v gathers items of another type than %T", owner, items)
	}
	g.items = append(g.items, items...)
	return nil
}

// AfterCommit calls fn once the transaction is committed, and not at all if the part that asked for it is undone.
// fn runs before the callers get their answer; it must be quick, must not block and must not use the transaction.
// Without a transaction in ctx it returns [ErrNoTransaction].
func AfterCommit(ctx context.Context, fn func()) error {
	f := frameOf(ctx)
	if f == nil {
		return ErrNoTransaction
	}
	if fn == nil {
		return errors.New("uow: AfterCommit needs a function, got nil")
	}
	f.tx.mu.Lock()
	defer f.tx.mu.Unlock()
	if err := f.unusable(); err != nil {
		return err
	}
	f.tx.after = append(f.tx.after, fn)
	return nil
}

// marks remember how much was gathered, so that a frame's share can be cut off.
type marks struct {
	lens   []int // per owner, in order
	after  int
	queued int // statements, those already sent included
}

func (t *transaction) mark() marks {
	m := marks{after: len(t.after), queued: t.sent + len(t.queue)}
	if len(t.order) > 0 {
		m.lens = make([]int, len(t.order))
		for i, o := range t.order {
			m.lens[i] = t.gathers[o].len()
		}
	}
	return m
}

// saved remembers what was gathered when fn set a savepoint of its own, and cuts off what came later when it rolls back
// to it, as [gorm.DB.Transaction] does: what is undone leaves no message behind.
func (t *transaction) saved(k kind, query string) {
	words := strings.Fields(query)
	name := words[len(words)-1]
	t.mu.Lock()
	defer t.mu.Unlock()
	if k == save {
		if t.points == nil {
			t.points = map[string]marks{}
		}
		t.points[name] = t.mark()
	} else if m, ok := t.points[name]; ok {
		t.cut(m)
	}
}

func (t *transaction) cut(m marks) {
	for i, o := range t.order {
		n := 0
		if i < len(m.lens) {
			n = m.lens[i]
		}
		t.gathers[o].truncate(n)
	}
	t.after = t.after[:m.after]
	t.queue = t.queue[:max(m.queued-t.sent, 0)]
}

// flush calls the gathers until nothing is left: the ordinary ones first, then the last ones. Then it sends what is
// still queued.
func (t *transaction) flush() error {
	for {
		g := t.next()
		if g == nil {
			return t.finish()
		}
		if err := t.within(g.flush); err != nil {
			return err
		}
	}
}

func (t *transaction) next() gather {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last gather
	for _, o := range t.order {
		switch g := t.gathers[o]; {
		case g.len() == 0:
		case !g.last():
			return g
		case last == nil:
			last = g
		}
	}
	return last
}
