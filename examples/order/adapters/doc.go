// Package adapters joins the order service to the world: orders in rows, domain events in contracts, commands and
// queries behind HTTP.
package adapters
