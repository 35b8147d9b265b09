package gormstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Publisher takes recorded events; *cqrs.Sender is one.
type Publisher interface {
	Publish(ctx context.Context, events ...any) error
}

// Repository is an [aggregate.Repository] on the transaction in ctx. Outside of a unit of work every method
// returns [uow.ErrNoTransaction]. It is safe for concurrent use. Rows are read and written whole, by SQL
// that is prepared from GORM's mapping once; GORM's hooks and associations do not run.
type Repository[A any, ID comparable] struct {
	publisher Publisher
	root      func(*A) *aggregate.Root
	newRow    func() any
	toRow     func(*A) any
	fromRow   func(any) (*A, error)

	plans sync.Map // dialect name -> *plan
}

// NewRepository keeps aggregates in rows of their own type: the struct that embeds [aggregate.Root] is
// mapped by GORM's tags and has one primary key column, which the aggregate fills in before it is saved.
// p gets the recorded events of each save and may be nil, if aggregates record none.
// Only the first two type arguments are written: NewRepository[Order, string](sender).
// A mapping that a repository cannot keep (associations, soft delete, composite keys) is an error of every method.
func NewRepository[A any, ID comparable, P aggregate.Of[A]](p Publisher) *Repository[A, ID] {
	return &Repository[A, ID]{
		publisher: p,
		root:      func(a *A) *aggregate.Root { return aggregate.RootOf[A, P](P(a)) },
		newRow:    func() any { return new(A) },
		toRow:     func(a *A) any { return a },
		fromRow:   func(row any) (*A, error) { return row.(*A), nil },
	}
}

// NewMapped keeps aggregates in rows of type Row, for domain models without database tags. to and from
// translate; from is a factory that rehydrates and may refuse. Row is mapped by GORM's tags and has one
// primary key column and a column version of type int64, which the repository fills in and to may ignore.
func NewMapped[A, Row any, ID comparable, P aggregate.Of[A]](
	p Publisher, to func(*A) Row, from func(Row) (*A, error),
) *Repository[A, ID] {
	return &Repository[A, ID]{
		publisher: p,
		root:      func(a *A) *aggregate.Root { return aggregate.RootOf[A, P](P(a)) },
		newRow:    func() any { return new(Row) },
		toRow:     func(a *A) any { row := to(a); return &row },
		fromRow:   func(row any) (*A, error) { return from(*row.(*Row)) },
	}
}

// Get loads an aggregate, or returns [aggregate.ErrNotFound].
func (r *Repository[A, ID]) Get(ctx context.Context, id ID) (*A, error) {
	found, err := r.GetAll(ctx, []ID{id})
	if err != nil {
		return nil, err
	}
	a, ok := found[id]
	if !ok {
		return nil, fmt.Errorf("%s %v: %w", reflect.TypeFor[A]().Name(), id, aggregate.ErrNotFound)
	}
	return a, nil
}

// GetAll loads many aggregates with one statement, for handlers that see a whole batch. IDs under which
// nothing is stored are not in the map.
func (r *Repository[A, ID]) GetAll(ctx context.Context, ids []ID) (map[ID]*A, error) {
	found := make(map[ID]*A, len(ids))
	if len(ids) == 0 {
		return found, nil
	}
	p, tx, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	for start := 0; start < len(ids); start += maxRows {
		if err := r.load(ctx, p, tx, ids[start:min(start+maxRows, len(ids))], found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (r *Repository[A, ID]) load(ctx context.Context, p *plan, tx *gorm.DB, ids []ID, found map[ID]*A) error {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows, err := tx.Statement.ConnPool.QueryContext(ctx, p.selectAll(len(ids)), args...)
	if err != nil {
		return fmt.Errorf("gormstore: load %s: %w", p.typ.Name(), err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		row := r.newRow()
		if err := p.scan(ctx, rows, reflect.ValueOf(row).Elem()); err != nil {
			return fmt.Errorf("gormstore: load %s: %w", p.typ.Name(), err)
		}
		if err := r.rehydrate(ctx, p, row, found); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("gormstore: load %s: %w", p.typ.Name(), err)
	}
	return nil
}

func (r *Repository[A, ID]) rehydrate(ctx context.Context, p *plan, row any, found map[ID]*A) error {
	v := reflect.ValueOf(row).Elem()
	version, _ := p.version.ValueOf(ctx, v)
	key, _ := p.key.ValueOf(ctx, v)
	id, ok := key.(ID)
	if !ok {
		return fmt.Errorf("gormstore: the primary key of %s is a %T, the repository's ID a %T", p.typ.Name(), key, id)
	}
	a, err := r.fromRow(row)
	if err != nil {
		return fmt.Errorf("gormstore: rehydrate %s %v: %w", p.typ.Name(), id, err)
	}
	r.root(a).Saved(version.(int64))
	found[id] = a
	return nil
}

// Save inserts an aggregate at version 0 and updates any other if its version is still the stored one, then
// publishes what it recorded. It returns [aggregate.ErrExists] and [aggregate.ErrConflict]; the transaction
// can go on after either.
func (r *Repository[A, ID]) Save(ctx context.Context, a *A) error { return r.SaveAll(ctx, []*A{a}) }

// SaveAll is Save for many aggregates: new ones are inserted by one statement, and all events are published
// together, in the order of the aggregates. On an error some of the rows may be written: return it, so that
// the unit of work undoes them.
func (r *Repository[A, ID]) SaveAll(ctx context.Context, all []*A) error {
	p, tx, err := r.begin(ctx)
	if err != nil {
		return err
	}
	var fresh []*A
	for _, a := range all {
		if r.root(a).Version == 0 {
			fresh = append(fresh, a)
		}
	}
	for start := 0; start < len(fresh); start += maxRows {
		if err := r.insert(ctx, p, tx, fresh[start:min(start+maxRows, len(fresh))]); err != nil {
			return err
		}
	}
	for _, a := range all {
		if r.root(a).Version == 0 {
			continue
		}
		if err := r.update(ctx, p, tx, a); err != nil {
			return err
		}
	}
	return r.published(ctx, all)
}

func (r *Repository[A, ID]) insert(ctx context.Context, p *plan, tx *gorm.DB, fresh []*A) error {
	args := make([]any, 0, len(fresh)*len(p.fields))
	for _, a := range fresh {
		row := reflect.ValueOf(r.toRow(a)).Elem()
		if _, zero := p.key.ValueOf(ctx, row); zero {
			return fmt.Errorf("gormstore: a new %s has no %s; aggregates choose their own", p.typ.Name(), p.key.Name)
		}
		p.stamp(ctx, row, true)
		args = p.values(ctx, row, 1, args, true)
	}
	res, err := tx.Statement.ConnPool.ExecContext(ctx, p.insertAll(len(fresh)), args...)
	if err == nil {
		err = expect(res, len(fresh), aggregate.ErrExists)
	} else if p.isKeyTaken(err) {
		err = aggregate.ErrExists
	}
	if err != nil {
		return fmt.Errorf("gormstore: insert %s: %w", p.typ.Name(), err)
	}
	return nil
}

func (r *Repository[A, ID]) update(ctx context.Context, p *plan, tx *gorm.DB, a *A) error {
	version := r.root(a).Version
	row := reflect.ValueOf(r.toRow(a)).Elem()
	key, _ := p.key.ValueOf(ctx, row)
	p.stamp(ctx, row, false)
	args := p.values(ctx, row, version+1, make([]any, 0, len(p.fields)+1), false)
	res, err := tx.Statement.ConnPool.ExecContext(ctx, p.update, append(args, key, version)...)
	if err == nil {
		err = expect(res, 1, aggregate.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("gormstore: update %s %v: %w", p.typ.Name(), key, err)
	}
	return nil
}

// published hands the events on and moves the versions, once every row is written.
func (r *Repository[A, ID]) published(ctx context.Context, all []*A) error {
	var events []any
	for _, a := range all {
		events = append(events, r.root(a).Recorded()...)
	}
	if err := r.publish(ctx, events); err != nil {
		return err
	}
	for _, a := range all {
		r.root(a).Saved(r.root(a).Version + 1)
	}
	return nil
}

func (r *Repository[A, ID]) publish(ctx context.Context, events []any) error {
	if len(events) == 0 {
		return nil
	}
	if r.publisher == nil {
		return errors.New("gormstore: an aggregate recorded events, but the repository has no Publisher")
	}
	return r.publisher.Publish(ctx, events...)
}

// Delete removes an aggregate if its version is still the stored one, and publishes what it recorded. It
// returns [aggregate.ErrConflict], and [aggregate.ErrNotFound] for one that was never saved.
func (r *Repository[A, ID]) Delete(ctx context.Context, a *A) error {
	p, tx, err := r.begin(ctx)
	if err != nil {
		return err
	}
	root := r.root(a)
	key, _ := p.key.ValueOf(ctx, reflect.ValueOf(r.toRow(a)).Elem())
	if root.Version == 0 {
		return fmt.Errorf("gormstore: delete %s %v: %w", p.typ.Name(), key, aggregate.ErrNotFound)
	}
	res, err := tx.Statement.ConnPool.ExecContext(ctx, p.delete, key, root.Version)
	if err == nil {
		err = expect(res, 1, aggregate.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("gormstore: delete %s %v: %w", p.typ.Name(), key, err)
	}
	if err := r.publish(ctx, root.Recorded()); err != nil {
		return err
	}
	root.Saved(0)
	return nil
}

func (r *Repository[A, ID]) begin(ctx context.Context) (*plan, *gorm.DB, error) {
	if !uow.In(ctx) {
		return nil, nil, uow.ErrNoTransaction
	}
	tx := uow.DB(ctx)
	if p, ok := r.plans.Load(tx.Name()); ok {
		return p.(*plan), tx, nil
	}
	p, err := newPlan(tx, r.newRow())
	if err != nil {
		return nil, nil, err
	}
	r.plans.Store(tx.Name(), p)
	return p, tx, nil
}
