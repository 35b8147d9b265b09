package saga

import (
	"context"
	"iter"
	"time"

	"github.com/surge-go/surge/saga/internal/store"
)

// A Filter chooses instances. Zero fields choose all.
type Filter struct {
	Type, Key string
	Tag       string
	Status    []Status
	Older     time.Duration // not changed for so long
}

// A Summary is an instance without its state.
type Summary struct {
	ID, Type, Key        string
	Version              int // of the definition
	Status               Status
	Step, Reason         string
	Tags                 []string
	CreatedAt, UpdatedAt time.Time
	DueAt                time.Time // zero: never
}

const listPage = 200

// List yields the instances that f chooses, the oldest start first. It reads a page at a time, so instances that
// change meanwhile may be seen as before or as after. An error ends it.
func (e *Engine) List(ctx context.Context, f Filter) iter.Seq2[Summary, error] {
	return func(yield func(Summary, error) bool) {
		sf := store.Filter{Type: f.Type, Key: f.Key, Tag: f.Tag, Limit: listPage}
		for _, s := range f.Status {
			sf.Status = append(sf.Status, string(s))
		}
		for {
			var rows []*store.Row
			err := e.within(ctx, func(ctx context.Context) (err error) {
				if f.Older > 0 {
					sf.Before = e.now().Add(-f.Older).UnixMilli()
				}
				rows, err = store.List(ctx, sf)
				return err
			})
			if err != nil {
				yield(Summary{}, err)
				return
			}
			for _, r := range rows {
				if !yield(summaryOf(r), nil) {
					return
				}
			}
			if len(rows) < listPage {
				return
			}
			sf.After = rows[len(rows)-1].ID
		}
	}
}

func summaryOf(r *store.Row) Summary {
	s := Summary{
		ID: r.ID, Type: r.Type, Key: r.Key, Version: int(r.DefVersion), Status: Status(r.Status), Step: r.Step,
		Reason: r.Reason, Tags: splitTags(r.Tags),
		CreatedAt: time.UnixMilli(r.Created).UTC(), UpdatedAt: time.UnixMilli(r.Updated).UTC(),
	}
	if r.Due != 0 {
		s.DueAt = time.UnixMilli(r.Due).UTC()
	}
	return s
}
