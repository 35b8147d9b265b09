// Package idempotencytest tests implementations of [idempotency.Store].
//
//	func TestStore(t *testing.T) {
//		idempotencytest.Run(t, func(t *testing.T, retention time.Duration) idempotency.Store { return open(t, retention) })
//	}
package idempotencytest
