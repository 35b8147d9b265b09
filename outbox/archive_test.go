package outbox_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/outboxtest"
	"gorm.io/driver/mysql"
	"gorm.io/gorm"
)

func archived(t *testing.T, box *outbox.Outbox, f outbox.ArchiveFilter) (list []outbox.ArchivedMessage) {
	t.Helper()
	for m, err := range box.Archived(context.Background(), f) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func archivedIDs(t *testing.T, box *outbox.Outbox, f outbox.ArchiveFilter) (ids []string) {
	t.Helper()
	for _, m := range archived(t, box, f) {
		ids = append(ids, m.Message.UUID)
	}
	return ids
}

// eachDatabase runs a test on every database.
func eachDatabase(t *testing.T, test func(t *testing.T, db *gorm.DB)) {
	t.Parallel()
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// What is published moves to the archive as it was, once, in order, whichever way it left; what was not is not there.
func TestPublishedMessagesAreArchived(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		f := serve(t, db, &scripted{}, outbox.RelayConfig{Archive: 48 * time.Hour})
		before := time.Now().Add(-time.Hour)
		for i := range 12 {
			f.publish(t, fmt.Sprint("topic", i%2), fmt.Sprint("k", i%3), fmt.Sprint(i))
		}
		f.drain(t)
		f.relay.Pause()
		f.publish(t, "topic0", "k0", "late")
		all := archived(t, f.box, outbox.ArchiveFilter{})
		if len(all) != 12 {
			t.Fatalf("%d archived", len(all))
		}
		for i, m := range all {
			got := fmt.Sprint(m.Topic, m.Message.UUID, string(m.Message.Payload), m.Message.Metadata[outbox.HeaderKey])
			if want := fmt.Sprintf("topic%d%d%dk%d", i%2, i, i, i%3); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if m.PublishedAt.Before(m.CreatedAt) || m.PublishedAt.Before(before) {
				t.Errorf("created %v, published %v", m.CreatedAt, m.PublishedAt)
			}
		}
		for want, filter := range map[string]outbox.ArchiveFilter{
			"[1 3 5 7 9 11]": {Topics: []string{"topic1"}},
			"[0 1 2]":        {Topics: []string{"topic1", "topic0"}, Limit: 3},
			"[2 5 8 11]":     {Key: "k2"},
			"[10 11]":        {After: all[9].Seq, Since: before, Until: time.Now().Add(time.Hour)},
			"[]":             {Until: before},
		} {
			if got := fmt.Sprint(archivedIDs(t, f.box, filter)); got != want {
				t.Errorf("%+v: got %s, want %s", filter, got, want)
			}
		}
		reading := f.box.Archived(t.Context(), outbox.ArchiveFilter{}) // may be read again
		for range 2 {
			n := 0
			for _, err := range reading {
				if n++; err != nil {
					t.Fatal(err)
				}
			}
			if n != 12 {
				t.Errorf("%d messages were read", n)
			}
		}
	})
}

// A message that waited in the retry table is archived too; one that died is not, and is once it was replayed.
func TestRetriedMessagesAreArchived(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		refused := map[string]int{"bad": 2, "worse": math.MaxInt}
		to := &scripted{}
		to.script = func(_ string, msgs []*message.Message) error {
			for _, m := range msgs {
				if refused[m.UUID] > 0 {
					refused[m.UUID]--
					return refusedError{}
				}
			}
			return nil
		}
		f := serve(t, db, to, outbox.RelayConfig{Archive: math.MaxInt64, Attempts: 4})
		f.publish(t, "topic", "k", "1", "bad", "2", "worse", "3")
		within(t, "all have left or are dead", func() bool {
			s, err := f.box.Stats(context.Background())
			return err == nil && s.Depth+s.Retrying == 0 && s.Dead == 1
		})
		if got := fmt.Sprint(archivedIDs(t, f.box, outbox.ArchiveFilter{})); got != "[1 bad 2 3]" {
			t.Errorf("archived %s", got)
		}
		within(t, "nothing is left", func() bool { return len(archived(t, f.box, outbox.ArchiveFilter{})) == 4 })
	})
}

// partitions lists the archive's partitions by day.
func partitions(t *testing.T, db *gorm.DB) (names []string) {
	t.Helper()
	query := `SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'outbox_archive'::regclass`
	if db.Name() == "mysql" {
		query = `SELECT partition_name FROM information_schema.partitions
			WHERE table_schema = DATABASE() AND table_name = 'outbox_archive'`
	}
	if err := db.Raw(query).Scan(&names).Error; err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		names[i] = strings.TrimPrefix(n, "outbox_archive_")
	}
	slices.Sort(names)
	return names
}

// Partitions are there ahead of their day, and go with what is in them when it has been kept long enough.
func TestRule35_ArchiveIsKeptForItsTime(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		box, _ := newOutbox(t, db)
		tend := func(daysOn int) {
			if err := outbox.TendArchive(context.Background(), box, 36*time.Hour, daysOn); err != nil {
				t.Fatal(err)
			}
		}
		today := func(d int) string { return "d" + time.Now().UTC().AddDate(0, 0, d).Format("20060102") }
		put := func(seq, daysOn int) {
			const us = 86_400_000_000
			day := time.Now().UTC().Unix()/86_400 + int64(daysOn)
			err := db.Exec(`INSERT INTO outbox_archive
				(day, seq, shard, id, topic, aggregateid, type, headers, payload, created_at, published_at)
				VALUES (?, ?, 0, ?, 'topic', '', '', '{}', '', ?, ?)`, day, seq, fmt.Sprint(seq), day*us, day*us).Error
			if err != nil {
				t.Fatal(err)
			}
		}
		tend(0)
		for d := range 5 { // on the last two days no partition is there yet
			put(d+1, d)
		}
		tend(2)
		if got := fmt.Sprint(archivedIDs(t, box, outbox.ArchiveFilter{})); got != "[1 2 3 4 5]" {
			t.Errorf("after two days: %s", got)
		}
		tend(3)
		if got := fmt.Sprint(archivedIDs(t, box, outbox.ArchiveFilter{})); got != "[2 3 4 5]" {
			t.Errorf("after three days: %s", got)
		}
		if db.Name() != "sqlite" {
			names := partitions(t, db)
			if slices.Contains(names, today(0)) || !slices.Contains(names, today(1)) || !slices.Contains(names, today(5)) {
				t.Errorf("partitions %v", names)
			}
		}
		tend(7)
		if got := fmt.Sprint(archivedIDs(t, box, outbox.ArchiveFilter{})); got != "[]" {
			t.Errorf("after a week: %s", got)
		}
	})
}

// The archive is tended whatever the name of its database: those of locks may not be as long.
func TestArchiveOfADatabaseWithALongName(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	name := rand.Text()[:7] + strings.Repeat("ạ", 57) // 64 characters, 178 bytes
	statements(t, db, "CREATE DATABASE "+name)
	t.Cleanup(func() { _ = db.Exec("DROP DATABASE " + name).Error })
	cfg, err := mysqldriver.ParseDSN(os.Getenv("SURGE_TEST_MYSQL"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.DBName = name
	db = outboxtest.Open(t, mysql.Open(cfg.FormatDSN()))
	box, _ := newOutbox(t, db)
	if err := outbox.TendArchive(t.Context(), box, 36*time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	if names := partitions(t, db); len(names) < 2 {
		t.Errorf("partitions: %v", names)
	}
}
