// Command flashsale sells out a product under a rush, on one machine that has only Go.
//
// Gateway, order, inventory, payment and shipping start in one process, each with a SQLite file of its own, joined by
// the in-process bus that the outbox makes durable. A crowd of buyers sends real HTTP requests through the gateway:
// calm at first, then a spike in which ten times more buyers than there are units want one product, then an outage of
// the payment provider, then recovery. In the middle of it the order and the payment service crash and start again.
// At the end the verdict is computed from the databases, by code that shares nothing with the code that it judges.
//
//	go run ./examples/flashsale                      stays up after the verdict, until Ctrl-C
//	go run ./examples/flashsale -once -json          for machines: one JSON object on the last line of stdout
//	go run ./examples/flashsale -unsafe=outbox -once takes one protection away, to see what it is for
//
// The exit code is 0 when every promise was kept, 1 when one was broken or something failed, 2 for wrong usage.
// SURGE_BATCH=1 in the environment gives every message a transaction of its own, to see what sharing them brings.
package main
