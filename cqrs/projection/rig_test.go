package projection_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/gormstore"
	"github.com/surge-go/surge/cqrs/projection"
	"github.com/surge-go/surge/idempotency"
	"github.com/surge-go/surge/outbox/uow"
)

// Noted is an event whose numbers a model's row lists.
type Noted struct {
	Key string
	N   int
}

// Closed is another type on the same topic.
type Closed struct{ Key string }

// Paid is on another topic.
type Paid struct {
	Key string
	N   int
}

const (
	topic     = "notes.events"
	paidTopic = "payments.events"
	patience  = 30 * time.Second
)

func newCatalog() *cqrs.Catalog {
	return cqrs.NewCatalog(
		cqrs.Event[Noted]{Name: "notes.noted", Key: func(e Noted) string { return e.Key }},
		cqrs.Event[Closed]{Name: "notes.closed", Key: func(e Closed) string { return e.Key }},
		cqrs.Event[Paid]{Name: "payments.paid", Key: func(e Paid) string { return e.Key }},
	)
}

// A world is a database, a bus, and what was published.
type world struct {
	t       testing.TB
	db      *gorm.DB
	work    *uow.UnitOfWork
	store   *gormstore.Projections
	inbox   *idempotency.Inbox
	catalog *cqrs.Catalog
	bus     *logbus
	sender  *cqrs.Sender
	archive *archive // nil: there is none
}

func newWorld(t testing.TB, db *gorm.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, bus: newLogbus(), catalog: newCatalog()}
	w.inbox = idempotency.NewInbox(idempotency.InboxConfig{})
	must(t, gormstore.Migrate(t.Context(), db))
	must(t, idempotency.Migrate(t.Context(), db))
	var err error
	w.work, err = uow.New(db, uow.Config{})
	must(t, err)
	w.store, err = gormstore.NewProjections(db)
	must(t, err)
	w.sender, err = cqrs.NewSender(w.catalog, w.bus, cqrs.SenderConfig{})
	must(t, err)
	return w
}

// config is quick, so that tests are.
func (w *world) config() projection.Config {
	return projection.Config{
		Inbox: w.inbox, Source: projection.FromTopics(), Create: w.create, Drop: w.drop, Logger: testLog(w.t),
		DropAfter: time.Hour, Poll: 20 * time.Millisecond, Takeover: 50 * time.Millisecond,
		Retry: cqrs.Retry{Min: time.Millisecond, Max: 5 * time.Millisecond},
	}
}

func (w *world) create(ctx context.Context) error {
	text := "TEXT"
	if w.db.Name() == "mysql" {
		text = "MEDIUMTEXT"
	}
	return w.db.WithContext(ctx).Exec("CREATE TABLE IF NOT EXISTS " + projection.Table(ctx, "notes") +
		" (k VARCHAR(40) PRIMARY KEY, numbers " + text + " NOT NULL)").Error
}

func (w *world) drop(ctx context.Context) error {
	return w.db.WithContext(ctx).Exec("DROP TABLE IF EXISTS " + projection.Table(ctx, "notes")).Error
}

// projection applies Noted by appending the number to its key's row, so the model shows order, loss and doubles.
func (w *world) projection(cfg projection.Config) *projection.Projection {
	w.t.Helper()
	p, err := projection.New("notes", w.catalog, w.work, w.store, w.bus, cfg)
	must(w.t, err)
	projection.On(p, note)
	return p
}

func note(ctx context.Context, events []Noted) error {
	for _, e := range events {
		if err := write(ctx, e.Key, fmt.Sprint(e.N)); err != nil {
			return err
		}
	}
	return nil
}

func write(ctx context.Context, key, n string) error {
	tx := uow.DB(ctx)
	table := projection.Table(ctx, "notes")
	concat := "numbers || ',' || ?"
	if tx.Name() == "mysql" {
		concat = "CONCAT(numbers, ',', ?)"
	}
	res := tx.Exec("UPDATE "+table+" SET numbers = "+concat+" WHERE k = ?", n, key)
	if res.Error != nil || res.RowsAffected > 0 {
		return res.Error
	}
	return tx.Exec("INSERT INTO "+table+" (k, numbers) VALUES (?, ?)", key, n).Error
}

// running runs a projection until stop is called or the test ends.
type running struct {
	*projection.Projection
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

func (w *world) run(p *projection.Projection) *running {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	r := &running{Projection: p, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = p.Run(ctx)
	}()
	w.t.Cleanup(func() { _ = r.stop() })
	return r
}

func (r *running) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// publish sends Noted events, numbered from..to, to keys in turn.
func (w *world) publish(from, to int, keys ...string) {
	w.t.Helper()
	for n := from; n <= to; n++ {
		must(w.t, w.sender.Publish(w.t.Context(), Noted{keys[n%len(keys)], n}))
	}
}

// rows returns the live model.
func (w *world) rows(p *projection.Projection) map[string]string {
	w.t.Helper()
	for tries := 0; ; tries++ {
		ctx, err := p.Live(w.t.Context())
		if errors.Is(err, projection.ErrNoModel) {
			return nil
		}
		must(w.t, err)
		rows, err := w.read(ctx)
		if err == nil {
			return rows
		}
		now, lost := p.Live(w.t.Context())
		must(w.t, lost)
		// If not the same, it was replaced meanwhile, and dropped. A connection to SQLite may have yet to hear of a new one.
		if projection.Table(now, "notes") == projection.Table(ctx, "notes") && tries > 10 {
			w.t.Fatal(err)
		}
	}
}

func (w *world) read(ctx context.Context) (map[string]string, error) {
	var rows []struct{ K, Numbers string }
	err := w.db.WithContext(ctx).Raw("SELECT k, numbers FROM " + projection.Table(ctx, "notes")).Scan(&rows).Error
	m := map[string]string{}
	for _, r := range rows {
		m[r.K] = r.Numbers
	}
	return m, err
}

// fold is the model of a prefix of each partition's log, in which every message counts once.
func (w *world) fold(prefix map[int32]int64, archived int64) map[string]string {
	w.bus.mu.Lock()
	defer w.bus.mu.Unlock()
	m, seen := map[string]string{}, map[string]bool{}
	for i, p := range w.bus.partitions(topic) {
		for offset, rec := range p.records {
			if int64(offset) > prefix[int32(i)] && w.place(rec.UUID) > archived || seen[rec.UUID] {
				continue
			}
			seen[rec.UUID] = true
			v, err := w.catalog.Decode(&cqrs.Delivery{
				Envelope: cqrs.EnvelopeFrom(rec), Topic: topic, Payload: rec.Payload, Metadata: rec.Metadata,
			})
			must(w.t, err)
			if e, ok := v.(Noted); ok {
				add(m, e.Key, fmt.Sprint(e.N))
			}
		}
	}
	return m
}

func add(m map[string]string, key, n string) {
	if m[key] != "" {
		n = m[key] + "," + n
	}
	m[key] = n
}

// all is the model of everything.
func (w *world) all() map[string]string { return w.fold(map[int32]int64{0: 1 << 40, 1: 1 << 40}, -1) }

// place is a message's position in the archive.
func (w *world) place(id string) int64 {
	if w.archive == nil {
		return 1 << 40
	}
	w.archive.mu.Lock()
	defer w.archive.mu.Unlock()
	if at, ok := w.archive.places[id]; ok {
		return at
	}
	return 1 << 40
}

// check compares the live model with the fold of what its checkpoints say, in one snapshot of the database.
func (w *world) check(p *projection.Projection) {
	w.t.Helper()
	must(w.t, w.verify(p))
}

func (w *world) verify(p *projection.Projection) error {
	opts := &sql.TxOptions{}
	if w.db.Name() != "sqlite" {
		opts.Isolation = sql.LevelRepeatableRead
	}
	return w.db.Transaction(func(tx *gorm.DB) error {
		var live int64
		if err := tx.Raw("SELECT live FROM cqrs_projections WHERE name = ?", p.Name()).Scan(&live).Error; err != nil {
			return err
		}
		if live == 0 {
			return nil
		}
		var points []struct {
			Topic    string
			Part     int32
			Position int64
		}
		err := tx.Raw("SELECT topic, part, position FROM cqrs_projection_checkpoints WHERE name = ? AND generation = ?",
			p.Name(), live).Scan(&points).Error
		if err != nil {
			return err
		}
		prefix := map[int32]int64{0: -1, 1: -1}
		archived := int64(-1)
		for _, c := range points {
			switch c.Topic {
			case topic:
				prefix[c.Part] = c.Position
			case "":
				archived = c.Position
			}
		}
		table := fmt.Sprintf("notes_g%d", live)
		if !tx.Migrator().HasTable(table) {
			return nil
		}
		var rows []struct{ K, Numbers string }
		if err := tx.Raw("SELECT k, numbers FROM " + table).Scan(&rows).Error; err != nil {
			return err
		}
		got := map[string]string{}
		for _, r := range rows {
			got[r.K] = r.Numbers
		}
		if want := w.fold(prefix, archived); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("generation %d at %v is\n%s, want\n%s", live, prefix, brief(got), brief(want))
		}
		return nil
	}, opts)
}

// level waits until the live model is that of everything published so far.
func (w *world) level(p *projection.Projection) {
	w.t.Helper()
	want := fmt.Sprint(w.all())
	eventually(w.t, "the model is level", func() (bool, string) {
		rows := w.rows(p)
		return fmt.Sprint(rows) == want, brief(rows) + " is not " + brief(w.all())
	})
}

// brief shows how much there is of each row, and its end.
func brief(rows map[string]string) string {
	short := map[string]string{}
	for k, v := range rows {
		short[k] = fmt.Sprintf("%d: …%s", strings.Count(v, ",")+1, v[max(0, len(v)-30):])
	}
	return fmt.Sprint(short)
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, what string, ask func() (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := ask()
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it never happened: %s: %s", what, why)
		case <-tick.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testLog shows what a projection logs when a test fails.
func testLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }
