// Package resilience composes retry, breaker, timeout and their like around a call, and tells afterwards what
// became of the call.
//
//	payments := resilience.Must(resilience.New("payments",
//		resilience.Timeout(5*time.Second),                 // the whole call
//		resilience.Retry(resilience.RetryConfig{}),        // up to 3 tries
//		resilience.NewBreaker(resilience.BreakerConfig{}), // counts each try
//		resilience.Timeout(time.Second),                   // each try
//	))
//	receipt, err := resilience.Do(ctx, payments, func(ctx context.Context) (Receipt, error) { … })
//
// [Standard] is such a pipeline with sensible numbers. Make one pipeline for each dependency at start-up and
// share it: it holds the breaker's state, the retry budget and the limits. People who know Polly 8 will find
// its ResiliencePipeline here, outermost strategy first.
//
// # The problem
//
// Each of these policies is easy, and together they go wrong: a retry hammers a dependency whose breaker was
// put on the wrong side; retries at three layers make twenty-seven calls of one; a probe hangs and the breaker
// never closes; the time is spent asleep before a try that has no time left; and after "breaker open" nobody
// remembers that the try before it was a timeout, so an order is canceled that was charged.
//
// # Order
//
// Policies are listed outermost first. [New] refuses pairs that defeat each other, and says why. The order
// that nearly always fits, with what you do not need left out:
//
//	Fallback          outermost: it answers for whatever fails inside
//	Timeout           the whole call with its waits
//	RateLimit         calls, not tries
//	Bulkhead          its queue is within the call's time
//	Hedge             each hedged try has its own retries, so those need a budget
//	Retry             inside of it, everything is for each try
//	AdaptiveThrottle  sheds while the dependency fails
//	AdaptiveLimit     measures tries, without the waits between them
//	Breaker           counts tries; a retry stops as soon as it opens
//	Timeout           each try
//
// # Outcomes
//
// [OutcomeOf] is the worst of all tries of a call: [OK], [NotExecuted], [Failed] or [InDoubt]. It is what to
// decide on before compensating: only NotExecuted and Failed are safe to take for "it did not happen". What
// nobody has classified is in doubt. Mark the definite refusals of your own functions with [WithOutcome]; they
// are then not retried and do not count against the breaker. For HTTP, [HTTPOutcome] reads answers as well.
//
// # What is not guaranteed
//
// Nothing here makes a function safe to repeat: Retry and Hedge are for idempotent work. Go cannot stop a
// function that ignores its context: Timeout ends the context and then waits for the function; only Hedge
// returns before its functions do. State is of this process alone: ten replicas have ten breakers and ten
// times the RateLimit.
//
// # Failures
//
//	what happens                     | what the caller gets                        | outcome
//	the function fails, may be retried | its answer, or *RetryError with every error | worst of all tries
//	it fails definitely (WithOutcome)| its error, at once                          | Failed
//	a try takes too long             | *TimeoutError, retried                      | InDoubt
//	the next try would miss the deadline | *RetryError, without the wait           | worst of all tries
//	many calls fail at once          | *RetryError: the budget is spent            | worst of all tries
//	the breaker is open              | *RejectedError with RetryAfter              | NotExecuted
//	a probe hangs                    | its slot is freed after ProbeTimeout        | -
//	the bulkhead or a limit is full  | *RejectedError                              | NotExecuted
//	the caller cancels               | context.Canceled; no policy counts it       | InDoubt if a try ran
//	the function panics              | the panic; it counts as a failure           | -
//	every hedged try fails           | *HedgeError                                 | worst of all tries
//	the fallback fails too           | *FallbackError with both                    | worst of both
//	HTTP: 5xx, 408, 429              | the last answer, as a response              | HTTPOutcome
//	HTTP: connection refused         | the error                                   | NotExecuted
//	HTTP: shed by a Handler          | 429 or 503, after retries                   | NotExecuted
//
// # Wiring
//
// [NewTransport] puts a pipeline under an http.Client, one copy for each host; [Handler] protects a server and
// tells the client's transport what it refused. The adapters for Watermill are in resilience/messaging, so
// that HTTP users do not compile it, and fault injection is in resilience/chaos. [Pipeline.Observe] reports to
// OpenTelemetry ([OTel]) or slog ([Log]); without an observer it costs nothing. A [Registry] lets an
// operations console list, force and reset pipelines.
//
// gobreaker counts calls and backoff makes waits underneath; neither shows in a signature.
package resilience
