// Package messaging puts resilience pipelines around Watermill publishers and handlers. It works on a stock
// message.Router and with any publisher and subscriber.
//
// # The problem
//
// A consumer whose dependency is down has two bad choices. It nacks, and the broker delivers the message again
// at once: the loop burns a core, floods the log and, where deliveries are counted, throws healthy messages
// into the dead letters. Or it acks, and loses the message. Watermill's own circuit breaker middleware is of
// the first kind.
//
// [Middleware] does a third thing: it keeps the message, unacked, until the breaker lets a probe through. The
// subscription stands still, the dependency is left alone, and nothing is counted against the message.
//
// # What is not guaranteed
//
// A message that waits is in memory and unacked. It is delivered again after a crash, as any unacked message.
// Brokers that bound how long a message may stay unacked deliver it to somebody else after that time: there,
// the breaker's cooldown should be shorter.
//
//	failure                       | what happens
//	breaker opens                 | messages wait in their handlers until RetryAfter, then a few probes pass
//	limit is reached              | messages wait, at least 50 ms
//	the handler fails             | the error goes to the router, which nacks, as without the middleware
//	the router closes             | waiting messages return with their context's error and are delivered again
//	a publish is refused          | the error is returned and nothing was published
//	a publish fails and is retried| the messages may arrive twice
package messaging
