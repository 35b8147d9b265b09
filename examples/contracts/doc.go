// Package contracts is what the example services know of each other: the commands they obey, the events they tell, and
// the names of both on the wire. It holds no logic. A service may change its domain model as it likes as long as its
// contract stays.
//
// Every message is about one order, and its key is the order's ID: what happens to one order happens in order.
// Amounts are in cents, times in UTC.
package contracts
