package outbox_test

import (
	"testing"

	"github.com/surge-go/surge/outbox/outboxtest"
)

func TestConformanceSQLite(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, openSQLite)
}

func TestConformancePostgres(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, openPostgres)
}

func TestConformanceMySQL(t *testing.T) {
	t.Parallel()
	outboxtest.Run(t, openMySQL)
}
