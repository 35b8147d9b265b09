package debezium_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/outbox/debezium"
	"github.com/surge-go/surge/outbox/outboxtest"
)

func Example() {
	c := debezium.Connector{
		Host: "db.internal", User: "debezium", Password: "${file:/run/secrets/orders:password}",
		Database: "orders", Schema: "shop", Slot: "orders_outbox",
		Settings: map[string]string{"producer.override.compression.type": "zstd"},
	}
	cfg, err := c.Config() // or c.JSON(), for POST /connectors
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{
		"table.include.list", "slot.name", "transforms.outbox.route.by.field", "producer.override.compression.type",
	} {
		fmt.Println(name, "=", cfg[name])
	}
	// Output:
	// table.include.list = shop.outbox
	// slot.name = orders_outbox
	// transforms.outbox.route.by.field = topic
	// producer.override.compression.type = zstd
}

func TestConnectorFillsTheShippedConfiguration(t *testing.T) {
	t.Parallel()
	body, err := debezium.Connector{
		Name: "n", Host: "h", Port: 1, User: "u", Password: "p", Database: "d", Schema: "s", Slot: "x",
		Publication: "y", Heartbeat: time.Minute, Settings: map[string]string{"poll.interval.ms": "7"},
	}.JSON()
	must(t, err)
	var got struct {
		Name   string
		Config map[string]string
	}
	must(t, json.Unmarshal(body, &got))
	for name, want := range map[string]string{
		"database.hostname": "h", "database.port": "1", "database.user": "u", "database.password": "p",
		"database.dbname": "d", "topic.prefix": "n", "slot.name": "x", "publication.name": "y",
		"heartbeat.interval.ms": "60000", "table.include.list": "s.outbox", "poll.interval.ms": "7",
		"snapshot.select.statement.overrides.s.outbox":      `SELECT * FROM "s".outbox ORDER BY seq`,
		"snapshot.select.statement.overrides.public.outbox": "",
	} {
		if got.Config[name] != want {
			t.Errorf("%s is %q, want %q", name, got.Config[name], want)
		}
	}
	if got.Name != "n" {
		t.Errorf("name %q", got.Name)
	}
}

// The file is of use without Go: its values are those of the defaults.
func TestShippedConfigurationIsTheDefault(t *testing.T) {
	t.Parallel()
	body, err := debezium.Connector{Host: "localhost", User: "debezium", Database: "postgres"}.JSON()
	must(t, err)
	var got, want any
	must(t, json.Unmarshal(body, &got))
	must(t, json.Unmarshal(debezium.Shipped, &want))
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestConnectorIsChecked(t *testing.T) {
	t.Parallel()
	bad := debezium.Connector{Port: 70_000, Schema: "a;b", Slot: "A", Publication: "1", Heartbeat: -1}
	_, err := bad.JSON()
	for _, field := range []string{"Host", "User", "Database", "Port", "Schema", "Slot", "Publication", "Heartbeat"} {
		if err == nil || !strings.Contains(err.Error(), "Connector."+field) {
			t.Errorf("nothing about %s: %v", field, err)
		}
	}
	if err := bad.CreatePublication(t.Context(), nil); err == nil {
		t.Error("a bad name reaches the database")
	}
	good := debezium.Connector{Host: "h", User: "u", Database: "d"}
	if err := good.CreatePublication(t.Context(), nil); err == nil {
		t.Error("nil is taken for a database")
	}
	other := outboxtest.Open(t, sqlite.Open(outboxtest.File(t)))
	if err := good.CreatePublication(t.Context(), other); !errors.Is(err, debezium.ErrDialect) {
		t.Errorf("SQLite: %v", err)
	}
}
