// Package sagatest tests definitions without a database, a bus or a clock.
//
// [Run] plays one instance to its end on virtual time, with the answers that a test gives. [Explore] plays all of
// them: every order of deliveries, every answer a participant may give, silence, duplicates, crashes, a request to
// cancel at any moment, an operator's retry, up to [Faults] of them in one history. Both drive the very interpreter
// that the engine runs, and encode the instance between any two inputs, as the engine does.
//
// # What Explore checks by itself
//
//   - a transition is repeatable: a crash before its commit changes nothing but the time;
//   - a saga that is undone leaves no effect of a step that has an undo, one that completed has every step's effect
//     exactly once;
//   - no pivot is ever undone, and nothing ends compensated once a pivot was done;
//   - no history ends anywhere but in an end, or parked for an operator.
//
// Participants are taken to behave as saga.Participant makes them: they remember tokens, answer a duplicate as
// before, and refuse a command that comes after its undo.
package sagatest
