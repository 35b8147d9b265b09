package gormstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

type orderID string

type line struct {
	SKU   string
	Units int
}

type order struct {
	aggregate.Root
	ID        orderID `gorm:"primaryKey;size:60"`
	Status    string
	Note      *string
	Lines     []line `gorm:"serializer:json"`
	CreatedAt time.Time
	UpdatedAt int64 `gorm:"autoUpdateTime:milli"`
}

func newOrder(id orderID) *order {
	o := &order{ID: id, Status: "placed", Lines: []line{{"hat", 2}}}
	o.Record("placed " + id)
	return o
}

func (o *order) confirm() {
	o.Status = "confirmed"
	o.Record("confirmed " + o.ID)
}

type orders = gormstore.Repository[order, orderID]

func newOrders(t *testing.T, f *fixture) (*orders, *recorder) {
	t.Helper()
	must(t, f.db.AutoMigrate(&order{}))
	rec := &recorder{}
	return gormstore.NewRepository[order, orderID](rec), rec
}

func TestRepositorySavesAndLoads(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		note := "ring twice"
		f.do(t, func(ctx context.Context) error {
			o := newOrder("o-1")
			o.Note = &note
			return repo.Save(ctx, o)
		})
		var created time.Time
		f.do(t, func(ctx context.Context) error {
			o, err := repo.Get(ctx, "o-1")
			if err != nil {
				return err
			}
			if o.Version != 1 || o.Status != "placed" || *o.Note != note || !slices.Equal(o.Lines, []line{{"hat", 2}}) {
				return fmt.Errorf("loaded %+v", o)
			}
			if len(o.Recorded()) != 0 || o.CreatedAt.IsZero() || o.UpdatedAt == 0 {
				return fmt.Errorf("loaded %+v", o)
			}
			created = o.CreatedAt
			o.confirm()
			o.Note = nil
			return repo.Save(ctx, o)
		})
		f.do(t, func(ctx context.Context) error {
			o, err := repo.Get(ctx, "o-1")
			if err == nil && (o.Version != 2 || o.Status != "confirmed" || o.Note != nil || !o.CreatedAt.Equal(created)) {
				err = fmt.Errorf("loaded %+v", o)
			}
			return err
		})
		if got := rec.take(); !slices.Equal(got, []string{"placed o-1", "confirmed o-1"}) {
			t.Fatalf("published %q", got)
		}
	})
}

func TestRepositoryNotFound(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, _ := newOrders(t, f)
		f.do(t, func(ctx context.Context) error {
			if _, err := repo.Get(ctx, "o-9"); !errors.Is(err, aggregate.ErrNotFound) || !strings.Contains(err.Error(), "o-9") {
				return fmt.Errorf("Get = %w", err)
			}
			if err := repo.Delete(ctx, newOrder("o-9")); !errors.Is(err, aggregate.ErrNotFound) {
				return fmt.Errorf("Delete = %w", err)
			}
			return nil
		})
	})
}

// A taken ID must not end the transaction, on PostgreSQL either: the handler goes on and loads the old order.
func TestRepositoryInsertOfATakenID(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		f.do(t, func(ctx context.Context) error { return repo.Save(ctx, newOrder("o-1")) })
		f.do(t, func(ctx context.Context) error {
			if err := repo.Save(ctx, newOrder("o-1")); !errors.Is(err, aggregate.ErrExists) {
				return fmt.Errorf("Save = %w", err)
			}
			_, err := repo.Get(ctx, "o-1")
			return err
		})
		if got := rec.take(); !slices.Equal(got, []string{"placed o-1"}) {
			t.Fatalf("published %q", got)
		}
	})
}

func TestRepositoryConflict(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		f.do(t, func(ctx context.Context) error { return repo.Save(ctx, newOrder("o-1")) })
		var stale *order
		f.do(t, func(ctx context.Context) (err error) { stale, err = repo.Get(ctx, "o-1"); return err })
		f.do(t, func(ctx context.Context) error {
			o, err := repo.Get(ctx, "o-1")
			if err != nil {
				return err
			}
			o.confirm()
			return repo.Save(ctx, o)
		})
		stale.Status = "rejected"
		for name, write := range map[string]func(context.Context, *order) error{"Save": repo.Save, "Delete": repo.Delete} {
			err := f.work.Do(t.Context(), func(ctx context.Context) error { return write(ctx, stale) })
			if !errors.Is(err, aggregate.ErrConflict) || !strings.Contains(err.Error(), "o-1") {
				t.Errorf("%s = %v", name, err)
			}
		}
		var status string
		must(t, f.db.Raw("SELECT status FROM orders").Scan(&status).Error)
		if got := rec.take(); status != "confirmed" || len(got) != 2 {
			t.Fatalf("status %s, published %q", status, got)
		}
	})
}

func TestRepositoryDelete(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		o := newOrder("o-1")
		f.do(t, func(ctx context.Context) error { return repo.Save(ctx, o) })
		f.do(t, func(ctx context.Context) error {
			o.Record("deleted o-1")
			return repo.Delete(ctx, o)
		})
		f.do(t, func(ctx context.Context) error {
			if _, err := repo.Get(ctx, "o-1"); !errors.Is(err, aggregate.ErrNotFound) {
				return fmt.Errorf("Get = %w", err)
			}
			return nil
		})
		if got := rec.take(); !slices.Equal(got, []string{"placed o-1", "deleted o-1"}) {
			t.Fatalf("published %q", got)
		}
	})
}

// The events of a part that is undone are not published, its neighbors' are.
func TestRepositoryPublishesWithTheCommitOnly(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		boom := errors.New("boom")
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				err := f.work.Do(t.Context(), func(ctx context.Context) error {
					if err := repo.Save(ctx, newOrder(orderID(fmt.Sprintf("o-%02d", i)))); err != nil || i%5 != 0 {
						return err
					}
					return boom
				})
				if (i%5 == 0) != errors.Is(err, boom) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
		var rows int64
		must(t, f.db.Model(&order{}).Count(&rows).Error)
		if got := rec.take(); rows != 16 || len(got) != 16 || slices.Contains(got, "placed o-05") {
			t.Fatalf("%d rows, published %q", rows, got)
		}
	})
}

func TestRepositoryFailedPublishUndoesTheSave(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	repo, rec := newOrders(t, f)
	rec.err = errors.New("no room")
	err := f.work.Do(t.Context(), func(ctx context.Context) error { return repo.Save(ctx, newOrder("o-1")) })
	var rows int64
	must(t, f.db.Model(&order{}).Count(&rows).Error)
	if !errors.Is(err, rec.err) || rows != 0 {
		t.Fatalf("Save = %v, %d rows", err, rows)
	}
}

func TestRepositoryManyAtOnce(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		repo, rec := newOrders(t, f)
		const n = 600 // more than one statement holds
		ids := make([]orderID, n)
		f.do(t, func(ctx context.Context) error {
			all := make([]*order, n)
			for i := range all {
				ids[i] = orderID(fmt.Sprintf("o-%03d", i))
				all[i] = newOrder(ids[i])
			}
			return repo.SaveAll(ctx, all)
		})
		if got := rec.take(); len(got) != n || got[599] != "placed o-599" {
			t.Fatalf("published %d events", len(got))
		}
		f.do(t, func(ctx context.Context) error {
			found, err := repo.GetAll(ctx, slices.Concat(ids, []orderID{"o-999"}))
			if err != nil {
				return err
			}
			if len(found) != n || found["o-999"] != nil {
				return fmt.Errorf("found %d", len(found))
			}
			mixed := slices.Collect(maps.Values(found))
			for _, o := range mixed {
				o.confirm()
			}
			return repo.SaveAll(ctx, append(mixed, newOrder("o-999")))
		})
		var confirmed int64
		must(t, f.db.Model(&order{}).Where("status = ? AND version = 2", "confirmed").Count(&confirmed).Error)
		if got := rec.take(); confirmed != n || len(got) != n+1 {
			t.Fatalf("%d confirmed, %d published", confirmed, len(got))
		}
	})
}

func TestRepositoryWithoutTransaction(t *testing.T) {
	t.Parallel()
	repo := gormstore.NewRepository[order, orderID](nil)
	_, err := repo.Get(t.Context(), "o-1")
	for _, err := range []error{err, repo.Save(t.Context(), newOrder("o")), repo.Delete(t.Context(), newOrder("o"))} {
		if !errors.Is(err, uow.ErrNoTransaction) {
			t.Errorf("err = %v", err)
		}
	}
}

type customer struct {
	aggregate.Root
	id, name string
}

type customerRow struct {
	ID      string `gorm:"primaryKey;size:60"`
	Name    string
	Version int64
}

var errNameless = errors.New("a customer needs a name")

func customers() *gormstore.Repository[customer, string] {
	return gormstore.NewMapped[customer, customerRow, string](nil,
		func(c *customer) customerRow { return customerRow{ID: c.id, Name: c.name} },
		func(r customerRow) (*customer, error) {
			if r.Name == "" {
				return nil, errNameless
			}
			c := &customer{id: r.ID, name: r.Name}
			c.Record("made again") // what a careless factory does must not be published
			return c, nil
		})
}

func TestMappedKeepsTheVersionByItself(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		must(t, f.db.AutoMigrate(&customerRow{}))
		repo := customers()
		f.do(t, func(ctx context.Context) error { return repo.Save(ctx, &customer{id: "c-1", name: "Ada"}) })
		var stale *customer
		f.do(t, func(ctx context.Context) (err error) { stale, err = repo.Get(ctx, "c-1"); return err })
		f.do(t, func(ctx context.Context) error {
			c, err := repo.Get(ctx, "c-1")
			if err != nil {
				return err
			}
			c.name = "Grace"
			return repo.Save(ctx, c)
		})
		err := f.work.Do(t.Context(), func(ctx context.Context) error { return repo.Save(ctx, stale) })
		var row customerRow
		must(t, f.db.First(&row).Error)
		if !errors.Is(err, aggregate.ErrConflict) || row != (customerRow{"c-1", "Grace", 2}) {
			t.Fatalf("err %v, row %+v", err, row)
		}
	})
}

func TestMappedFactoryMayRefuse(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	must(t, f.db.AutoMigrate(&customerRow{}))
	must(t, f.db.Create(&customerRow{ID: "c-1", Version: 1}).Error)
	err := f.work.Do(t.Context(), func(ctx context.Context) error { _, err := customers().Get(ctx, "c-1"); return err })
	if !errors.Is(err, errNameless) {
		t.Fatalf("err = %v", err)
	}
}

type withChildren struct {
	aggregate.Root
	ID       string
	Children []child `gorm:"foreignKey:ParentID"`
}

type child struct {
	ID       string
	ParentID string
}

type softDeleted struct {
	aggregate.Root
	ID        string
	DeletedAt gorm.DeletedAt
}

type unversioned struct{ ID string }

type keyless struct {
	aggregate.Root
	Name string
}

// What a repository would silently lose, it refuses.
func TestRepositoryRefusesWhatItCannotKeep(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	plain := func(*customer) unversioned { return unversioned{} }
	for want, get := range map[string]func(context.Context) error{
		"withChildren.Children is an association": get(gormstore.NewRepository[withChildren, string](nil)),
		"softDeleted has soft delete":             get(gormstore.NewRepository[softDeleted, string](nil)),
		"keyless needs exactly one primary key":   get(gormstore.NewRepository[keyless, string](nil)),
		"unversioned needs a column version": get(gormstore.NewMapped[customer, unversioned, string](nil, plain,
			func(unversioned) (*customer, error) { return nil, nil })),
	} {
		if err := f.work.Do(t.Context(), get); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func get[A any](r *gormstore.Repository[A, string]) func(context.Context) error {
	return func(ctx context.Context) error { _, err := r.Get(ctx, "x"); return err }
}

func TestRepositoryRefusesAnEmptyID(t *testing.T) {
	t.Parallel()
	f := onSQLite(t)
	repo, _ := newOrders(t, f)
	err := f.work.Do(t.Context(), func(ctx context.Context) error { return repo.Save(ctx, newOrder("")) })
	if err == nil || !strings.Contains(err.Error(), "no ID") {
		t.Fatalf("err = %v", err)
	}
}

// A Member's name is unique beside its ID.
type Member struct {
	aggregate.Root
	ID   string `gorm:"size:40;primaryKey"`
	Name string `gorm:"size:40;uniqueIndex"`
}

// Another unique column is not the ID, whatever value in it is taken.
func TestRepositoryTellsTheIDFromOtherUniqueColumns(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, f *fixture) {
		must(t, f.db.AutoMigrate(&Member{}))
		repo := gormstore.NewRepository[Member, string](nil)
		name := "for key 'PRIMARY'"
		f.do(t, func(ctx context.Context) error { return repo.Save(ctx, &Member{ID: "1", Name: name}) })
		err := f.work.Do(t.Context(), func(ctx context.Context) error { return repo.Save(ctx, &Member{ID: "2", Name: name}) })
		if err == nil || errors.Is(err, aggregate.ErrExists) {
			t.Errorf("another member of the same name: %v", err)
		}
		err = f.work.Do(t.Context(), func(ctx context.Context) error { return repo.Save(ctx, &Member{ID: "1", Name: "x"}) })
		if !errors.Is(err, aggregate.ErrExists) {
			t.Errorf("another member of the same ID: %v", err)
		}
	})
}
