package cqrs_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// oops is an error whose nil pointer cannot be looked at.
type oops struct{ text string }

func (e *oops) Error() string { return e.text }

// hollow is an error whose nil pointer cannot be unwrapped.
type hollow struct{ inner error }

func (e *hollow) Error() string { return "hollow" }
func (e *hollow) Unwrap() error { return e.inner }

// What the catalog's functions return is looked at no less carefully than what handlers return.
func TestNilPointersOfTheCatalogAreFailures(t *testing.T) {
	t.Parallel()
	for name, types := range map[string][]cqrs.Type{
		"upcast": {
			cqrs.Command[note]{Name: "odd.note", Version: 2},
			cqrs.Upcast("odd.note", 1, func(n placed) (note, error) { return note{}, (*hollow)(nil) }),
		},
		"validation": {
			cqrs.Command[note]{Name: "odd.note", Validate: func(note) error { return (*hollow)(nil) }},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				s := newService(t, b, cqrs.NewCatalog(types...), b.config())
				cqrs.On(s.p, func(context.Context, note) error { return nil })
				s.run()
				synctest.Wait()
				s.deliver("odd.commands", msg("1", "odd.note", "a", `{}`))
				time.Sleep(time.Hour)
				b.read(func(now *tables) {
					if len(now.dead) != 1 {
						t.Errorf("dead letters: %v", now.dead)
					}
				})
			})
		})
	}
}

// A nil pointer that is returned as an error is a failure of its message, whoever returned it, and ends nothing.
func TestNilPointersAsErrorsAreFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		register func(*cqrs.Processor)
		text     string
	}{
		"handler": {func(p *cqrs.Processor) {
			cqrs.On(p, func(context.Context, note) error { return (*oops)(nil) })
		}, "nil *cqrs_test.oops"},
		"rejection": {func(p *cqrs.Processor) {
			cqrs.On(p, func(context.Context, note) error { return (*cqrs.Rejection)(nil) })
		}, "nil *Rejection"},
		"batch": {func(p *cqrs.Processor) {
			p.Consume(func(_ context.Context, ds []*cqrs.Delivery) error {
				for _, d := range ds {
					d.Err = (*cqrs.Rejection)(nil)
				}
				return nil
			}, cqrs.FromTypes("shop.note"))
		}, "nil *Rejection"},
		"text of a rejection": {func(p *cqrs.Processor) {
			cqrs.On(p, func(context.Context, note) error { return cqrs.Reject("no", (*oops)(nil)) })
		}, "nil pointer"},
		"reason to wait": {func(p *cqrs.Processor) {
			runs := 0
			cqrs.On(p, func(context.Context, note) error {
				if runs++; runs == 1 {
					return cqrs.Later(time.Second, (*oops)(nil))
				}
				return (*oops)(nil)
			})
		}, "nil *cqrs_test.oops"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newDB()
				s := newService(t, b, catalog(), b.config())
				c.register(s.p)
				s.run()
				synctest.Wait()
				s.deliver("shop.commands", noteMsg("1", "a", "sock"))
				time.Sleep(time.Hour)
				b.read(func(now *tables) {
					if reason := now.dead["1"].Reason; !strings.Contains(reason, c.text) {
						t.Errorf("the dead letter says %q, want %q", reason, c.text)
					}
				})
			})
		})
	}
}
