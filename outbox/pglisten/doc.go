// Package pglisten wakes an outbox relay by PostgreSQL's LISTEN and NOTIFY, so that it publishes within milliseconds
// what another process committed, without polling often.
//
//	listener, err := pglisten.New(url, pglisten.Config{})
//	relay, err := outbox.NewRelay(box, broker, outbox.RelayConfig{Listen: listener.Listen})
//
// An [outbox.Outbox] on PostgreSQL notifies after its commits, in statements of their own, at most 20 a second. A
// [Listener] has one connection of its own, outside any pool, while its relay runs.
//
// # What is not guaranteed
//
// Notifications only save time. One may be lost: when the connection breaks, when the server fails over, when the
// process that committed dies in between. The relay is therefore woken once after every connect, and polls in any
// case (see outbox.RelayConfig.MaxPoll); nothing depends on a notification.
//
// # Where it does not work
//
// PgBouncer in transaction or statement mode gives LISTEN to a server connection that it then hands to others:
// nothing arrives, and nothing fails. Give New a URL that leads to the server itself, or leave Listen out and set
// outbox.Config.PollOnly. A hot standby refuses LISTEN; the relay goes on polling and logs it.
package pglisten
