package projection

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrStale is what a [*StaleError] is.
	ErrStale = errors.New("projection: the read model is behind")
	// ErrNoSource is returned when a rebuild is due and Config.Source does not say from what, or the source cannot
	// give all that is needed.
	ErrNoSource = errors.New("projection: nothing to rebuild from")
	// ErrHistoryLost says that messages which the model has not seen are gone from their topic, or that the topic
	// was made anew. Going on would leave a hole; rebuild from a source that has them.
	ErrHistoryLost = errors.New("projection: history is lost")
	// ErrSuperseded is returned by Run when the live model, or the one being built, is of a newer version than
	// Config.Version.
	ErrSuperseded = errors.New("projection: a newer version of the model exists")
	// ErrRebuilding is returned when a shadow is being built already.
	ErrRebuilding = errors.New("projection: a rebuild is under way")
	// ErrAbandoned is returned by [Projection.Rebuild] when its shadow was given up.
	ErrAbandoned = errors.New("projection: the rebuild was abandoned")
	// ErrNoModel is returned by queries before the projection has run for the first time.
	ErrNoModel = errors.New("projection: there is no model yet")
	// ErrPanic wraps the value of a panic of an apply function, of decoding, Create, Drop or a source, and stands for
	// its runtime.Goexit.
	ErrPanic = errors.New("projection: apply panicked")

	errRetired = errors.New("projection: the generation is retired")
	errHeld    = errors.New("projection: the live model waits for its shadow")
	errBehind  = errors.New("projection: the shadow is not level yet")
)

// A StaleError is returned by [Projection.Wait] when the model has not caught up in time. It is an [ErrStale].
type StaleError struct {
	Token  Token         // what was waited for
	Waited time.Duration //
	Lag    Lag           // how far the model is; zero if that could not be read
}

// Error says what was waited for and for how long.
func (e *StaleError) Error() string {
	return fmt.Sprintf("%v: %s not applied within %v", ErrStale, e.Token, e.Waited)
}

// Unwrap returns [ErrStale].
func (e *StaleError) Unwrap() error { return ErrStale }
