package uow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/surge-go/surge/outbox/uow"
)

// A step is what a part of the model test does at one point; parts nest.
type step struct {
	kind  string // insert, queue, message, fail, panic, double, late double, guard, nest
	id    int
	inner []step
	carry bool // of nest: pass its error on
}

var errModel = errors.New("model")

func drawSteps(t *rapid.T, next *int, depth int) []step {
	kinds := []string{
		"insert", "insert", "queue", "queue", "queue", "message", "message", "fail", "double", "late double", "guard", "panic",
	}
	if depth < 3 {
		kinds = append(kinds, "nest", "nest")
	}
	var list []step
	for range rapid.IntRange(1, 4).Draw(t, "length") {
		*next++
		s := step{kind: rapid.SampledFrom(kinds).Draw(t, "kind"), id: *next}
		if s.kind == "panic" && rapid.IntRange(0, 3).Draw(t, "rare") > 0 {
			s.kind = "insert"
		}
		if s.kind == "nest" {
			s.inner, s.carry = drawSteps(t, next, depth+1), rapid.Bool().Draw(t, "carry")
		}
		list = append(list, s)
	}
	return list
}

// expect says what a list of steps leaves behind, and whether it fails.
func expect(steps []step) (rows, msgs []int, failed bool) {
	for _, s := range steps {
		switch s.kind {
		case "insert", "queue":
			rows = append(rows, s.id)
		case "message":
			msgs = append(msgs, s.id)
		case "fail", "panic", "double", "late double", "guard":
			return nil, nil, true
		case "nest":
			r, m, failed := expect(s.inner)
			if failed && (s.carry || panics(s.inner)) {
				return nil, nil, true
			}
			rows, msgs = append(rows, r...), append(msgs, m...)
		}
	}
	return rows, msgs, false
}

// panics reports whether the steps end in a panic rather than in an error.
func panics(steps []step) bool {
	for _, s := range steps {
		switch s.kind {
		case "panic":
			return true
		case "fail", "double", "late double", "guard":
			return false
		case "nest":
			if panics(s.inner) {
				return true
			}
			if _, _, failed := expect(s.inner); failed && s.carry {
				return false
			}
		}
	}
	return false
}

func perform(ctx context.Context, u *uow.UnitOfWork, steps []step) error {
	for _, s := range steps {
		var err error
		switch s.kind {
		case "insert":
			err = insert(ctx, s.id)
		case "queue":
			err = uow.Queue(ctx, insertItem, s.id)
		case "late double": // in a pipeline it goes on, and fails when it is over, or at its next statement
			err = errors.Join(uow.Queue(ctx, insertItem, s.id), uow.Queue(ctx, insertItem, s.id))
		case "guard":
			err = uow.QueueOne(ctx, errModel, "UPDATE items SET n = 1 WHERE id = ?", -s.id)
		case "message":
			err = uow.BeforeCommit(ctx, "messages", saveMessages, s.id)
		case "fail":
			err = errModel
		case "double":
			err = errors.Join(insert(ctx, s.id), insert(ctx, s.id))
		case "panic":
			if err = uow.DB(ctx).Exec("SELECT 1").Error; err == nil { // nothing that was queued before has failed
				panic(errModel)
			}
		case "nest":
			err = u.Do(ctx, func(ctx context.Context) error { return perform(ctx, u, s.inner) })
			if !s.carry && !errors.Is(err, uow.ErrDoomed) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func saveMessages(ctx context.Context, ids []int) error {
	var rows []map[string]any
	for _, id := range ids {
		rows = append(rows, map[string]any{"id": id})
	}
	return uow.DB(ctx).Table("messages").Create(rows).Error
}

// Random parts that succeed, fail, panic and nest, many at once: each part's effect is there exactly when its
// caller was told so.
func TestModel(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db *gorm.DB) {
		exec(t, db, "CREATE TABLE messages (id INTEGER PRIMARY KEY)")
		u := unit(t, db, uow.Config{MaxShare: 8})
		next := 0
		rapid.Check(t, func(rt *rapid.T) {
			var parts [][]step
			for range rapid.IntRange(1, 12).Draw(rt, "parts") {
				parts = append(parts, drawSteps(rt, &next, 0))
			}
			errs := make([]error, len(parts))
			var wg sync.WaitGroup
			for i, steps := range parts {
				wg.Go(func() {
					defer func() {
						if v := recover(); v != nil {
							errs[i] = fmt.Errorf("panicked: %v", v)
						}
					}()
					errs[i] = u.Do(context.Background(), func(ctx context.Context) error { return perform(ctx, u, steps) })
				})
			}
			wg.Wait()
			var wantRows, wantMsgs []int
			for i, steps := range parts {
				rows, msgs, failed := expect(steps)
				if failed != (errs[i] != nil) {
					rt.Fatalf("part %d %+v: failed should be %v, got %v", i, steps, failed, errs[i])
				}
				wantRows, wantMsgs = append(wantRows, rows...), append(wantMsgs, msgs...)
			}
			compare(rt, db, "items", wantRows)
			compare(rt, db, "messages", wantMsgs)
		})
	})
}

func compare(t *rapid.T, db *gorm.DB, table string, want []int) {
	var got []int
	if err := db.Raw("SELECT id FROM " + table + " ORDER BY id").Scan(&got).Error; err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v", table, got, want)
	}
	if err := db.Exec("DELETE FROM " + table).Error; err != nil {
		t.Fatal(err)
	}
}
