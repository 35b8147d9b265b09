// Package adapters joins the inventory service to the world: products and reservations in rows, domain events in
// contracts, commands and queries behind HTTP.
package adapters
