// Package resilience composes retry, breaker, timeout and the like around a call.
package resilience
