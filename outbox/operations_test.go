package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/pglisten"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"gorm.io/gorm"
)

// The functions of docs/operations-outbox.md.

func measure(box *outbox.Outbox, meters metric.MeterProvider) (*outbox.Metrics, error) {
	return box.Measure(meters, outbox.MetricsConfig{Refresh: 15 * time.Second})
}

func inspect(ctx context.Context, box *outbox.Outbox, relay *outbox.Relay) (string, error) {
	s, err := box.Stats(ctx)
	if err != nil {
		return "", err
	}
	p := relay.Progress()
	text := fmt.Sprintf("depth %d, oldest %v, scheduled %d, retrying %d, dead %v; this relay: %d shards, %.0f/s\n",
		s.Depth, s.Oldest, s.Scheduled, s.Retrying, s.DeadBy, p.Shards, p.Rate)
	for _, t := range p.Topics {
		text += fmt.Sprintf("%s: %d in memory, %d failures: %v\n", t.Topic, t.Buffered, t.Failures, t.Err)
	}
	if h := s.Holder; h != nil && h.Age > time.Minute {
		text += fmt.Sprintf("%s %s (%s) is %s, its transaction %v old\n", h.Kind, h.ID, h.Application, h.State, h.Age)
	}
	return text, nil
}

func ready(relay *outbox.Relay) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := relay.Healthy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}
}

func afterTheFix(ctx context.Context, box *outbox.Outbox) (int, error) {
	for m, err := range box.Dead(ctx, outbox.DeadFilter{Topic: "orders"}) {
		if err != nil {
			return 0, err
		}
		slog.Info("dead", "id", m.ID, "key", m.Key, "attempts", m.Attempts, "error", m.Error, "since", m.DiedAt)
	}
	return box.Replay(ctx, outbox.DeadFilter{Topic: "orders"},
		outbox.Action{Actor: "ann@example.com", Reason: "topic had max.message.bytes of 1 MB; INC-4711"})
}

func giveUp(ctx context.Context, box *outbox.Outbox, id string) (int, error) {
	return box.Discard(ctx, outbox.DeadFilter{ID: id},
		outbox.Action{Actor: "ann@example.com", Reason: "superseded by the resync of INC-4711"})
}

func forget(ctx context.Context, box *outbox.Outbox, key string) (outbox.Erased, error) {
	return box.Erase(ctx, key, "", outbox.Action{Actor: "ann@example.com", Reason: "request 4711 to be forgotten"})
}

func wakeful(direct string) (outbox.RelayConfig, error) {
	listener, err := pglisten.New(direct, pglisten.Config{})
	if err != nil {
		return outbox.RelayConfig{}, err
	}
	return outbox.RelayConfig{Listen: listener.Listen}, nil
}

func pollOnly(db *gorm.DB) (*outbox.Outbox, error) {
	return outbox.New(db, outbox.Config{PollOnly: true})
}

func holdStill(ctx context.Context, relays ...*outbox.Relay) error {
	for _, r := range relays {
		r.Pause()
	}
	for _, r := range relays {
		for r.Publishing() > 0 {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// A block of code of the page.
type block struct {
	language string
	rest     []string // of the fence
	code     string
}

func page(t *testing.T) (text string, blocks []block) {
	t.Helper()
	raw, err := os.ReadFile("../docs/operations-outbox.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := regexp.MustCompile("(?ms)^( *)```([a-z]+)([^\n]*)\n(.*?)^ *```$")
	for _, m := range fence.FindAllStringSubmatch(string(raw), -1) {
		code := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[4], "")
		blocks = append(blocks, block{m[2], strings.Fields(m[3]), strings.TrimSpace(code)})
	}
	return string(raw), blocks
}

// statementsOf returns the SQL of the page for a database, one statement after the other.
func statementsOf(t *testing.T, dialect string) (list []string) {
	t.Helper()
	_, blocks := page(t)
	for _, b := range blocks {
		if b.language == "sql" && slices.Contains(b.rest, dialect) {
			for s := range strings.SplitSeq(b.code, ";\n") {
				list = append(list, strings.TrimRight(strings.TrimSpace(s), ";"))
			}
		}
	}
	return list
}

func TestOperationsPageShowsCodeThatRuns(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("operations_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, blocks := page(t)
	known := []string{"postgres", "mysql", "sqlite"}
	count := map[string]int{}
	for _, b := range blocks {
		count[b.language]++
		switch b.language {
		case "go":
			if !strings.Contains(string(source), "\n"+b.code+"\n") {
				t.Errorf("not in operations_test.go:\n%s", b.code)
			}
		case "sql":
			if len(b.rest) == 0 || slices.ContainsFunc(b.rest, func(d string) bool { return !slices.Contains(known, d) }) {
				t.Errorf("for which databases, of %v?\n%s", known, b.code)
			}
		case "sh":
		default:
			t.Errorf("a block of %s is not tested", b.language)
		}
	}
	if count["go"] != 9 || count["sql"] < 20 {
		t.Errorf("blocks found: %v", count)
	}
}

func TestOperationsPageRefersToWhatExists(t *testing.T) {
	t.Parallel()
	text, _ := page(t)
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		plain := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors[strings.ReplaceAll(plain, " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(text, -1) {
		if !anchors[m[1]] {
			t.Errorf("no heading %s", m[1])
		}
	}
	var source string
	for _, name := range []string{"metrics.go", "gauges.go"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source += string(raw)
	}
	for _, name := range regexp.MustCompile(`surge\.outbox\.[a-z.]*[a-z]`).FindAllString(text, -1) {
		if !strings.Contains(source, `"`+name+`"`) {
			t.Errorf("no metric %s", name)
		}
	}
}

func TestOperationsPageSQLRuns(t *testing.T) {
	t.Parallel()
	onAll(t, func(t *testing.T, db *gorm.DB) {
		db = db.WithContext(t.Context())
		for _, s := range statementsOf(t, db.Name()) {
			run := db
			if db.Name() == "postgres" && !strings.HasPrefix(s, "VACUUM") {
				run = db.Begin() // so that what it says about roles is undone
			}
			if err := run.Exec(s).Error; err != nil {
				t.Errorf("%s: %v", s, err)
			}
			if run != db {
				run.Rollback()
			}
		}
	})
}

// What the page says to do about a message that is refused again and again ends it.
func TestOperationsGiveUpARefusedMessage(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if msgs[0].UUID == "id of the message" {
			return refusedError{}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 100_000})
	f.publish(t, "orders", "k", "id of the message", "behind")
	within(t, "both wait", func() bool { return stats(t, f.box).Retrying == 2 })
	list := statementsOf(t, "sqlite")
	i := slices.IndexFunc(list, func(s string) bool { return strings.HasPrefix(s, "UPDATE outbox_retry") })
	within(t, "it is dead, and what was behind it has left", func() bool {
		f.exec(t, list[i]) // a try under way may undo it
		return stats(t, f.box).Dead == 1 && slices.Contains(to.ids(), "behind")
	})
	if n, err := giveUp(t.Context(), f.box, "id of the message"); n != 1 || err != nil {
		t.Errorf("given up: %d, %v", n, err)
	}
	within(t, "nothing is left", func() bool {
		s := stats(t, f.box)
		return s.Dead+s.Retrying+s.Depth == 0
	})
}

func TestOperationsReplayAfterTheFix(t *testing.T) {
	t.Parallel()
	fixed := make(chan struct{})
	to := &scripted{script: func(string, []*message.Message) error {
		select {
		case <-fixed:
			return nil
		default:
			return refusedError{}
		}
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 1})
	f.publish(t, "orders", "k", "1")
	within(t, "it is dead", func() bool { return stats(t, f.box).Dead == 1 })
	close(fixed)
	if n, err := afterTheFix(t.Context(), f.box); n != 1 || err != nil {
		t.Errorf("replayed: %d, %v", n, err)
	}
	f.drain(t)
	if !slices.Contains(to.ids(), "1") {
		t.Error("it did not leave")
	}
}

// No trace of a person's data is left.
func TestOperationsErase(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, _ := newOutbox(t, db)
	row := "0, 'id', 'topic', 'customer-42', '', '{\"name\":\"Ann\"}', 'Ann'"
	const columns = "shard, id, topic, aggregateid, type, headers, payload"
	tables := map[string]string{
		"outbox_scheduled": "due_at", "outbox_retry": "seq, created_at, attempts, due_at, error",
		"outbox_dead":    "seq, created_at, attempts, error, died_at, state, actor, reason, acted_at",
		"outbox_archive": "day, seq, created_at, published_at",
	}
	for table, more := range tables {
		statements(t, db, "INSERT INTO "+table+" ("+columns+", "+more+") VALUES ("+row+
			strings.Repeat(", 1", strings.Count(more, ",")+1)+")")
	}
	traces := func() (n int) {
		for table := range tables {
			var rows int
			err := db.Raw("SELECT count(*) FROM " + table + " WHERE payload LIKE '%Ann%' OR headers LIKE '%Ann%'").
				Row().Scan(&rows)
			if err != nil {
				t.Fatal(err)
			}
			n += rows
		}
		return n
	}
	if n := traces(); n != len(tables) {
		t.Fatalf("traces in %d tables", n)
	}
	for _, s := range statementsOf(t, "sqlite") {
		if strings.Contains(s, "customer-42") {
			statements(t, db, s)
		}
	}
	if n := traces(); n != 0 {
		t.Errorf("traces in %d tables", n)
	}
	if e, err := forget(t.Context(), box, "customer-42"); e.Archived != 1 || err != nil { // which was left in its place
		t.Errorf("forgotten: %+v, %v", e, err)
	}
}

func TestOperationsHoldStill(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	to := &scripted{script: func(string, []*message.Message) error {
		entered <- struct{}{}
		<-gate
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{})
	f.publish(t, "orders", "k", "1")
	<-entered
	hurry, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := holdStill(hurry, f.relay); err == nil {
		t.Error("it did not wait for what is under way")
	}
	close(gate)
	if err := holdStill(t.Context(), f.relay); err != nil {
		t.Error(err)
	}
	f.publish(t, "orders", "k", "2")
	if s := stats(t, f.box); s.Depth == 0 {
		t.Error("a paused relay publishes")
	}
}

func TestOperationsLook(t *testing.T) {
	t.Parallel()
	f := run(t, &scripted{script: func(string, []*message.Message) error { return fmt.Errorf("no route to host") }},
		outbox.RelayConfig{StuckAfter: time.Millisecond})
	metrics, err := measure(f.box, sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader())))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = metrics.Close() }()
	f.publish(t, "orders", "k", "1")
	within(t, "the probe says why", func() bool {
		w := httptest.NewRecorder()
		ready(f.relay)(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code == http.StatusServiceUnavailable && strings.Contains(w.Body.String(), "no route to host")
	})
	within(t, "so does the text", func() bool {
		text, err := inspect(t.Context(), f.box, f.relay)
		return err == nil && strings.HasPrefix(text, "depth 1,") && strings.Contains(text, "orders: 1 in memory")
	})
}

func TestOperationsWakeUps(t *testing.T) {
	t.Parallel()
	cfg, err := wakeful("postgres://orders@db.internal/orders")
	if err != nil || cfg.Listen == nil || cfg.Validate() != nil {
		t.Errorf("%v", err)
	}
	if _, err := wakeful("postgres://db:port"); err == nil {
		t.Error("a bad URL was taken")
	}
	if _, err := pollOnly(openSQLite(t)); err != nil {
		t.Error(err)
	}
}
