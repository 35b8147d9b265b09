package adapters

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/internal/web"
	"github.com/surge-go/surge/examples/inventory/app"
	"github.com/surge-go/surge/outbox/uow"
)

// NewReads answers the queries from db, outside of any transaction.
func NewReads(db *gorm.DB) *query.Mux {
	m := query.NewMux()
	query.Handle(m, func(ctx context.Context, _ app.ListProducts) ([]app.ProductView, error) {
		out := []app.ProductView{}
		err := db.WithContext(ctx).Raw(`SELECT sku, free FROM products ORDER BY sku`).Scan(&out).Error
		if err != nil {
			return nil, fmt.Errorf("inventory: list: %w", err)
		}
		return out, nil
	})
	query.Handle(m, func(ctx context.Context, q app.GetProduct) (app.ProductView, error) {
		var row productRow
		err := db.WithContext(ctx).Where("sku = ?", q.SKU).Take(&row).Error
		if errors.Is(err, gorm.ErrRecordNotFound) {
			return app.ProductView{}, aggregate.ErrNotFound
		}
		if err != nil {
			return app.ProductView{}, fmt.Errorf("inventory: read: %w", err)
		}
		return app.ProductView{SKU: string(row.SKU), Free: row.Free}, nil
	})
	return m
}

// SetStock handles [app.SetStock] by a delta, whatever is sold meanwhile. It does not go below what is taken.
func SetStock(ctx context.Context, c app.SetStock) (app.ProductView, error) {
	const upsert = `INSERT INTO products (sku, seeded, free) VALUES (?, ?, ?)
		ON CONFLICT (sku) DO UPDATE SET free = products.free + excluded.seeded - products.seeded, seeded = excluded.seeded
		WHERE products.free + excluded.seeded - products.seeded >= 0`
	if c.SKU == "" || c.Units < 0 {
		return app.ProductView{}, cqrs.Reject(app.Invalid, errors.New("a product has a SKU and no negative stock"))
	}
	res := uow.DB(ctx).Exec(upsert, c.SKU, c.Units, c.Units)
	if res.Error != nil {
		return app.ProductView{}, fmt.Errorf("inventory: set stock: %w", res.Error)
	}
	if res.RowsAffected == 0 {
		return app.ProductView{}, cqrs.Reject(web.CodeWrongState, errors.New("more units than that are sold"))
	}
	view := app.ProductView{SKU: c.SKU}
	err := uow.DB(ctx).Raw(`SELECT free FROM products WHERE sku = ?`, c.SKU).Scan(&view.Free).Error
	return view, err
}

// API serves the inventory service over HTTP.
type API struct {
	Processor *cqrs.Processor
	Reads     *query.Mux
}

// Handler returns the routes.
func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/products", func(w http.ResponseWriter, r *http.Request) {
		v, err := query.Ask(r.Context(), a.Reads, app.ListProducts{})
		web.Answer(w, http.StatusOK, map[string]any{"products": v}, err)
	})
	mux.HandleFunc("GET /v1/products/{sku}/availability", func(w http.ResponseWriter, r *http.Request) {
		v, err := query.Ask(r.Context(), a.Reads, app.GetProduct{SKU: r.PathValue("sku")})
		web.Answer(w, http.StatusOK, v, err)
	})
	mux.HandleFunc("PUT /v1/products/{sku}/stock", a.setStock)
	return mux
}

func (a API) setStock(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Units int `json:"units"`
	}
	if !web.Decode(w, r, &body) {
		return
	}
	v, err := cqrs.Execute(r.Context(), a.Processor, app.SetStock{SKU: r.PathValue("sku"), Units: body.Units})
	web.Answer(w, http.StatusOK, v, err)
}
