// Package domain is the inventory service's model: what is on the shelf, and the Reservation of units of it
// for one order.
//
// A reservation is held by the saga that fulfils the order. No clock takes it back: it ends when the saga
// commits it (the units are sold) or releases it (they go back to the shelf). A committed one can still be returned,
// when the customer cancels a fulfilled order.
//
//	held ──► committed ──► released (returned goods)
//	  └────► released
//
// Every unit is accounted for: seeded = free + held + committed. The shelf changes only by guarded deltas, "take two
// if two are left", never by writing back a number that was read before.
package domain
