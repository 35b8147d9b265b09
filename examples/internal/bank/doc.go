// Package bank is a payment provider to test against: an HTTP server with a ledger of its own.
//
// It stands for somebody else's system, so it uses nothing of surge, and its ledger is evidence. What goes wrong
// between it and its callers is put around it, with package resilience/chaos. Each operation that it performs is one
// row of its ledger, committed before the answer leaves:
//
//	POST /v1/operations   {"operation","reference","card","amount","of"}  →  200 {"name","refused"}
//
// With the header Idempotency-Key the operation is performed once and repeated requests get the first answer; the
// same key with another request is refused with 422. Without the header every request is performed anew: who asks
// for a capture twice is charged twice. That is how providers work, and what the ledger is there to prove.
//
// A card whose token starts with "declined" has no money.
package bank
