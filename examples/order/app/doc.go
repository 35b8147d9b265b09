// Package app is what the order service does: the handlers of its commands and the answers to its queries, over the
// ports of the domain. It knows no database and no HTTP.
package app
