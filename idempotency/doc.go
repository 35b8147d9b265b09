// Package idempotency makes a request that arrives twice happen once.
package idempotency
