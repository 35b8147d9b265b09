package aggregate

import (
	"context"
	"errors"
)

var (
	// ErrNotFound is returned by Get for an ID under which nothing is stored.
	ErrNotFound = errors.New("aggregate: not found")
	// ErrConflict is returned by Save and Delete when someone else saved or deleted the aggregate
	// after it was loaded. It is transient: a handler that returns it runs again and decides anew.
	ErrConflict = errors.New("aggregate: changed by someone else")
	// ErrExists is returned by Save for a new aggregate whose ID is taken. It is not transient.
	// With IDs derived from the request it tells a repeated request from a first one.
	ErrExists = errors.New("aggregate: already exists")
)

// Root is embedded in an aggregate, by value. The zero value is a new aggregate.
// It is not safe for concurrent use.
type Root struct {
	// Version counts the saves and is the optimistic lock: 0 means never saved. The repository
	// keeps it; nothing else should set it. It is stored in the column "version".
	Version int64 `json:"-"`

	recorded []any
}

// Record notes events for the next Save to publish, in order.
func (r *Root) Record(events ...any) { r.recorded = append(r.recorded, events...) }

// Recorded returns the events recorded since the last Save, for repositories and tests.
// The slice belongs to the root; do not change it.
func (r *Root) Recorded() []any { return r.recorded }

// Saved tells the root that it was saved as version, with everything that it had recorded.
// Repositories call it; a domain model does not.
func (r *Root) Saved(version int64) {
	r.Version = version
	r.recorded = nil
}

func (r *Root) root() *Root { return r }

// Of is satisfied by a pointer to a struct that embeds [Root]. It is inferred, never written.
type Of[A any] interface {
	*A
	root() *Root
}

// RootOf returns the root of any aggregate, for code that is generic over aggregates.
func RootOf[A any, P Of[A]](a P) *Root { return a.root() }

// Repository loads and saves whole aggregates inside the transaction in ctx. Implementations are
// safe for concurrent use; the aggregates are not.
type Repository[A any, ID comparable] interface {
	// Get loads an aggregate, or returns [ErrNotFound].
	Get(ctx context.Context, id ID) (*A, error)
	// Save inserts an aggregate at version 0 and updates any other, then publishes what it recorded.
	// It returns [ErrExists] and [ErrConflict].
	Save(ctx context.Context, a *A) error
	// Delete removes an aggregate and publishes what it recorded. It returns [ErrConflict].
	Delete(ctx context.Context, a *A) error
}
