package adapters

import (
	"log/slog"
	"net/http"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/web"
	"github.com/surge-go/surge/examples/payment/app"
	"github.com/surge-go/surge/examples/payment/domain"
	"github.com/surge-go/surge/idempotency"
)

// API serves the payment service over HTTP. Its writes reach outside of the database, so each request holds a lease on
// its key while it runs; one that died is run again under the same key, which the provider knows.
type API struct {
	Work     cqrs.UnitOfWork
	Payments *app.Payments
	Reads    *query.Mux
	Keys     idempotency.Store
	Logger   *slog.Logger
}

// Handler returns the routes.
func (a API) Handler() http.Handler {
	once := idempotency.Middleware(a.Keys, web.Scope, idempotency.MiddlewareConfig{
		OnUnknown: idempotency.Reexecute, Logger: a.Logger,
	})
	mux := http.NewServeMux()
	mux.Handle("POST /v1/payments", once(http.HandlerFunc(a.authorize)))
	for _, op := range []domain.Operation{domain.OpCapture, domain.OpVoid, domain.OpRefund} {
		mux.Handle("POST /v1/payments/{id}/"+string(op), once(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				v, err := a.Payments.Perform(r.Context(), a.Work, op,
					contracts.AuthorizePayment{OrderID: r.PathValue("id")})
				web.Answer(w, http.StatusOK, v, err)
			})))
	}
	mux.HandleFunc("GET /v1/payments/{id}", func(w http.ResponseWriter, r *http.Request) {
		v, err := query.Ask(r.Context(), a.Reads, app.GetPayment{ID: r.PathValue("id")})
		web.Answer(w, http.StatusOK, v, err)
	})
	return mux
}

func (a API) authorize(w http.ResponseWriter, r *http.Request) {
	var body contracts.AuthorizePayment
	if !web.Decode(w, r, &body) {
		return
	}
	v, err := a.Payments.Perform(r.Context(), a.Work, domain.OpAuthorize, body)
	web.Answer(w, http.StatusCreated, v, err)
}
