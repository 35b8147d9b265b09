package aggregate_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/surge-go/surge/cqrs/aggregate"
	"pgregory.net/rapid"
)

type counter struct {
	aggregate.Root
	ID string
	N  int
}

type counted struct{ By int }

func (c *counter) add(by int) {
	c.N += by
	c.Record(counted{by})
}

func TestRecordKeepsOrder(t *testing.T) {
	t.Parallel()
	c := &counter{ID: "c-1"}
	if got := c.Recorded(); len(got) != 0 {
		t.Fatalf("a new aggregate has recorded %v", got)
	}
	c.add(1)
	c.Record(counted{2}, counted{3})
	if got, want := c.Recorded(), []any{counted{1}, counted{2}, counted{3}}; !slices.Equal(got, want) {
		t.Fatalf("recorded %v, want %v", got, want)
	}
}

func TestSavedForgetsEventsAndMovesVersion(t *testing.T) {
	t.Parallel()
	c := &counter{}
	c.add(1)
	c.Saved(7)
	if c.Version != 7 || len(c.Recorded()) != 0 {
		t.Fatalf("version %d, recorded %v", c.Version, c.Recorded())
	}
	c.add(2)
	if got := c.Recorded(); !slices.Equal(got, []any{counted{2}}) {
		t.Fatalf("recorded %v after a save", got)
	}
}

// A slice that a caller kept must not change under it when the aggregate goes on.
func TestSavedDoesNotReuseTheSlice(t *testing.T) {
	t.Parallel()
	c := &counter{}
	c.add(1)
	kept := c.Recorded()
	c.Saved(1)
	c.add(2)
	if !slices.Equal(kept, []any{counted{1}}) {
		t.Fatalf("a kept slice became %v", kept)
	}
}

func TestRootOfIsTheEmbeddedRoot(t *testing.T) {
	t.Parallel()
	c := &counter{}
	aggregate.RootOf(c).Saved(3)
	if c.Version != 3 {
		t.Fatalf("version %d", c.Version)
	}
}

// A command that embeds an aggregate by mistake must not leak its version to the wire.
func TestRootIsInvisibleToJSON(t *testing.T) {
	t.Parallel()
	c := &counter{ID: "c-1", N: 2}
	c.Saved(4)
	c.add(1)
	b, err := json.Marshal(c)
	if err != nil || string(b) != `{"ID":"c-1","N":3}` {
		t.Fatalf("%s, %v", b, err)
	}
}

func TestRootStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c counter
		var want []any
		var version int64
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				by := rapid.IntRange(1, 9).Draw(t, "by")
				c.add(by)
				want = append(want, counted{by})
			},
			"save": func(*rapid.T) {
				version++
				c.Saved(version)
				want = nil
			},
			"": func(t *rapid.T) {
				if c.Version != version || !slices.Equal(c.Recorded(), want) {
					t.Fatalf("version %d recorded %v, want %d %v", c.Version, c.Recorded(), version, want)
				}
			},
		})
	})
}
