package store

import (
	"context"
	"fmt"
)

// A Note is what one transition left in the journal.
type Note struct {
	Saga    string
	Version int64 // of the instance after it
	At      int64
	Entries string // JSON
}

// Journal appends notes.
func Journal(ctx context.Context, notes []Note) error {
	_, err := open(ctx).insert(ctx, "saga_journal", len(notes), []column{
		texts("saga_id", notes, func(n Note) string { return n.Saga }),
		ints("version", notes, func(n Note) int64 { return n.Version }),
		ints("at", notes, func(n Note) int64 { return n.At }),
		texts("entries", notes, func(n Note) string { return n.Entries }),
	}, "", nil)
	return err
}

// Notes returns an instance's journal, oldest first.
func Notes(ctx context.Context, id string) ([]Note, error) {
	var list []Note
	err := open(ctx).each(ctx, func(scan func(...any) error) error {
		n := Note{Saga: id}
		err := scan(&n.Version, &n.At, &n.Entries)
		list = append(list, n)
		return err
	}, "SELECT version, at, entries FROM saga_journal WHERE saga_id = ? ORDER BY version", id)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return list, nil
}

// A Definition is what was registered under a type and version.
type Definition struct {
	Type    string
	Version int64
	Hash    string
	Graph   string
}

// Record notes definitions that are new and returns all that are known of these types.
func Record(ctx context.Context, defs []Definition) ([]Definition, error) {
	c := open(ctx)
	conflict := "ON CONFLICT (type, version) DO NOTHING"
	if c.name == mysql {
		conflict = "ON DUPLICATE KEY UPDATE hash = hash"
	}
	_, err := c.insert(ctx, "saga_definitions", len(defs), []column{
		texts("type", defs, func(d Definition) string { return d.Type }),
		ints("version", defs, func(d Definition) int64 { return d.Version }),
		texts("hash", defs, func(d Definition) string { return d.Hash }),
		texts("graph", defs, func(d Definition) string { return d.Graph }),
	}, conflict, nil)
	if err != nil {
		return nil, err
	}
	var known []Definition
	err = c.each(ctx, func(scan func(...any) error) error {
		var d Definition
		err := scan(&d.Type, &d.Version, &d.Hash)
		known = append(known, d)
		return err
	}, "SELECT type, version, hash FROM saga_definitions")
	return known, err
}
