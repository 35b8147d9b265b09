package gateway

import (
	"bytes"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of a route's cache.
const (
	cacheEntries = 1024
	cacheBody    = 64 << 10
)

// cache serves a GET's answer again for a while. Answers are kept for each customer alone.
type cache struct {
	ttl  time.Duration
	next http.Handler

	mu      sync.Mutex
	entries map[string]*cached
}

type cached struct {
	at     time.Time
	header http.Header
	body   []byte
}

func newCache(ttl time.Duration, next http.Handler) *cache {
	return &cache{ttl: ttl, next: next, entries: map[string]*cached{}}
}

// ServeHTTP implements http.Handler.
func (c *cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet { // a pattern for GET is one for HEAD, whose answer has no body
		c.next.ServeHTTP(w, r)
		return
	}
	key := r.Header.Get(HeaderCustomer) + "\x00" + r.Header.Get("Accept") + "\x00" + r.URL.RequestURI()
	if e := c.find(key); e != nil {
		maps.Copy(w.Header(), e.header)
		w.Header().Set("Age", strconv.Itoa(int(time.Since(e.at).Seconds())))
		_, _ = w.Write(e.body) // the client left
		return
	}
	rec := &recorder{ResponseWriter: w}
	c.next.ServeHTTP(rec, r)
	if rec.keep() {
		c.store(key, &cached{at: time.Now(), header: w.Header().Clone(), body: rec.body.Bytes()})
	}
}

func (c *cache) find(key string) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil || time.Since(e.at) > c.ttl {
		return nil
	}
	return e
}

func (c *cache) store(key string, e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= cacheEntries {
		c.makeRoom()
	}
	c.entries[key] = e
}

// makeRoom drops what is too old, else anything.
func (c *cache) makeRoom() {
	var victim string
	for key, e := range c.entries {
		if victim = key; time.Since(e.at) > c.ttl {
			break
		}
	}
	delete(c.entries, victim)
}

// recorder keeps a copy of an answer that is passed on.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	long   bool
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.long = r.long || r.body.Len()+len(b) > cacheBody; !r.long {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// keep reports whether the answer may be served again.
func (r *recorder) keep() bool {
	h := r.Header()
	return r.status == http.StatusOK && !r.long && !forbidden(h) && h.Get("Set-Cookie") == "" && h.Get("Vary") == ""
}

// forbidden reports whether an answer may not be served again without asking. One that is private may: each customer
// has a copy of their own.
func forbidden(h http.Header) bool {
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(directive, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "no-store", "no-cache":
				return true
			}
		}
	}
	return false
}
