package cqrs_test

import (
	"testing"

	"github.com/surge-go/surge/cqrs/cqrstest"
)

// What the tests of this package use in place of a database keeps the ports' contracts.
func TestFakeInboxConforms(t *testing.T) {
	t.Parallel()
	cqrstest.RunInbox(t, func(*testing.T) cqrstest.InboxFixture {
		b := newDB()
		return cqrstest.InboxFixture{Inbox: b, Work: b}
	})
}

func TestFakeParkingConforms(t *testing.T) {
	t.Parallel()
	cqrstest.RunParking(t, func(*testing.T) cqrstest.ParkingFixture {
		b := newDB()
		return cqrstest.ParkingFixture{Parking: parking{b}, Work: b}
	})
}
