// Package loadgen is the shop's crowd: buyers who send real HTTP requests, double-click, lose patience, come
// back with the same key, change their minds, and remember what they were promised.
//
// Buyers are a closed loop: each has one purchase under way, and starts the next when that one is accepted or given up.
// How many are active follows the answers: more while the shop is quick, fewer when it slows down.
//
// What a buyer was promised is a line in the journal before the buyer counts it, so that a verdict after a crash
// of everything still knows every promise.
package loadgen
