// Package app is what the shipping service does: the handlers of its commands, and the saga that fulfils an order
// across all services, which lives here.
package app
