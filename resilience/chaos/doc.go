// Package chaos injects latency, errors and lost answers into calls, at a rate and from a seed, to see whether
// what is built around the calls holds. Polly has Simmy for this.
//
// The fault worth testing is the lost answer: the work is done and the caller gets an error. Mocks rarely do
// it, networks do. A [Fault] of outcome resilience.InDoubt runs one half of the calls that it hits and then
// loses their answers, and the caller cannot tell the halves apart.
//
// An [Injector] goes innermost into a pipeline ([Injector.Policy]), under an HTTP client
// ([Injector.RoundTripper]), around a server ([Injector.Handler]) or around any function ([Injector.Run]).
// It can be switched and set while it runs; programs must not let strangers do that.
//
// With one goroutine, the same seed gives the same faults in the same places. With several, the faults are
// the same and the calls that they hit depend on the order of arrival.
package chaos
