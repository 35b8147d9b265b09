// Package adapters joins the payment service to the world: payments in rows, domain events in contracts, the bank and
// the service's own API over HTTP.
package adapters
