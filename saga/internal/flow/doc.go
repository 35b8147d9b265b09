// Package flow interprets sagas without any input or output: given an instance and something that happened to it,
// [Graph.Apply] says what the instance becomes, which commands leave, and when it wants to be woken.
//
// The package knows no state type, database, bus or clock, so the engine, the explorer and the tests all run the
// very same transitions. An instance's place is a list of [Mark]s, one per node that was reached, in the order in
// which they were. After every input the graph is walked again from its root: a node with a settled mark is passed,
// a node without one is started. Nothing else remembers where a saga stands.
package flow
