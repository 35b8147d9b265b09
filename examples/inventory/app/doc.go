// Package app is what the inventory service does: the handlers of its commands over the ports of the domain, and the
// queries it answers.
package app
