package idempotency

// An Attempt is one run under a lease.
type Attempt struct{}
