package outboxtest_test

import (
	"testing"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/outbox/outboxtest"
	"gorm.io/gorm"
)

// The suite takes a function that opens an empty database.
func ExampleRun() {
	test := func(t *testing.T) {
		outboxtest.Run(t, func(t testing.TB) *gorm.DB {
			return outboxtest.Open(t, sqlite.Open(outboxtest.File(t)))
		})
	}
	_ = test // func TestOutbox(t *testing.T)
}
