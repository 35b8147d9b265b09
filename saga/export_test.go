package saga

import "context"

// HeldBack reports whether timers wait at this moment.
func (e *Engine) HeldBack(ctx context.Context) bool { return e.heldBack(ctx) }
