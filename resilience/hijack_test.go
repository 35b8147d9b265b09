package resilience_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/surge-go/surge/resilience"
)

// takenOver is a ResponseWriter whose connection can be taken over.
type takenOver struct {
	*httptest.ResponseRecorder
	taken bool
	after int // what was written after that
}

func (w *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.taken = true
	return nil, nil, nil
}

func (w *takenOver) WriteHeader(code int) {
	if w.taken {
		w.after++
	}
	w.ResponseRecorder.WriteHeader(code)
}

// A connection that was taken over is an answer: nothing is written to it when the caller goes.
func TestHandlerLeavesATakenConnectionAlone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	h := resilience.Handler(pipeline(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
			t.Error(err)
		}
		cancel()
	}))
	w := &takenOver{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	if !w.taken || w.after > 0 {
		t.Errorf("taken %v, %d answers afterwards", w.taken, w.after)
	}
}
