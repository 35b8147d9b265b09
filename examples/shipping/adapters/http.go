package adapters

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/surge-go/surge/cqrs/aggregate"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/internal/web"
	"github.com/surge-go/surge/examples/shipping/app"
	"github.com/surge-go/surge/saga"
)

// API serves the shipping service over HTTP.
type API struct {
	Reads *query.Mux
	Saga  *saga.Saga[app.Fulfilment]
}

// sagaView is a fulfilment as operators see it.
type sagaView struct {
	OrderID   string     `json:"order_id"`
	Status    string     `json:"status"`
	Step      string     `json:"step,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	Cancelled bool       `json:"cancel_requested,omitempty"`
	DueAt     *time.Time `json:"due_at,omitempty"`
}

// Handler returns the routes.
func (a API) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/shipments/{orderId}", func(w http.ResponseWriter, r *http.Request) {
		v, err := query.Ask(r.Context(), a.Reads, app.GetShipment{OrderID: r.PathValue("orderId")})
		web.Answer(w, http.StatusOK, v, err)
	})
	mux.HandleFunc("GET /v1/sagas/{orderId}", func(w http.ResponseWriter, r *http.Request) {
		v, err := a.get(r.Context(), r.PathValue("orderId"))
		web.Answer(w, http.StatusOK, v, err)
	})
	return mux
}

func (a API) get(ctx context.Context, id string) (sagaView, error) {
	i, err := a.Saga.Get(ctx, id)
	if errors.Is(err, saga.ErrNotFound) {
		return sagaView{}, aggregate.ErrNotFound
	}
	v := sagaView{
		OrderID: i.Key, Status: string(i.Status), Step: i.Step, Reason: i.Reason, Cancelled: i.Cancelled,
	}
	if !i.DueAt.IsZero() {
		v.DueAt = &i.DueAt
	}
	return v, err
}
