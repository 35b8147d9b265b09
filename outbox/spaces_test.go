package outbox_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// MySQL and MariaDB leave spaces at the end out of comparisons. Keys that differ in them are keys of their own, and one
// of spaces is a key: its later messages wait for the one that is refused, also in another relay.
func TestKeysMayEndWithSpaces(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		keys := []string{" ", "k", "k "}
		var mended sync.Map
		to := &scripted{script: func(_ string, msgs []*message.Message) error {
			for _, m := range msgs {
				if _, ok := mended.Load(m.UUID); !ok && strings.HasPrefix(m.UUID, "bad") {
					return refusedError{}
				}
			}
			return nil
		}}
		cfg := outbox.RelayConfig{Attempts: math.MaxInt, Archive: time.Hour}
		f := serve(t, db, to, cfg)
		for i, key := range keys {
			f.publish(t, "topic", key, fmt.Sprint("bad", i))
		}
		within(t, "all are refused", func() bool { s := stats(t, f.box); return s.Depth == 0 && s.Retrying == 3 })
		if err := f.stop(); err != nil {
			t.Fatal(err)
		}
		f = serve(t, db, to, cfg)
		for i, key := range keys {
			f.publish(t, "topic", key, fmt.Sprint("next", i))
		}
		f.drain(t)
		var want []string
		for i, key := range slices.Backward(keys) { // so "k " does not wait for "k"
			if got := to.ids(); !slices.Equal(got, want) {
				t.Fatalf("published %v, want %v", got, want)
			}
			mended.Store(fmt.Sprint("bad", i), true)
			want = append(want, fmt.Sprint("bad", i), fmt.Sprint("next", i))
			within(t, "both leave", func() bool { return stats(t, f.box).Retrying == int64(2*i) })
			if got := fmt.Sprint(archivedIDs(t, f.box, outbox.ArchiveFilter{Key: key})); got != fmt.Sprint(want[len(want)-2:]) {
				t.Errorf("archived of %q: %s", key, got)
			}
		}
		if got := to.ids(); !slices.Equal(got, want) {
			t.Errorf("published %v, want %v", got, want)
		}
	})
}

// Topics may differ in such spaces as well: one whose publisher hangs does not hold up the other when both have fallen
// behind.
func TestTopicsMayEndWithSpaces(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	box, _ := newOutbox(t, db)
	reading, err := outbox.NewReading(t.Context(), box, "mysql", outbox.RelayConfig{Batch: 4, Buffer: 4})
	if err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if _, err := reading.Read(t.Context(), db.Statement.ConnPool); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, db, 1, 2, 3, 4)
	read()
	commitTo(t, db, "topic ", 5, 6, 7, 8)
	read()
	commit(t, db, 9)
	commitTo(t, db, "topic ", 10)
	read()
	for _, want := range [][]int64{{5, 6, 7, 8}, {10}} {
		if got := reading.Take("topic ", 4); !slices.Equal(got, want) {
			t.Errorf("read %d, want %d", got, want)
		}
		read()
	}
	if got := reads(t, reading, db.Statement.ConnPool); !slices.Equal(got, []int64{1, 2, 3, 4, 9}) {
		t.Errorf("read %d of the other", got)
	}
}
