package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPageStreamsTheFigures(t *testing.T) {
	t.Parallel()
	p := newPage()
	s := httptest.NewServer(p.around(http.NotFoundHandler()))
	defer s.Close()
	defer s.CloseClientConnections()
	p.change(func(f *figures) { f.Phase, f.Verdict = "over", &result{Lost: 3} })
	res, err := s.Client().Get(s.URL + "/live")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var f figures
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &f); err != nil || f.Verdict.Lost != 3 {
		t.Fatalf("%q: %v", line, err)
	}
	p.close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Errorf("the stream did not end: %v", err)
	}
}

func TestPageStandsBesideTheShop(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(newPage().around(http.NotFoundHandler()))
	defer s.Close()
	for path, want := range map[string]int{"/": 200, "/api/orders": 404} {
		res, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != want || want == 200 && !strings.Contains(string(b), "EventSource") {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
}
