package resilience

import (
	"fmt"
	"net/http"
	"time"
)

// StatusError is an HTTP answer that the policies of a pipeline take for a failure: 5xx, 408 or 429.
// A [Transport] returns such an answer as a response, so only an [Observer] and RetryIf see this error.
type StatusError struct {
	// Code is the status code.
	Code int
	// Wait is what Retry-After asked for; 0 if it did not.
	Wait time.Duration
	// Shed reports that the other side is a [Handler] that refused the request unexecuted.
	Shed bool
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("resilience: http status %d %s", e.Code, http.StatusText(e.Code))
}

// RetryAfter returns Wait.
func (e *StatusError) RetryAfter() time.Duration { return e.Wait }

// Outcome is [NotExecuted] if the request was shed. 501 is [Failed]. The rest is [InDoubt], 429 by somebody
// else too: nothing says that only a gateway in front of the work gave it.
func (e *StatusError) Outcome() Outcome {
	switch {
	case e.Shed:
		return NotExecuted
	case e.Code == http.StatusNotImplemented:
		return Failed
	default:
		return InDoubt
	}
}

// statusError returns a *StatusError, or nil if the answer shows a dependency that is well.
func statusError(answer *http.Response) error {
	code := answer.StatusCode
	if code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests {
		return nil
	}
	return &StatusError{
		Code: code,
		Wait: retryAfter(answer),
		Shed: answer.Header.Get(HeaderOutcome) == outcomeNotExecuted,
	}
}

// earlierKey is under which an answer's request carries the worst outcome of its tries, and of those before it.
type earlierKey struct{}

// before returns what may have come of the requests that were redirected to r.
func before(r *http.Request) Outcome {
	if r.Response == nil || r.Response.Request == nil {
		return OK
	}
	last := r.Response.Request
	switch last.Method {
	case r.Method, "", http.MethodGet, http.MethodHead:
		earlier, _ := last.Context().Value(earlierKey{}).(Outcome)
		return earlier
	default:
		return InDoubt // a POST, say, that is followed by a GET, may have had its effect
	}
}

// HTTPOutcome reports what became of a request that was sent through a [Transport], from what http.Client.Do
// or Transport.RoundTrip returned: the worst of its tries, as [OutcomeOf] does for errors. An answer below
// 400 is [OK], whatever the tries before it were. Other answers below 500 are [Failed], but 408 and 429 are
// [InDoubt] unless a [Handler] shed the request, and so is 409 to a request with an Idempotency-Key, which may
// mean that the request is still under way. All of them are InDoubt if an earlier try was, because that one may
// still have its effect, and after a redirect that turned a POST or the like into a GET.
func HTTPOutcome(answer *http.Response, err error) Outcome {
	if err != nil || answer == nil {
		return OutcomeOf(err)
	}
	if answer.StatusCode < 400 {
		return OK
	}
	own := Failed
	if err := statusError(answer); err != nil {
		own = OutcomeOf(err)
	} else if answer.StatusCode == http.StatusConflict && mayBeUnderWay(answer.Request) {
		own = InDoubt
	}
	if answer.Request != nil {
		if earlier, ok := answer.Request.Context().Value(earlierKey{}).(Outcome); ok {
			return max(own, earlier)
		}
	}
	return own
}

// mayBeUnderWay reports whether a conflict may be with an earlier sending of the same request.
func mayBeUnderWay(r *http.Request) bool { return r == nil || r.Header.Get("Idempotency-Key") != "" }
