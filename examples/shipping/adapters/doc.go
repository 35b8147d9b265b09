// Package adapters joins the shipping service to the world: shipments in rows, domain events in contracts, queries
// behind HTTP.
package adapters
