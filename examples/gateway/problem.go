package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/surge-go/surge/resilience"
)

// problem answers as RFC 9457 says.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client left
		"title": http.StatusText(status), "status": status, "detail": detail,
	})
}

// retryIn says when to come back, in whole seconds, rounded up: coming earlier is to be refused again.
func retryIn(w http.ResponseWriter, d time.Duration) {
	seconds := max(1, int64((d+time.Second-1)/time.Second))
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
}

// failed answers for a service that did not.
func (g *Gateway) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, detail := explain(err)
	var refused *resilience.RejectedError
	if errors.As(err, &refused) {
		retryIn(w, refused.Wait)
	}
	if !errors.Is(err, context.Canceled) { // else the client left, and that is no news
		g.cfg.Logger.WarnContext(r.Context(), "no answer from a service", "path", r.URL.Path, "error", err)
	}
	problem(w, status, detail)
}

// explain chooses the status for a service that did not answer.
func explain(err error) (status int, detail string) {
	var refused *resilience.RejectedError
	switch {
	case errors.As(err, &refused):
		return http.StatusServiceUnavailable, "The service is not well and is left alone for a moment."
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "The service did not answer in time. What it did is not known."
	case resilience.OutcomeOf(err) == resilience.NotExecuted:
		return http.StatusServiceUnavailable, "The service cannot be reached. Nothing was done."
	default:
		return http.StatusBadGateway, "The service broke off. What it did is not known."
	}
}
