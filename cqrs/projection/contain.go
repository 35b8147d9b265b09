package projection

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/surge-go/surge/cqrs"
)

// contain calls the application's code, so that its panic, or the end of its goroutine, is an error.
func contain(fn func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := fmt.Errorf("%w: it ended its goroutine", ErrPanic)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("%w: %v\n%s", ErrPanic, v, debug.Stack())
			}
			ended <- err
		}()
		err = tried(fn())
	}()
	return <-ended
}

// tried returns err after it has called its methods, which are the application's code too.
func tried(err error) error {
	if err != nil {
		_ = err.Error()
		_ = errors.Is(err, errRetired)
		_, _ = asksFor(err)
	}
	return err
}

// longestAsked bounds what an error may ask for with RetryAfter: it may pass on what anybody has put into a header.
const longestAsked = time.Hour

// asksFor returns the wait that an error asks for, if it does.
func asksFor(err error) (time.Duration, bool) {
	var later *cqrs.LaterError
	if errors.As(err, &later) {
		return later.Delay, true
	}
	var open interface{ RetryAfter() time.Duration }
	if errors.As(err, &open) {
		return min(open.RetryAfter(), longestAsked), true
	}
	return 0, false
}
