package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"
)

// maxBody bounds what is read of a request.
const maxBody = 1 << 20

// wholeBody reads a request's body, for at most limit, before anything is sent on. A client that is slow or breaks off
// takes no place of others then, and its service is not blamed.
func wholeBody(limit time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		conn := http.NewResponseController(w)
		_ = conn.SetReadDeadline(time.Now().Add(limit)) // where there is no connection, nobody is slow
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var long *http.MaxBytesError
		switch {
		case errors.As(err, &long):
			problem(w, http.StatusRequestEntityTooLarge, "The body is too long. Nothing was done.")
		case err != nil: // the deadline stays: the server must not wait for the rest, either
			problem(w, http.StatusRequestTimeout, "The body did not arrive. Nothing was done.")
		default:
			_ = conn.SetReadDeadline(time.Time{})
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
			next.ServeHTTP(w, r)
		}
	})
}
