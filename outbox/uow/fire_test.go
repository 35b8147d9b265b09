package uow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/surge-go/surge/outbox/uow"
)

// An ordeal is what a part of the test under fire goes through, in order. Each disaster strikes once, though
// the part may run many times.
type ordeal struct {
	steps []string // insert, queue, message, fail, panic, nest, hang, cut, lose answer, lose statement
	id    int      // of the part's row and message
	fired []atomic.Bool
}

// run goes through the ordeal. A nested one fails on purpose after a write, and must leave nothing behind.
func (o *ordeal) run(ctx context.Context, u *uow.UnitOfWork, p *proxy) error {
	for i, step := range o.steps {
		var err error
		switch step {
		case "insert":
			err = uow.DB(ctx).Exec(insertItem, o.id+i).Error
		case "queue":
			err = uow.Queue(ctx, insertItem, o.id+i)
		case "message":
			err = uow.BeforeCommit(ctx, "messages", saveMessages, o.id+i)
		case "nest":
			err = u.Do(ctx, func(ctx context.Context) error {
				return errors.Join(insert(ctx, -o.id-i), errModel)
			})
			if errors.Is(err, errModel) && !errors.Is(err, uow.ErrDoomed) {
				err = nil
			}
		case "fail":
			return errModel
		case "panic":
			panic(errModel)
		default:
			if o.fired[i].CompareAndSwap(false, true) {
				strike(ctx, step, p)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func strike(ctx context.Context, disaster string, p *proxy) {
	switch disaster {
	case "hang":
		<-ctx.Done()
	case "cut":
		p.cut()
	case "lose answer":
		p.lose.Store(loseAnswer)
	case "lose statement":
		p.lose.Store(loseStatement)
	}
}

// left returns what the ordeal leaves behind if it succeeds.
func (o *ordeal) left(kind string) (ids []int) {
	for i, step := range o.steps {
		if step == kind {
			ids = append(ids, o.id+i)
		}
	}
	return ids
}

func drawOrdeals(t *rapid.T, next *int) (list []*ordeal) {
	kinds := []string{"insert", "insert", "queue", "queue", "message", "message", "nest", "cut", "lose answer", "lose statement"}
	for range rapid.IntRange(2, 12).Draw(t, "parts") {
		steps := rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 5).Draw(t, "steps")
		switch rapid.IntRange(0, 39).Draw(t, "end") {
		case 0:
			steps = append(steps, "hang")
		case 1, 2:
			steps = append(steps, "fail")
		case 3, 4:
			steps = append(steps, "panic")
		}
		list = append(list, &ordeal{steps: steps, id: *next, fired: make([]atomic.Bool, len(steps))})
		*next += 10
	}
	return list
}

// Random parts that succeed, fail, panic, nest, hang, lose their connection anywhere, and lose their COMMIT or its
// answer: each part's effect is there, all of it, exactly when its caller was told so.
func TestModelUnderFire(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, direct *gorm.DB) {
		migrate(t, direct)
		exec(t, direct, "CREATE TABLE messages (id INTEGER PRIMARY KEY)")
		db, p := behind(t, direct)
		u := unit(t, db, uow.Config{MaxShare: 8, Retries: 20, PartTimeout: 200 * time.Millisecond})
		next, survivors := 10, 0
		rapid.Check(t, func(rt *rapid.T) {
			parts := drawOrdeals(rt, &next)
			errs := make([]error, len(parts))
			var wg sync.WaitGroup
			for i, o := range parts {
				wg.Go(func() {
					defer func() {
						if v := recover(); v != nil {
							errs[i] = fmt.Errorf("panicked: %v", v)
						}
					}()
					errs[i] = u.Do(context.Background(), func(ctx context.Context) error { return o.run(ctx, u, p) })
				})
			}
			wg.Wait()
			p.lose.Store(0)
			judge(rt, direct, parts, errs)
			for _, err := range errs {
				if err == nil {
					survivors++
				}
			}
		})
		if s := u.Stats(); s.Retries == 0 || survivors < 100 {
			t.Errorf("%d parts survived, %+v: the fire was out, or nothing could stand it", survivors, s)
		}
	})
}

// judge compares what the callers were told with what is there.
func judge(t *rapid.T, db *gorm.DB, parts []*ordeal, errs []error) {
	var rows, messages []int
	for i, o := range parts {
		committed := errs[i] == nil
		var unknown *uow.OutcomeError
		if errors.As(errs[i], &unknown) {
			var err error
			if committed, err = unknown.Resolve(context.Background()); err != nil {
				t.Fatalf("part %v: %v", o.steps, err)
			}
		}
		if committed && (slices.Contains(o.steps, "fail") || slices.Contains(o.steps, "panic")) {
			t.Fatalf("part %v failed, and its caller was told that it succeeded", o.steps)
		}
		if committed {
			rows, messages = append(append(rows, o.left("insert")...), o.left("queue")...), append(messages, o.left("message")...)
		}
	}
	compare(t, db, "items", rows)
	compare(t, db, "messages", messages)
}
