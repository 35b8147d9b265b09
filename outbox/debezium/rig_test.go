package debezium_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/debezium"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// patience is how long a test waits for what must happen, on a busy machine too.
const patience = time.Minute

func env(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skip(name + " is not set")
	}
	return value
}

func random() string { return strings.ToLower(rand.Text()[:10]) }

// A service is an outbox in a schema of its own.
type service struct {
	t    testing.TB
	url  *url.URL
	db   *gorm.DB
	unit *uow.UnitOfWork
	box  *outbox.Outbox
	slot string
}

func newService(t testing.TB) *service {
	t.Helper()
	base := env(t, "SURGE_TEST_POSTGRES")
	admin := outboxtest.Open(t, postgres.Open(base))
	u, err := url.Parse(outboxtest.Schema(t, admin, base))
	must(t, err)
	s := &service{t: t, url: u, slot: "surgetest_" + random()}
	s.db = outboxtest.Open(t, postgres.Open(u.String()))
	must(t, outbox.Migrate(t.Context(), s.db))
	s.unit, err = uow.New(s.db, uow.Config{})
	must(t, err)
	s.box, err = outbox.New(s.db, outbox.Config{})
	must(t, err)
	return s
}

// connector describes the service's connector.
func (s *service) connector() debezium.Connector {
	port, err := strconv.Atoi(s.url.Port())
	must(s.t, err)
	password, _ := s.url.User.Password()
	return debezium.Connector{
		Name: s.slot, Host: s.url.Hostname(), Port: port, User: s.url.User.Username(), Password: password,
		Database: strings.TrimPrefix(s.url.Path, "/"), Schema: s.url.Query().Get("search_path"),
		Slot: s.slot, Publication: s.slot, Heartbeat: 200 * time.Millisecond,
	}
}

// pruner starts a pruner and returns it with a function that stops it.
func (s *service) pruner() (*debezium.Pruner, func()) {
	s.t.Helper()
	p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{Slot: s.slot, Interval: 20 * time.Millisecond})
	must(s.t, err)
	return p, s.run(p.Run)
}

// run runs a part of the service until the returned function is called, or the test ends.
func (s *service) run(part func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx); close(ended) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// depth returns the number of rows in a table.
func (s *service) depth(table string) (n int) {
	s.t.Helper()
	must(s.t, s.db.Raw("SELECT count(*) FROM "+table).Scan(&n).Error)
	return n
}

// dropSlot drops the slot once nobody reads it.
func (s *service) dropSlot() {
	s.t.Helper()
	eventually(s.t, "the slot is dropped", func() bool {
		const drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ?"
		return s.db.Exec(drop, s.slot).Error == nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, ask func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}
