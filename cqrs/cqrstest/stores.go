package cqrstest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// group is the consumer group of most stored messages; elsewhere is another one, which must not matter to it.
const (
	group     = "orders"
	elsewhere = "billing"
)

// many is more than any database takes as the parameters of one statement, at several per message.
const many = 10_000

// longest is how many bytes a message's ID or queue may have.
const longest = 200

// patience bounds what a case waits for, on a busy machine too. It decides nothing but when to give up.
const patience = time.Minute

var errUndo = errors.New("cqrstest: undo")

func isUndo(err error) bool { return errors.Is(err, errUndo) }

// oddNames are distinct names that a careless store takes for one another, refuses, or cuts.
func oddNames() []string {
	return []string{
		"m1", "M1", "m1 ", " m1", "m_", "m%", "ma", "m'1", `m"1`, `m\1`, "m\t1", "m\n1", "é", "e\u0301", "ß", "ss",
		"名前", "🚚", strings.Repeat("x", longest), strings.Repeat("x", longest-1) + "y",
	}
}

func numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%05d", prefix, i)
	}
	return names
}

// runCases runs each case as a subtest on a fixture of its own.
func runCases[F any](t *testing.T, open func(*testing.T) F, cases map[string]func(*testing.T, F)) {
	t.Helper()
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// commit runs fn in a transaction that must commit.
func commit(t testing.TB, w cqrs.UnitOfWork, fn func(ctx context.Context) error) {
	t.Helper()
	if err := w.Do(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// undo runs fn in a transaction that is then undone.
func undo(t testing.TB, w cqrs.UnitOfWork, fn func(ctx context.Context) error) {
	t.Helper()
	undoIn(t.Context(), t, w, fn)
}

func undoIn(ctx context.Context, t testing.TB, w cqrs.UnitOfWork, fn func(ctx context.Context) error) {
	t.Helper()
	err := w.Do(ctx, func(ctx context.Context) error {
		if err := fn(ctx); err != nil {
			return err
		}
		return errUndo
	})
	if !isUndo(err) {
		t.Fatalf("a transaction that was to be undone ended with %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}
