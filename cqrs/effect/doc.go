// Package effect carries out commands whose work happens outside the database: a charge, a mail, a label.
//
// # The problem
//
// A handler that calls a provider inside its transaction holds locks, and everybody who shares the transaction,
// for as long as the provider takes; and when the call succeeds and the commit does not, the charge exists and
// nobody knows of it. Calling before or after the transaction only moves the hole.
//
// # How it works
//
// An [Effect] splits such a command in three. Intent runs in the command's shared transaction: it validates and
// records what is to be done and the key under which the provider will know it. Call runs outside of any
// transaction, many at a time. Settle runs in a shared transaction again, with the provider's answer: it applies
// it, and the reply leaves with that commit.
//
//	runner, err := effect.New(processor, store, effect.Config{})
//	capture := effect.Handler(runner, effect.Effect[CapturePayment, Receipt, Charge, Approval]{
//		Name:   "payments.capture",
//		Intent: payments.beginCapture, // the payment is "capturing" from here on
//		Call:   provider.Capture,
//		Ask:    provider.Find,
//		Settle: payments.captured,
//	})
//	cqrs.Handle(processor, capture)
//	go runner.Run(ctx)
//
// [cqrs.Call] waits for that reply; [cqrs.Execute] returns [cqrs.ErrDeferred], since the answer is yet to come.
//
// # What is guaranteed
//
// An intent is carried out if and only if the transaction that recorded it commits, and settled exactly once. A
// call may be repeated, always under the same key, and never while it is under way, if Call and Ask keep to the
// deadlines in their contexts: those end before another runner may take the intent. Before a call is repeated
// whose outcome is in doubt, the provider is asked, if it can be. Leases and due times are those of the database's
// clock.
//
// # What is not
//
// The effect happens once only if the provider treats equal keys as one request, and remembers them for
// [Effect.Keep]. Effects are not in order: whatever must not overlap has to be refused by Intent. A runner that
// loses its lease in the middle of a call cannot take the call back; the settlement is refused to it.
//
// # Failures
//
//	the process dies after the intent committed   another runner takes it when the lease has ended, and asks first
//	the answer to a commit or a claim is lost     its runner finds what it holds and has not known of for a lease,
//	                                              and asks first
//	a call times out, or its answer is lost       in doubt: asked, or sent again under the same key, after a backoff
//	a call ignores its deadline                   left behind a second later, in doubt, at most Concurrency of them;
//	                                              Run's [ErrHung] says that it has not returned
//	an error that has RetryAfter and is known     the effect pauses that long, then one call at a time probes; no
//	  not to have been sent (an open breaker)       attempt is consumed and other effects go on
//	the provider says no (a Rejection)            Refuse applies it; the rejection is the reply
//	Settle fails, or the commit                   tried again; later the provider is asked again
//	a panic                                       like an error in doubt
//	the intent is older than Keep, unreadable,    parked: it stays in the store for an operator, and the command
//	  or has used up its attempts                   is not answered
//	the store is down                             nothing new is called without a lease; results are kept and retried
package effect
