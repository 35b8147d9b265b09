package gateway

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/surge-go/surge/resilience"
)

// A Gateway is an http.Handler. It is safe for concurrent use.
type Gateway struct {
	cfg      Config
	mux      *http.ServeMux
	services map[string]*service
	gate     *gate // nil: no admission control
}

// service is the instances that answer for one name.
type service struct {
	instances []*instance
	next      atomic.Uint64
}

type instance struct {
	url     *url.URL
	breaker *resilience.Breaker
}

// New checks the table and builds the gateway. It starts nothing; [Gateway.Run] does.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Gateway{cfg: cfg.withDefaults(), mux: http.NewServeMux(), services: map[string]*service{}}
	for name, urls := range g.cfg.Services {
		g.services[name] = g.newService(urls)
	}
	if g.cfg.Admission.Gauge != nil {
		g.gate = newGate(g.cfg.Admission)
	}
	for _, r := range g.cfg.Routes {
		h, err := g.route(r)
		if err != nil {
			return nil, fmt.Errorf("gateway: route %q: %w", r.Upstream, err)
		}
		if err := g.handle(r.Upstream, h); err != nil {
			return nil, err
		}
	}
	for _, a := range g.cfg.Aggregates {
		h, err := g.aggregate(a)
		if err != nil {
			return nil, fmt.Errorf("gateway: aggregate %q: %w", a.Upstream, err)
		}
		if err := g.handle(a.Upstream, h); err != nil {
			return nil, err
		}
	}
	g.mux.HandleFunc(noPattern, g.noRoute)
	return g, nil
}

func (g *Gateway) newService(urls []string) *service {
	s := &service{}
	for _, raw := range urls {
		u, _ := url.Parse(raw) // checked
		s.instances = append(s.instances, &instance{url: u, breaker: resilience.NewBreaker(resilience.BreakerConfig{
			Consecutive: g.cfg.Breaker.Failures, Cooldown: g.cfg.Breaker.Cooldown,
			ProbeTimeout: 4 * g.cfg.Breaker.Cooldown,
		})})
	}
	return s
}

// handle reports a pattern that http.ServeMux panics about.
func (g *Gateway) handle(pattern string, h http.Handler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("gateway: %v", v)
		}
	}()
	g.mux.Handle(pattern, h)
	return nil
}

// Run keeps admission control informed until ctx ends. A gateway without it needs no Run.
func (g *Gateway) Run(ctx context.Context) error {
	if g.gate == nil {
		<-ctx.Done()
		return nil
	}
	g.gate.run(ctx, &http.Client{Transport: g.cfg.Transport, Timeout: time.Second})
	return nil
}

// Close lets go of idle connections.
func (g *Gateway) Close() {
	if t, ok := g.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// States returns the worst state of each service's breakers, sorted by name: "order: open".
func (g *Gateway) States() []string {
	var out []string
	for name, s := range g.services {
		worst := resilience.Closed
		for _, i := range s.instances {
			worst = max(worst, i.breaker.State())
		}
		out = append(out, fmt.Sprintf("%s: %s", name, worst))
	}
	sort.Strings(out)
	return out
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	strip(r.Header)
	g.mux.ServeHTTP(w, r)
}

// noPattern matches what no route does.
const noPattern = "/"

// noRoute answers 405 on a path that has routes for other methods, else 404.
func (g *Gateway) noRoute(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, method := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := g.mux.Handler(other); pattern != noPattern {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 {
		problem(w, http.StatusNotFound, "There is no such route.")
		return
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	problem(w, http.StatusMethodNotAllowed, "The route is there for other methods.")
}

// strip drops the headers that only the system itself may set.
func strip(h http.Header) {
	for name := range h {
		if reserved(name) {
			h.Del(name)
		}
	}
}

// reserved reports whether a canonical header name is the system's own.
func reserved(name string) bool {
	return strings.HasPrefix(name, "Surge-") || strings.HasPrefix(name, "Ce_") || strings.HasPrefix(name, "Ce-") ||
		name == "Forwarded" || strings.HasPrefix(name, "X-Forwarded-")
}

// pick chooses the next instance whose breaker lets calls pass; if none does, the next one, whose breaker answers.
func (s *service) pick() *instance {
	n := uint64(len(s.instances))
	first := s.next.Add(1)
	for i := range n {
		in := s.instances[(first+i)%n]
		if in.breaker.State() != resilience.Open {
			return in
		}
	}
	return s.instances[first%n]
}

type instanceKey struct{}

// standardTimeout is that of a route that names none.
const standardTimeout = 5 * time.Second

// route builds what happens to a request, from the last step to the first.
func (g *Gateway) route(r Route) (http.Handler, error) {
	proxy, err := g.proxy(r)
	if err != nil {
		return nil, err
	}
	var h http.Handler = proxy
	if r.Cache > 0 {
		h = newCache(r.Cache, h)
	}
	if r.Admit && g.gate != nil {
		h = g.gate.wrap(h)
	}
	h = wholeBody(cmp.Or(r.Timeout, standardTimeout), h)
	if r.Rate > 0 {
		burst := r.Burst
		if burst == 0 {
			burst = int(math.Ceil(r.Rate))
		}
		limit, err := resilience.New(r.Upstream, resilience.RateLimit(r.Rate, burst))
		if err != nil {
			return nil, err
		}
		h = resilience.Handler(limit, h)
	}
	if r.Auth {
		h = authenticate(g.cfg.Secret, h)
	}
	return confine(wildcards(r.Downstream), h), nil
}

// confine refuses wildcards that would lead to another path than the table says.
func confine(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range names {
			if v := r.PathValue(name); v == "." || v == ".." || strings.ContainsAny(v, "/\\?#%") {
				problem(w, http.StatusNotFound, "There is no such route.")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// proxy sends a request on to an instance of the route's service.
func (g *Gateway) proxy(r Route) (*httputil.ReverseProxy, error) {
	transport, err := g.transport(r.Upstream, g.services[r.Service], r.Timeout, standardTimeout, max(1, r.Tries))
	if err != nil {
		return nil, err
	}
	names := wildcards(r.Downstream)
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			in := g.services[r.Service].pick()
			p.Out = p.Out.WithContext(context.WithValue(p.Out.Context(), instanceKey{}, in))
			p.SetURL(in.url)
			p.Out.URL.Path = in.url.Path + expand(r.Downstream, names, p.In)
			p.Out.URL.RawPath = ""
			p.SetXForwarded()
			p.Out.Header.Del("Authorization")
			transform(p.Out.Header, r.Headers)
		},
		ModifyResponse: func(res *http.Response) error {
			strip(res.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) { g.failed(w, req, err) },
		ErrorLog:     nil,
	}, nil
}

func transform(h http.Header, with map[string]string) {
	for name, value := range with {
		if value == "" {
			h.Del(name)
		} else {
			h.Set(name, value)
		}
	}
}

// transport sends through the pipeline of the chosen instance: timeout and retry are the route's, the breaker is
// shared by all routes to that instance.
func (g *Gateway) transport(
	name string, s *service, timeout, standard time.Duration, tries int,
) (http.RoundTripper, error) {
	if timeout == 0 {
		timeout = standard
	}
	pipelines := map[*instance]*resilience.Pipeline{}
	for _, in := range s.instances {
		policies := []resilience.Policy{resilience.Timeout(timeout)}
		if tries > 1 {
			policies = append(policies, resilience.Retry(resilience.RetryConfig{
				Attempts: tries, Min: 20 * time.Millisecond, Max: timeout / 2,
			}))
		}
		p, err := resilience.New(name+" "+in.url.Host, append(policies, in.breaker)...)
		if err != nil {
			return nil, err
		}
		pipelines[in] = p
	}
	return resilience.NewTransport(pipelines[s.instances[0]], resilience.TransportConfig{
		Base:   g.cfg.Transport,
		Logger: g.cfg.Logger,
		Pick: func(r *http.Request, p *resilience.Pipeline) *resilience.Pipeline {
			if in, ok := r.Context().Value(instanceKey{}).(*instance); ok {
				return pipelines[in]
			}
			return p
		},
	}), nil
}

// expand fills a path template from the request's wildcards.
func expand(template string, names []string, r *http.Request) string {
	for _, name := range names {
		template = strings.Replace(template, "{"+name+"}", r.PathValue(name), 1)
	}
	return template
}
