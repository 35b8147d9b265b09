// Package domain is the order service's model: the Order aggregate, its value objects, its factory,
// the events it records and the port through which it is kept.
//
// An order is placed once and then waits. Only the saga that fulfils it decides how it ends: a customer
// who cancels leaves a request on the order, which the saga honors before the charge by undoing
// its steps and after it by a refund. So no two parties ever decide the same order.
//
//	pending ──► confirmed ──► cancelled (after a refund)
//	   ├──────► rejected
//	   └──────► cancelled
//
// The package imports nothing but the building blocks of a domain model: no database, no bus, no HTTP.
package domain
