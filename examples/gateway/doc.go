// Package gateway is the shop's one door: a table of routes on httputil.ReverseProxy and the resilience package.
//
// A [Route] says what clients ask for, which service answers it under which path, and what the gateway does on the
// way. In the order in which it happens:
//
//  1. headers that are the system's own are stripped, so that no client can claim to be somebody
//  2. the token is checked (Auth) and its subject becomes [HeaderCustomer]
//  3. the rate limit: 429 with Retry-After
//  4. the body is read: 413 beyond 1 MiB, 408 if it is not there within the route's timeout
//  5. admission: while too many orders are under way a request waits a little, then 429 with Retry-After
//  6. the cache, for GET only
//  7. an upstream is chosen, in turn, past those whose breaker is open
//  8. timeout, retry (GET only: one layer retries, and for writes that is the client with its key), breaker
//
// Every error of the gateway is application/problem+json. An [Aggregate] asks several services at once; of its
// parts the required one decides the status, and others that fail are named in "problems" while
// the rest is served.
//
// Nothing under /ops is routed, and [New] refuses a table that would.
package gateway
