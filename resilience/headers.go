package resilience

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers with which a [Transport] and a [Handler] tell each other about a call.
const (
	// HeaderTimeout carries how long the caller still waits, in whole milliseconds. It is relative, so that
	// clocks need not agree.
	HeaderTimeout = "Surge-Timeout-Ms"
	// HeaderAttempt carries the number of the try, from 1.
	HeaderAttempt = "Surge-Attempt"
	// HeaderOutcome is "not-executed" in an answer by which a Handler shed the request.
	HeaderOutcome = "Surge-Outcome"
)

const outcomeNotExecuted = "not-executed"

// ParseRetryAfter reads the value of a Retry-After header, in seconds or as an HTTP date (RFC 9110, section
// 10.2.3), as a wait from now on. It reports false for anything else. A date that has passed is no wait.
func ParseRetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if isDigits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		const most = int64(1<<63-1) / int64(time.Second)
		if err != nil || seconds > most {
			seconds = most
		}
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(0, at.Sub(now)), true
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// formatRetryAfter rounds up: to come back early is to be refused again.
func formatRetryAfter(d time.Duration) string {
	seconds := int64(d / time.Second)
	if d%time.Second > 0 {
		seconds++
	}
	return strconv.FormatInt(max(1, seconds), 10)
}

// propagate writes what is left of ctx's time and the number of the try.
func propagate(ctx context.Context, h http.Header) {
	h.Set(HeaderAttempt, strconv.Itoa(Attempt(ctx)))
	if deadline, ok := ctx.Deadline(); ok {
		h.Set(HeaderTimeout, strconv.FormatInt(max(0, time.Until(deadline).Milliseconds()), 10))
	}
}

// parseTimeout reads HeaderTimeout; it reports false if there is none or it makes no sense.
func parseTimeout(h http.Header) (time.Duration, bool) {
	value := h.Get(HeaderTimeout)
	if !isDigits(value) {
		return 0, false
	}
	ms, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0, false
	}
	return time.Duration(ms) * time.Millisecond, true
}
