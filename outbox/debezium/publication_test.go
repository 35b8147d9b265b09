package debezium_test

import (
	"strings"
	"testing"
)

// A publication without the table would have the connector confirm rows that it never saw, and the pruner delete them.
func TestCreatePublicationRefusesOneThatLeavesTheOutboxOut(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for name, publication := range map[string]string{
		"another table": "FOR TABLE outbox_dead WITH (publish = 'insert')",
		"no inserts":    "FOR TABLE outbox WITH (publish = 'delete')",
	} {
		c := s.connector()
		must(t, s.db.Exec("CREATE PUBLICATION "+c.Publication+" "+publication).Error)
		if err := c.CreatePublication(t.Context(), s.db); err == nil || !strings.Contains(err.Error(), c.Publication) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, s.db.Exec("DROP PUBLICATION "+c.Publication).Error)
	}
}

// The instances of a service start together.
func TestCreatePublicationByTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	c := s.connector()
	first := s.db.Begin()
	must(t, c.CreatePublication(t.Context(), first))
	second := make(chan error, 1)
	go func() { second <- c.CreatePublication(t.Context(), s.db) }()
	eventually(t, "the second one waits for the first", func() bool {
		var waiting int
		must(t, s.db.Raw("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE ?",
			`CREATE PUBLICATION "`+c.Publication+`"%`).Scan(&waiting).Error)
		return waiting == 1
	})
	must(t, first.Commit().Error)
	t.Cleanup(func() { _ = s.db.Exec("DROP PUBLICATION IF EXISTS " + c.Publication) })
	if err := <-second; err != nil {
		t.Error(err)
	}
}

// A schema may be called as its service, and the service order, which is a word of SQL's.
func TestConnectorOfASchemaWithAReservedName(t *testing.T) {
	t.Parallel()
	s := newService(t)
	c := s.connector()
	c.Schema = "order"
	tx := s.db.Begin()
	defer tx.Rollback()
	must(t, tx.Exec(`CREATE SCHEMA "order"`).Error)
	must(t, tx.Exec(`CREATE TABLE "order".outbox (seq bigint)`).Error)
	cfg, err := c.Config()
	must(t, err)
	must(t, tx.Exec(cfg["snapshot.select.statement.overrides.order.outbox"]).Error)
	must(t, c.CreatePublication(t.Context(), tx))
}
