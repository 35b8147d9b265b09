package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// HeaderCustomer carries the subject of a checked token to the services. Whatever a client puts there is dropped.
const HeaderCustomer = "Surge-Customer"

// Route is a line of the table.
type Route struct {
	Upstream   string            // what clients ask for, as a pattern of http.ServeMux: "GET /api/orders/{id}"
	Service    string            // who answers; a key of Config.Services
	Downstream string            // the path there, with the pattern's wildcards: "/v1/orders/{id}"
	Timeout    time.Duration     // for the request to come in, and for its answer; 0 means 5 s
	Tries      int               // GET only; 0 means 1
	Auth       bool              // a token is required
	Rate       float64           // requests a second; 0 means no limit
	Burst      int               // at once after a rest; 0 means Rate rounded up
	Admit      bool              // subject to Config.Admission
	Cache      time.Duration     // how long an answer may be served again, to the same customer; GET only; 0 means never
	Headers    map[string]string // set on the request to the service; "" removes
}

// Aggregate is one answer from several services.
type Aggregate struct {
	Upstream string        // "GET /api/orders/{id}/view"
	Auth     bool          //
	Timeout  time.Duration // for each part, with its body; 0 means 2 s
	Parts    []Part        // the first one decides the status; the others may fail
}

// Part is a member of an aggregate's JSON object.
type Part struct {
	Name       string // of the member
	Service    string
	Downstream string
}

// Admission bounds how many orders may be under way.
type Admission struct {
	// Gauge returns how many are. It is asked every Interval. While it fails, for at most Wait, requests wait too: a
	// service that restarts is back before they give up. Then everything passes, since a service that does not
	// answer for longer is its breaker's business. Nil means no admission control.
	Gauge    func(r *http.Client) (int, error)
	Limit    int           // required with a Gauge
	Wait     time.Duration // how long a request waits for room; 0 means not at all
	Interval time.Duration // 0 means 20 ms
}

// Config configures a [Gateway].
type Config struct {
	Services   map[string][]string // base URLs of each service's instances
	Routes     []Route
	Aggregates []Aggregate
	Secret     []byte // of the tokens (HS256); required if any route has Auth
	Admission  Admission
	Breaker    BreakerConfig
	Transport  http.RoundTripper // nil means one of its own with enough idle connections
	Logger     *slog.Logger      // nil discards
}

// BreakerConfig is when an upstream is left alone. The zero value works.
type BreakerConfig struct {
	Failures int           // in a row; 0 means 10
	Cooldown time.Duration // 0 means 500 ms
}

func (c Config) withDefaults() Config {
	if c.Breaker.Failures == 0 {
		c.Breaker.Failures = 10
	}
	if c.Breaker.Cooldown == 0 {
		c.Breaker.Cooldown = 500 * time.Millisecond
	}
	if c.Admission.Interval == 0 {
		c.Admission.Interval = 20 * time.Millisecond
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{MaxIdleConns: 2048, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate joins every fault of the configuration.
func (c Config) Validate() error {
	var faults []error
	for name, instances := range c.Services {
		if len(instances) == 0 {
			faults = append(faults, fmt.Errorf("gateway: service %q has no instance", name))
		}
		for _, i := range instances {
			if u, err := url.Parse(i); err != nil || u.Host == "" {
				faults = append(faults, fmt.Errorf("gateway: service %q: %q is not a base URL", name, i))
			}
		}
	}
	for _, r := range c.Routes {
		faults = append(faults, c.checkRoute(r)...)
	}
	for _, a := range c.Aggregates {
		faults = append(faults, c.checkAggregate(a)...)
	}
	if c.Admission.Gauge != nil && c.Admission.Limit < 1 {
		faults = append(faults, fmt.Errorf("gateway: Admission.Limit is %d, at least 1 is needed", c.Admission.Limit))
	}
	return errors.Join(faults...)
}

func (c Config) checkRoute(r Route) []error {
	faults := c.checkTarget(r.Upstream, r.Service, r.Downstream, r.Auth)
	fault := func(format string, a ...any) {
		faults = append(faults, fmt.Errorf("gateway: route %q: "+format, append([]any{r.Upstream}, a...)...))
	}
	get := strings.HasPrefix(r.Upstream, http.MethodGet+" ")
	if r.Tries < 0 || r.Tries > 1 && !get {
		fault("Tries is %d, but only GET is retried here", r.Tries)
	}
	if r.Cache < 0 || r.Cache > 0 && !get {
		fault("Cache is %v, but only GET is cached", r.Cache)
	}
	if r.Rate < 0 || r.Burst < 0 || r.Timeout < 0 {
		fault("Rate, Burst and Timeout may not be negative")
	}
	return faults
}

func (c Config) checkAggregate(a Aggregate) []error {
	var faults []error
	if len(a.Parts) == 0 || a.Timeout < 0 || !strings.HasPrefix(a.Upstream, http.MethodGet+" ") {
		faults = append(faults, fmt.Errorf("gateway: aggregate %q needs GET, parts and no negative timeout", a.Upstream))
	}
	for _, p := range a.Parts {
		faults = append(faults, c.checkTarget(a.Upstream, p.Service, p.Downstream, a.Auth)...)
	}
	return faults
}

func (c Config) checkTarget(upstream, service, downstream string, auth bool) []error {
	var faults []error
	fault := func(format string, a ...any) {
		faults = append(faults, fmt.Errorf("gateway: route %q: "+format, append([]any{upstream}, a...)...))
	}
	if c.Services[service] == nil {
		fault("there is no service %q", service)
	}
	if !strings.HasPrefix(downstream, "/") || !strings.Contains(upstream, " /") {
		fault("it needs a method and a path, and a path downstream, not %q", downstream)
	}
	if strings.HasPrefix(downstream, "/ops") || strings.Contains(upstream, " /ops") {
		fault("nothing under /ops is routed")
	}
	for _, name := range wildcards(downstream) {
		if !strings.Contains(upstream, "{"+name+"}") {
			fault("{%s} of %q is not in it", name, downstream)
		}
	}
	if auth && len(c.Secret) < 32 {
		fault("Auth needs a Config.Secret of at least 32 bytes")
	}
	return faults
}

// wildcards returns the names in braces.
func wildcards(template string) []string {
	var names []string
	for rest := template; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return names
		}
		name, tail, _ := strings.Cut(after, "}")
		names, rest = append(names, name), tail
	}
}
