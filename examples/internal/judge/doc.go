// Package judge says whether the shop kept its word, from what is written down: the services' SQLite files, the
// bank's ledger, and the buyers' journal of what they were promised.
//
// It shares no code with what it judges. It reads with plain SQL, after everything has settled:
//
//	lost           promised to a buyer, but no order is there; or an order that no saga looks after
//	stuck          an order or a saga that has not come to an end
//	oversold       units reserved or sold beyond those that there were
//	charged twice  more than one charge for an order, or for a buyer's one key; or a charge for nothing:
//	               neither confirmed nor refunded
//	unaccounted    stock that does not add up, confirmed orders that nobody paid, wrong amounts
//
// The files that it expects in one folder are order.db, inventory.db, shipping.db, bank.db and buyers.journal.
package judge
