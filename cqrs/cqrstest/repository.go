package cqrstest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/surge-go/surge/cqrs/aggregate"
)

// Publisher takes recorded events; *cqrs.Sender is one.
type Publisher interface {
	Publish(ctx context.Context, events ...any) error
}

// Repository is an aggregate.Repository in memory, with versions and conflicts like the real one. It keeps copies of
// the aggregates' structs, so changes that are not saved are not seen; what they point to, slices and maps included,
// is shared. It has no transaction. It is safe for concurrent use.
type Repository[A any, ID comparable] struct {
	// Publisher gets the recorded events of each Save and Delete; nil leaves them to Events.
	Publisher Publisher

	id   func(*A) ID
	root func(*A) *aggregate.Root

	mu     sync.Mutex
	rows   map[ID]A
	events []any
}

// NewRepository returns an empty repository; id returns an aggregate's ID. Only the first two type arguments are
// ever written: NewRepository[Order, string](func(o *Order) string { return o.ID }).
func NewRepository[A any, ID comparable, P aggregate.Of[A]](id func(*A) ID) *Repository[A, ID] {
	return &Repository[A, ID]{
		id:   id,
		root: func(a *A) *aggregate.Root { return aggregate.RootOf[A, P](P(a)) },
		rows: map[ID]A{},
	}
}

// Get returns a copy of an aggregate, or aggregate.ErrNotFound.
func (r *Repository[A, ID]) Get(_ context.Context, id ID) (*A, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.rows[id]
	if !ok {
		return nil, fmt.Errorf("%v: %w", id, aggregate.ErrNotFound)
	}
	return &a, nil
}

// Save inserts an aggregate at version 0 and updates any other. It returns aggregate.ErrExists and
// aggregate.ErrConflict.
func (r *Repository[A, ID]) Save(ctx context.Context, a *A) error {
	return r.write(ctx, a, func(id ID, root *aggregate.Root) {
		recorded := root.Recorded()
		root.Saved(root.Version + 1)
		r.rows[id] = *a
		r.events = append(r.events, recorded...)
	})
}

// Delete removes an aggregate, which is new afterwards. It returns aggregate.ErrConflict, and aggregate.ErrNotFound for
// one that is new already.
func (r *Repository[A, ID]) Delete(ctx context.Context, a *A) error {
	if r.root(a).Version == 0 {
		return fmt.Errorf("%v: %w", r.id(a), aggregate.ErrNotFound)
	}
	return r.write(ctx, a, func(id ID, root *aggregate.Root) {
		delete(r.rows, id)
		r.events = append(r.events, root.Recorded()...)
		root.Saved(0)
	})
}

func (r *Repository[A, ID]) write(ctx context.Context, a *A, apply func(ID, *aggregate.Root)) error {
	root, id := r.root(a), r.id(a)
	events := slices.Clone(root.Recorded())
	if err := func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		old, found := r.rows[id]
		switch {
		case root.Version == 0 && found:
			return fmt.Errorf("%v: %w", id, aggregate.ErrExists)
		case root.Version != 0 && (!found || r.root(&old).Version != root.Version):
			return fmt.Errorf("%v: %w", id, aggregate.ErrConflict)
		}
		apply(id, root)
		return nil
	}(); err != nil {
		return err
	}
	if r.Publisher == nil || len(events) == 0 {
		return nil
	}
	return r.Publisher.Publish(ctx, events...)
}

// Events returns the events of everything that was saved, in order.
func (r *Repository[A, ID]) Events() []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}
