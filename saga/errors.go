package saga

import (
	"errors"

	"github.com/surge-go/surge/saga/internal/flow"
)

var (
	// ErrNotFound is returned for a key under which no saga was started.
	ErrNotFound = errors.New("saga: not found")
	// ErrChanged says that a graph differs from what was registered before under the same type and version.
	// Instances at rest depend on it: give the new graph a new version.
	ErrChanged = errors.New("saga: the definition changed under its version")
	// ErrUnknownVersion says that this process has no definition for an instance's version. Its messages wait.
	ErrUnknownVersion = errors.New("saga: no definition of the instance's version")
	// ErrPivotInDoubt refuses an operator's action that would undo or pass a pivot whose outcome is unknown.
	// Retry it, or find out what became of it and settle it.
	ErrPivotInDoubt = flow.ErrPivotInDoubt
	// ErrPastPivot refuses to abort a saga whose pivot is done.
	ErrPastPivot = flow.ErrPastPivot
	// ErrNotStuck refuses an operator's action on a saga that waits for nobody.
	ErrNotStuck = flow.ErrNotStuck
	// ErrEnded refuses an operator's action on a saga that has ended.
	ErrEnded = flow.ErrEnded
)
