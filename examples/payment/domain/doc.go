// Package domain is the payment service's model: the Payment of one order, from authorization to capture,
// and back by void or refund.
//
// The money moves at a provider, outside of any transaction. So each move has two halves: Begin… records the
// intent, and a second method records what became of it. A payment has room for one intent at a time: while the
// capture is open there is no void, and the other way round.
//
//	         ┌► declined
//	authorizing ─► authorized ─► capturing ─► captured ─► refunding ─► refunded
//	                   │             └► authorized (the provider said no)
//	                   └► voiding ─► voided
package domain
