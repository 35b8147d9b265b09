package debezium

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"time"

	"gorm.io/gorm"
)

//go:embed postgres.json
var postgres []byte

const (
	defaultName = "surge-outbox"
	defaultSlot = "surge_outbox"
)

// Connector describes a Debezium connector for PostgreSQL that publishes one outbox table. Host, User and Database
// are required.
type Connector struct {
	// Name is the connector's name in Connect. "" means "surge-outbox".
	Name string
	// Host is the database server's, as Connect's workers see it.
	Host string
	// Port is the database server's. 0 means 5432.
	Port int
	// User logs in. It needs the attribute REPLICATION, and SELECT on the outbox table.
	User string
	// Password may name a secret of Connect's, such as "${file:/run/secrets/db:password}".
	Password string
	// Database is the one with the outbox table.
	Database string
	// Schema is the one with the outbox table. "" means "public".
	Schema string
	// Slot is the replication slot, which the connector creates. "" means "surge_outbox". Slots are the whole
	// server's, so services that share one need one each.
	Slot string
	// Publication is what [Connector.CreatePublication] creates. "" means "surge_outbox". Publications are the
	// database's, so services that share one need one each.
	Publication string
	// TopicPrefix begins the names of the connector's own topics, such as heartbeats. "" means Name.
	TopicPrefix string
	// Heartbeat is how long a row of an otherwise quiet database may wait until it is confirmed, and so pruned.
	// 0 means 5 s; at least 1 ms.
	Heartbeat time.Duration
	// Settings are added to the connector's configuration and win over it. nil means none.
	Settings map[string]string
}

var (
	identifier = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	slotName   = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
)

func (c Connector) withDefaults() Connector {
	orElse(&c.Name, defaultName)
	orElse(&c.Port, 5432)
	orElse(&c.Schema, "public")
	orElse(&c.Slot, defaultSlot)
	orElse(&c.Publication, "surge_outbox")
	orElse(&c.TopicPrefix, c.Name)
	orElse(&c.Heartbeat, 5*time.Second)
	return c
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Validate joins every fault of the description.
func (c Connector) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("debezium: Connector."+format, args...))
	}
	for name, value := range map[string]string{"Host": c.Host, "User": c.User, "Database": c.Database} {
		if value == "" {
			fault("%s is empty", name)
		}
	}
	if c.Port < 1 || c.Port > 65535 {
		fault("Port is %d, it must be within 1 and 65535", c.Port)
	}
	for name, value := range map[string]string{"Schema": c.Schema, "Publication": c.Publication} {
		if !identifier.MatchString(value) {
			fault("%s is %q, it may have 63 small letters, digits and underscores, no digit first", name, value)
		}
	}
	if !slotName.MatchString(c.Slot) {
		fault("Slot is %q, it may have 63 small letters, digits and underscores", c.Slot)
	}
	if c.Heartbeat < time.Millisecond {
		fault("Heartbeat is %v, at least 1 ms is needed", c.Heartbeat)
	}
	return errors.Join(faults...)
}

// Config returns the connector's configuration, as PUT /connectors/{name}/config of Connect takes it.
func (c Connector) Config() (map[string]string, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	var shipped struct{ Config map[string]string }
	if err := json.Unmarshal(postgres, &shipped); err != nil {
		return nil, fmt.Errorf("debezium: postgres.json: %w", err)
	}
	cfg, table := shipped.Config, c.table()
	const overrides = "snapshot.select.statement.overrides"
	delete(cfg, overrides+".public.outbox")
	maps.Copy(cfg, map[string]string{
		"database.hostname":     c.Host,
		"database.port":         strconv.Itoa(c.Port),
		"database.user":         c.User,
		"database.password":     c.Password,
		"database.dbname":       c.Database,
		"topic.prefix":          c.TopicPrefix,
		"slot.name":             c.Slot,
		"publication.name":      c.Publication,
		"table.include.list":    table,
		overrides:               table,
		overrides + "." + table: "SELECT * FROM " + c.quoted() + " ORDER BY seq",
		"heartbeat.interval.ms": strconv.FormatInt(c.Heartbeat.Milliseconds(), 10),
	})
	maps.Copy(cfg, c.Settings)
	return cfg, nil
}

// JSON returns name and configuration, as POST /connectors of Connect takes them.
func (c Connector) JSON() ([]byte, error) {
	cfg, err := c.Config()
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]any{"name": c.withDefaults().Name, "config": cfg}, "", "  ")
}

// CreatePublication creates the publication that the connector reads, of inserts into the outbox table alone,
// unless it is there. Who calls it must own the table and may create publications in the database. A publication of
// that name that leaves these inserts out is an error: publications are the database's, so services that share one
// need one each.
func (c Connector) CreatePublication(ctx context.Context, db *gorm.DB) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := checkDatabase("CreatePublication", db); err != nil {
		return err
	}
	c = c.withDefaults()
	db = db.WithContext(ctx)
	there, err := c.published(db)
	if err == nil && !there {
		err = db.Exec("CREATE PUBLICATION " + quote(c.Publication) + " FOR TABLE " + c.quoted() +
			" WITH (publish = 'insert')").Error
		if there, again := c.published(db); there && again == nil { // somebody else was faster
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("debezium: create publication %s: %w", c.Publication, err)
	}
	return nil
}

// published reports whether the publication is there. Without the outbox's inserts it must not be used: the connector
// would confirm what it never saw, and a pruner delete it.
func (c Connector) published(db *gorm.DB) (bool, error) {
	var covers []bool
	err := db.Raw(`SELECT pubinsert AND EXISTS (SELECT FROM pg_publication_tables t
		WHERE t.pubname = p.pubname AND t.schemaname = ? AND t.tablename = 'outbox')
		FROM pg_publication p WHERE pubname = ?`, c.Schema, c.Publication).Scan(&covers).Error
	if err != nil || len(covers) == 0 {
		return false, err
	}
	if !covers[0] {
		return false, fmt.Errorf("Connector.Publication names one that has no inserts into %s", c.table())
	}
	return true, nil
}

func (c Connector) table() string { return c.Schema + ".outbox" }

// quoted is the table as SQL has it, in which names like "order" are words of its own.
func (c Connector) quoted() string { return quote(c.Schema) + ".outbox" }

func quote(name string) string { return `"` + name + `"` } // names were checked
