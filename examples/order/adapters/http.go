package adapters

import (
	"net/http"
	"strconv"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/web"
	"github.com/surge-go/surge/examples/order/app"
	"github.com/surge-go/surge/examples/order/domain"
	"github.com/surge-go/surge/idempotency"
)

// API serves the order service over HTTP.
type API struct {
	Processor *cqrs.Processor
	Reads     *query.Mux
	// Once makes a request that arrives twice happen once. nil: it happens twice, and each has an ID of its own.
	Once func(http.Handler) http.Handler
}

// Handler returns the routes.
func (a API) Handler() http.Handler {
	once := a.Once
	if once == nil {
		once = func(h http.Handler) http.Handler { return h }
	}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/orders", once(http.HandlerFunc(a.place)))
	mux.Handle("POST /v1/orders/{id}/cancel", once(http.HandlerFunc(a.cancel)))
	mux.HandleFunc("GET /v1/orders/{id}", a.get)
	mux.HandleFunc("GET /v1/orders", a.list)
	mux.HandleFunc("GET /v1/backlog", a.backlog)
	return mux
}

// order is the body of a request to place one.
type order struct {
	Card  string           `json:"card"`
	Lines []contracts.Line `json:"lines"`
}

func (a API) place(w http.ResponseWriter, r *http.Request) {
	customer, ok := web.Customer(w, r)
	if !ok {
		return
	}
	var body order
	if !web.Decode(w, r, &body) {
		return
	}
	receipt, err := cqrs.Execute(r.Context(), a.Processor, app.PlaceOrder{
		ID: id(r), Customer: customer, Card: body.Card, Lines: body.Lines,
	})
	if err == nil {
		w.Header().Set("Location", "/v1/orders/"+receipt.ID)
	}
	web.Answer(w, http.StatusAccepted, receipt, err)
}

// id follows from the request, so that a request that comes again, even after its key was forgotten, meets its order.
func id(r *http.Request) domain.OrderID {
	k, ok := idempotency.KeyFrom(r.Context())
	if !ok {
		return domain.RandomOrderID()
	}
	return domain.NewOrderID(k.Scope, k.Operation, k.ID)
}

func (a API) cancel(w http.ResponseWriter, r *http.Request) {
	customer, ok := web.Customer(w, r)
	if !ok {
		return
	}
	receipt, err := cqrs.Execute(r.Context(), a.Processor, app.RequestCancel{
		ID: domain.OrderID(r.PathValue("id")), Customer: customer,
	})
	web.Answer(w, http.StatusAccepted, receipt, err)
}

func (a API) get(w http.ResponseWriter, r *http.Request) {
	customer, ok := web.Customer(w, r)
	if !ok {
		return
	}
	v, err := query.Ask(r.Context(), a.Reads, app.GetOrder{ID: r.PathValue("id"), Customer: customer})
	web.Answer(w, http.StatusOK, v, err)
}

func (a API) list(w http.ResponseWriter, r *http.Request) {
	customer, ok := web.Customer(w, r)
	if !ok {
		return
	}
	limit := 20
	if s := r.URL.Query().Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 100 {
			web.Problem(w, http.StatusBadRequest, "malformed", "limit is 1 to 100")
			return
		}
		limit = n
	}
	page, err := query.Ask(r.Context(), a.Reads, app.ListOrders{
		Customer: customer, Cursor: r.URL.Query().Get("cursor"), Limit: limit,
	})
	web.Answer(w, http.StatusOK, page, err)
}

// backlog tells the gateway how many orders are under way.
func (a API) backlog(w http.ResponseWriter, r *http.Request) {
	n, err := query.Ask(r.Context(), a.Reads, app.CountPending{})
	web.Answer(w, http.StatusOK, map[string]int{"open": n}, err)
}
