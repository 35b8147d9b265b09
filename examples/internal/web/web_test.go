package web_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/surge-go/surge/examples/internal/web"
)

func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]int{
		`{"units":1}`:            http.StatusOK,
		" {\"units\":1}\r\n ":    http.StatusOK,
		"":                       http.StatusBadRequest,
		`{"units":1`:             http.StatusBadRequest,
		`{"units":"one"}`:        http.StatusBadRequest,
		`{"units":1,"more":2}`:   http.StatusBadRequest,
		`{"units":1}trailing`:    http.StatusBadRequest,
		`{"units":1}{"units":2}`: http.StatusBadRequest,
		`{"units":1}` + strings.Repeat(" ", 64<<10): http.StatusRequestEntityTooLarge,
	} {
		var v struct {
			Units int `json:"units"`
		}
		w := httptest.NewRecorder()
		ok := web.Decode(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)), &v)
		if ok != (want == http.StatusOK) || w.Code != want || ok && v.Units != 1 {
			t.Errorf("%.30q: %v, %d, %+v", body, ok, w.Code, v)
		}
	}
}
