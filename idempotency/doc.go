// Package idempotency makes a request that arrives twice happen once.
//
// # The problem
//
// A client that got no answer must try again, and cannot know whether the first try succeeded. So it sends the same
// key with each try of one intention (the Idempotency-Key header, draft-ietf-httpapi-idempotency-key-header; Stripe
// made it common), and the server sees to it that the work is done once and each try gets the same answer. A bus that
// delivers at least once poses the same problem; there the message's id is the key.
//
// A key is a [Key]: whose it is, what for, and which. The request's [Fingerprint] is stored beside it, so that a key
// that is reused for another request is refused rather than answered with a stranger's result.
//
// # What to use
//
//	the work                                     over HTTP          in code       guarantee
//	a command, run by cqrs.Execute               [ForCommands]      —             once
//	anything in the database alone               [MiddlewareTx]     [DoTx]        once
//	effects elsewhere: payments, mail, files     [Middleware]       [Do]          once, if the other side takes a
//	                                                                              derived key or a fencing token
//	a message                                    —                  [Inbox]       once
//
// The first two and the inbox keep the key in the transaction of the work: both are committed or neither is, so
// nothing can come between them. Callers that arrive together share a transaction (package uow); one statement
// claims all of their keys and one stores all of their answers, so a key costs no commit of its own.
//
// An effect elsewhere cannot be in that transaction. [Do] and [Middleware] hold a lease on the key, renewed while the
// work runs. [Step] marks recovery points: before the first effect the key is noted as begun, after each its result is
// stored, and each gets a key of its own, derived from the request's, for the service that it calls. If the process
// dies, the lease runs out, and what was begun is never silently free again: its outcome is unknown, and
// [UnknownPolicy] says whether a retry goes on from the last recovery point, asks, or is refused.
//
// # What the client sees
//
// The first request gets the handler's answer. Problems are application/problem+json (RFC 9457):
//
//	key missing, malformed, over 255 bytes, given twice    400
//	the request names no principal ([Scope])               403
//	body over MaxBody                                      413
//	key used for another request, in whatever state        422
//	first request done                                     its answer, with Idempotent-Replayed: true
//	first request done, answer streamed or too long        409 not-replayable
//	first request running (after MiddlewareConfig.Wait)    409 in-flight, Retry-After
//	first request lost after it had begun to act           409 outcome-unknown
//	keys cannot be checked                                 503, Retry-After; the handler does not run
//
// "key" and key, quoted as the draft demands and bare as most clients send it, are the same key. GET, HEAD, OPTIONS
// and TRACE pass through. Answers 2xx to 4xx are stored; not 401, 403, 408, 425, 429 and 5xx, which a retry is meant
// to get past. Set-Cookie, Authorization and headers of the connection are never stored.
// Behind [ForCommands] what is stored is the command's result or rejection, not the answer: both the first answer and
// its replays are rendered from that record.
//
// # What is not guaranteed
//
// A key is remembered for [StoreConfig.Retention], a message for [InboxConfig.Retention]. What comes later runs again,
// unless what it creates has its identifier from [Key.UUID]. A step that acts and is lost before its result is stored
// acts again under its derived key: the other side must recognize it. Where it cannot, and cannot compare the fencing
// token either, choose the policy [Refuse] or [Reconcile].
//
// # When something fails
//
//	the handler or command fails         in a transaction: all is undone, the key is free
//	                                     under a lease: free if nothing was begun, else unknown
//	a part that shares the transaction   its own claim is withdrawn with it; neighbors do not notice, and a
//	  is undone                          duplicate that was given its answer runs instead
//	the client hangs up                  the work goes on, and the retry gets its answer
//	the process dies                     in a transaction: nothing happened
//	                                     under a lease: as after a failure, once the lease has run out
//	the database is away                 503; nothing runs. A lease that cannot be renewed ends the handler's
//	                                     context with [ErrLost] before anybody else gets the key
//	the answer to COMMIT is lost         [DoTx] and [MiddlewareTx] look for the key; behind [ForCommands] the
//	                                     retry does
//	duplicates on two replicas           PostgreSQL: in flight, at once (an advisory lock taken without waiting;
//	                                     an INSERT would wait for the other transaction). MySQL and MariaDB: the
//	                                     second waits up to a second. SQLite has one writer
//	a holder was taken for dead          its answer is refused ([ErrLost]); the token tells others which is newer
//
// Two middlewares must not both retry: one hop should own the retries of a request.
//
// # Wiring
//
//	work, err := uow.New(db, uow.Config{})
//	err = idempotency.Migrate(ctx, db)
//	keys, err := idempotency.NewGormStore(work, idempotency.StoreConfig{})
//	inbox := idempotency.NewInbox(idempotency.InboxConfig{})
//	sweeper, err := idempotency.NewSweeper(work, idempotency.SweeperConfig{}, keys, inbox) // go sweeper.Run(ctx)
//	mux.Handle("POST /orders", idempotency.ForCommands(keys, customer, idempotency.MiddlewareConfig{})(placeOrder))
//
// keys is also what a cqrs.Processor takes as Keys, and inbox what it takes as Inbox. Package idempotencytest tests
// other implementations of [Store].
package idempotency
