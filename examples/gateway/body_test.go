package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/examples/gateway"
)

// raw starts a gateway with a route that is in a hurry and one that is not, and returns how to send it bytes and read an answer.
func raw(t *testing.T) func(request string) (status int, body string) {
	t.Helper()
	g, err := gateway.New(gateway.Config{
		Services: map[string][]string{"order": {serve(t, func(w http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "%d of %d", n, r.ContentLength)
		})}},
		Routes: []gateway.Route{
			{Upstream: "POST /api/x", Service: "order", Downstream: "/v1/x"},
			{Upstream: "POST /api/hurry", Service: "order", Downstream: "/v1/x", Timeout: 50 * time.Millisecond},
		},
		Breaker: gateway.BreakerConfig{Failures: 2, Cooldown: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(g)
	t.Cleanup(func() { s.Close(); g.Close() })
	return func(request string) (int, string) {
		t.Helper()
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
}

const post, hurry = "POST /api/x HTTP/1.1\r\nHost: shop\r\n", "POST /api/hurry HTTP/1.1\r\nHost: shop\r\n"

// A client that does not send what it has announced is told so, and is not taken for a fault of the service.
func TestSlowBodyIs408AndLeavesTheBreakerClosed(t *testing.T) {
	t.Parallel()
	ask := raw(t)
	for range 5 {
		if status, body := ask(hurry + "Content-Length: 100\r\n\r\n{\"half"); status != 408 {
			t.Fatalf("%d %s", status, body)
		}
	}
	if status, body := ask(post + "Content-Length: 4\r\n\r\nfull"); status != 200 || body != "4 of 4" {
		t.Errorf("%d %s", status, body)
	}
}

func TestLongBodyIs413(t *testing.T) {
	t.Parallel()
	ask := raw(t)
	if status, body := ask(post + "Content-Length: 1048577\r\n\r\n" + strings.Repeat("x", 1<<20+1)); status != 413 {
		t.Errorf("%d %s", status, body)
	}
}

func TestBodyOfUnknownLengthIsSentOn(t *testing.T) {
	t.Parallel()
	ask := raw(t)
	status, body := ask(post + "Transfer-Encoding: chunked\r\n\r\n4\r\nfull\r\n0\r\n\r\n")
	if status != 200 || body != "4 of 4" {
		t.Errorf("%d %s", status, body)
	}
}
