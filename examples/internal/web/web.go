// Package web holds what the services' HTTP sides share: JSON in and out, errors as RFC 9457 says, and a server that
// can be taken down politely or not at all.
package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/aggregate"
)

// HeaderCustomer is set by the gateway to whom it has authenticated.
const HeaderCustomer = "Surge-Customer"

const maxBody = 64 << 10

// JSON answers with v.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client left
}

// Problem answers with an error as application/problem+json.
func Problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct { // the client left
		Title  string `json:"title"`
		Status int    `json:"status"`
		Code   string `json:"code,omitempty"`
		Detail string `json:"detail"`
	}{http.StatusText(status), status, code, detail})
}

// Decode reads a request's body strictly: one JSON value and nothing that v does not know. It answers and returns false
// when that is not what v wants.
func Decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		err = atEnd(d)
	}
	if err != nil {
		status := http.StatusBadRequest
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			status = http.StatusRequestEntityTooLarge
		}
		Problem(w, status, "malformed", err.Error())
		return false
	}
	return true
}

func atEnd(d *json.Decoder) error {
	switch _, err := d.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return errors.New("there is more than one JSON value")
	}
}

// Codes of rejections, which decide the status of an answer.
const (
	CodeInvalid    = "invalid"     // 422
	CodeNotFound   = "not_found"   // 404
	CodeWrongState = "wrong_state" // 409
)

// Answer renders a result or an error, the same way each time: a rejection by its code, [aggregate.ErrNotFound] as
// 404, and everything else as 503, for the client to try again under its key.
func Answer(w http.ResponseWriter, status int, v any, err error) {
	no := cqrs.AsRejection(err)
	switch {
	case err == nil:
		JSON(w, status, v)
	case no != nil:
		Problem(w, statusOf(no.Code), no.Code, no.Error())
	case errors.Is(err, aggregate.ErrNotFound):
		Problem(w, http.StatusNotFound, CodeNotFound, "There is no such thing.")
	default:
		w.Header().Set("Retry-After", "1")
		Problem(w, http.StatusServiceUnavailable, "unavailable", "It did not work this time. Try again.")
	}
}

func statusOf(code string) int {
	switch code {
	case CodeInvalid:
		return http.StatusUnprocessableEntity
	case CodeNotFound:
		return http.StatusNotFound
	default:
		return http.StatusConflict
	}
}

// Customer returns whom the gateway has authenticated. It answers and returns false when that is nobody.
func Customer(w http.ResponseWriter, r *http.Request) (string, bool) {
	c, err := Scope(r)
	if err != nil {
		Problem(w, http.StatusUnauthorized, "unauthenticated", "Nobody is signed in.")
		return "", false
	}
	return c, true
}

// Scope returns whom the gateway has authenticated, as the scope of idempotency keys.
func Scope(r *http.Request) (string, error) {
	if c := r.Header.Get(HeaderCustomer); c != "" {
		return c, nil
	}
	return "", fmt.Errorf("web: no %s", HeaderCustomer)
}
