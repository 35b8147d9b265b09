package idempotency

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// The headers of the protocol.
const (
	// KeyHeader carries the key (draft-ietf-httpapi-idempotency-key-header).
	KeyHeader = "Idempotency-Key"
	// ReplayedHeader is "true" in an answer that was stored by an earlier request.
	ReplayedHeader = "Idempotent-Replayed"
)

// Scope says whose keys these are: the tenant or user. It must come from the authenticated principal only, never
// from what a client can choose, or one client could read another's answers. A request without one is refused.
type Scope func(*http.Request) (string, error)

// UnknownPolicy says what to do with a key whose first attempt was lost after it had begun to act.
type UnknownPolicy int

const (
	// UnknownDefault means [Refuse] in [Middleware] and [Reexecute] in [Do].
	UnknownDefault UnknownPolicy = iota
	// Refuse answers 409, or ErrUnknown, until somebody settles it or the retention is over.
	Refuse
	// Reexecute runs the handler again. It must pass the fencing token or the keys derived by [Step] to what
	// it changes, so that nothing happens twice there.
	Reexecute
	// Reconcile asks the Reconcile function.
	Reconcile
)

// MiddlewareConfig configures the three middlewares; the zero value works.
type MiddlewareConfig struct {
	// Operation names what a request wants to do. nil means the pattern that matched (r.Pattern), else method
	// and path, or a digest of them if they are long. At most 255 bytes.
	Operation func(*http.Request) string
	// Wait is how long a duplicate waits for a request in flight. 0 answers 409 at once.
	Wait time.Duration
	// MaxBody is the greatest request body, in bytes; a longer one is answered with 413. 0 means 1 MiB.
	MaxBody int64
	// MaxResponse is the greatest answer that is stored, in bytes; a longer one reaches the first caller only.
	// 0 means 1 MiB. ForCommands does not use it.
	MaxResponse int
	// Logger hears of what the client is not told. nil discards.
	Logger *slog.Logger

	// Lease, and what follows, is for [Middleware] alone: how long a claim lasts without renewal, by the database's
	// clock. It is renewed every third of it. 0 means [DefaultLease].
	Lease time.Duration
	// Timeout bounds the handler, whose context ends then. 0 means 1 min. A client that hangs up does not end it.
	Timeout time.Duration
	// Steps says that the handler wraps every effect in [Step] (with [AttemptFrom]): until it enters the first
	// one, nothing was started, and a 5xx or a crash frees the key. Without it the handler as a whole counts as
	// an effect.
	Steps bool
	// OnUnknown says what to do when the outcome of an earlier attempt is unknown. 0 means [Refuse].
	OnUnknown UnknownPolicy
	// Reconcile finds out what became of an attempt that was lost. It returns the answer to store, or
	// [ErrNotExecuted] to run the handler, or any other error to leave the outcome unknown.
	// It is needed with the policy Reconcile, and used with no other.
	Reconcile func(ctx context.Context, r *http.Request, a *Attempt) (Result, error)
}

// Validate joins every fault of the configuration.
func (c MiddlewareConfig) Validate() error {
	var faults []error
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Wait", int64(c.Wait)},
		{"MaxBody", c.MaxBody},
		{"MaxResponse", int64(c.MaxResponse)},
		{"Lease", int64(c.Lease)},
		{"Timeout", int64(c.Timeout)},
	} {
		if f.value < 0 {
			faults = append(faults, fmt.Errorf("idempotency: MiddlewareConfig.%s may not be negative", f.name))
		}
	}
	if c.OnUnknown < UnknownDefault || c.OnUnknown > Reconcile {
		faults = append(faults, fmt.Errorf("idempotency: MiddlewareConfig.OnUnknown is %d, no policy", c.OnUnknown))
	}
	if (c.OnUnknown == Reconcile) != (c.Reconcile != nil) {
		faults = append(faults, errReconcile)
	}
	return errors.Join(faults...)
}

func (c MiddlewareConfig) withDefaults() MiddlewareConfig {
	if c.Operation == nil {
		c.Operation = operation
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxResponse == 0 {
		c.MaxResponse = 1 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	if c.OnUnknown == UnknownDefault {
		c.OnUnknown = Refuse
	}
	return c
}

func operation(r *http.Request) string {
	if r.Pattern != "" {
		return r.Pattern
	}
	name := r.Method + " " + r.URL.EscapedPath()
	if len(name) > MaxKeyPart {
		sum := sha256.Sum256([]byte(name))
		name = r.Method + " " + hex.EncodeToString(sum[:])
	}
	return name
}

var errReconcile = errors.New("idempotency: MiddlewareConfig.Reconcile and the policy Reconcile need each other")

// An endpoint is a handler behind a middleware.
type endpoint struct {
	scope Scope
	cfg   MiddlewareConfig
	next  http.Handler
	// run serves the exchange, or returns an error before it has written anything.
	run func(*endpoint, http.ResponseWriter, *exchange) error
}

// middleware panics on a configuration that cannot work: it is given when routes are registered, where net/http
// panics too.
func middleware(
	scope Scope, cfg MiddlewareConfig, run func(*endpoint, http.ResponseWriter, *exchange) error,
) func(http.Handler) http.Handler {
	if err := cfg.Validate(); err != nil {
		panic(err)
	}
	if scope == nil {
		panic("idempotency: a middleware needs a Scope, got nil")
	}
	return func(next http.Handler) http.Handler {
		return &endpoint{scope: scope, cfg: cfg.withDefaults(), next: next, run: run}
	}
}

// An exchange is a request that was admitted.
type exchange struct {
	r    *http.Request
	key  Key
	mark Fingerprint
	body []byte
}

// request returns the request with its body to be read from the start, for one run of the handler.
func (x *exchange) request(ctx context.Context) *http.Request {
	r := x.r.WithContext(context.WithValue(ctx, keyKey{}, x.key))
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	r.ContentLength = int64(len(x.body))
	return r
}

// ServeHTTP lets safe methods through, refuses what has no valid key, and runs the rest.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		e.next.ServeHTTP(w, r)
		return
	}
	x, err := e.admit(w, r)
	if err == nil {
		err = e.wait(r.Context(), func() error { return e.run(e, w, x) })
	}
	if err == nil {
		return
	}
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError {
		e.cfg.Logger.Error("idempotency key not checked", "error", err, "operation", e.cfg.Operation(r))
	}
	p.write(w)
}

func (e *endpoint) admit(w http.ResponseWriter, r *http.Request) (*exchange, error) {
	id, err := keyOf(r)
	if err != nil {
		return nil, err
	}
	scope, err := e.scope(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrScope, err)
	}
	k := Key{Scope: scope, Operation: e.cfg.Operation(r), ID: id}
	if err := k.Validate(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, e.cfg.MaxBody))
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		return nil, errBodyTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBody, err)
	}
	return &exchange{r: r, key: k, mark: FingerprintRequest(r, body), body: body}, nil
}

func keyOf(r *http.Request) (string, error) {
	switch values := r.Header.Values(KeyHeader); len(values) {
	case 0:
		return "", errMissing
	case 1:
		return ParseKey(values[0])
	default:
		return "", fmt.Errorf("%w: the header occurs %d times", ErrKey, len(values))
	}
}

// wait repeats run while another request with the key is in flight, as long as the configuration allows.
func (e *endpoint) wait(ctx context.Context, run func() error) error {
	deadline := time.Now().Add(e.cfg.Wait)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := run()
		left := time.Until(deadline)
		if !errors.Is(err, ErrInFlight) || left <= 0 {
			return err
		}
		timer := time.NewTimer(min(pause, left))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
