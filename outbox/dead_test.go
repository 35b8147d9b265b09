package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

var why = outbox.Action{Actor: "ann", Reason: "test"}

// bury puts dead messages into the table, as if they had died and been treated some time ago.
func bury(t *testing.T, db *gorm.DB, state string, ago time.Duration, from, to int) {
	t.Helper()
	at := time.Now().Add(-ago).UnixMicro()
	acted := at
	if state == "dead" {
		acted = 0
	}
	err := db.Transaction(func(tx *gorm.DB) error {
		for i := from; i <= to; i++ {
			err := tx.Exec(`INSERT INTO outbox_dead (seq, shard, id, topic, aggregateid, type, headers, payload, created_at,
				attempts, error, died_at, state, actor, reason, acted_at)
				VALUES (?, 0, ?, 'topic', 'k', '', '{}', '', ?, 1, '', ?, ?, '', '', ?)`,
				i, fmt.Sprint(i), at, at, state, acted).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is replayed and dies at once must not be replayed for ever.
func TestReplayEndsThoughMessagesDieAtOnce(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	bury(t, db, "dead", 0, 1, 250)
	err := db.Exec(`CREATE TRIGGER dies AFTER INSERT ON outbox BEGIN
		INSERT INTO outbox_dead SELECT seq, shard, id, topic, aggregateid, type, headers, payload, created_at,
			1, '', 0, 'dead', '', '', 0 FROM outbox WHERE seq = NEW.seq;
		DELETE FROM outbox WHERE seq = NEW.seq; END`).Error
	if err != nil {
		t.Fatal(err)
	}
	// The numbers of replayed messages follow those of the dead ones, which were given out before.
	if err := db.Exec("INSERT INTO sqlite_sequence SELECT 'outbox', 250").Error; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if n, err := box.Replay(ctx, outbox.DeadFilter{}, why); n != 250 || err != nil {
		t.Errorf("replayed %d of 250: %v", n, err)
	}
	if s, err := box.Stats(ctx); err != nil || s.Dead != 250 {
		t.Errorf("%d are dead, %v", s.Dead, err)
	}
	err = unit.Do(ctx, func(ctx context.Context) error {
		n, err := box.Replay(ctx, outbox.DeadFilter{Limit: 120}, why)
		if n != 120 {
			t.Errorf("replayed %d of 120", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// What an operator does joins the unit of work in the context, also where that has the only connection.
func TestOperatorsJoinAUnitOfWorkWithTheOnlyConnection(t *testing.T) {
	t.Parallel()
	db := openSQLite(t)
	box, unit := newOutbox(t, db)
	bury(t, db, "dead", 0, 1, 3)
	pool, err := db.DB()
	if err != nil {
		t.Fatal(err)
	}
	pool.SetMaxOpenConns(1)
	one := outbox.DeadFilter{Limit: 1}
	err = unit.Do(context.Background(), func(ctx context.Context) error {
		if n, err := box.Replay(ctx, one, why); n != 1 || err != nil {
			return fmt.Errorf("replayed %d: %w", n, err)
		}
		if n, err := box.Discard(ctx, one, why); n != 1 || err != nil {
			return fmt.Errorf("discarded %d: %w", n, err)
		}
		if e, err := box.Erase(ctx, "k", "", why); e.Dead != 3 || err != nil {
			return fmt.Errorf("erased %+v: %w", e, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Records of what was done about dead messages go after their time, and dead ones only if that is wanted.
func TestRule35_DeadMessagesAreKeptForTheirTime(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		box, unit := newOutbox(t, db)
		const daily = 24 * time.Hour
		bury(t, db, "dead", 400*daily, 1, 3)
		bury(t, db, "dead", daily, 4, 4)
		bury(t, db, "replayed", 91*daily, 5, 1500)
		bury(t, db, "discarded", 91*daily, 1501, 1501)
		bury(t, db, "discarded", 89*daily, 1502, 1502)
		left := func(cfg outbox.RelayConfig, want int64) {
			t.Helper()
			cfg.UnitOfWork = unit
			stop := start(t, newRelay(t, box, &scripted{}, cfg))
			defer stop()
			within(t, fmt.Sprint(want, " are left"), func() (done bool) {
				var n int64
				err := db.Raw("SELECT count(*) FROM outbox_dead").Row().Scan(&n)
				return err == nil && n == want
			})
		}
		left(outbox.RelayConfig{}, 5)
		left(outbox.RelayConfig{KeepSettled: 80 * daily}, 4)
		left(outbox.RelayConfig{KeepDead: 30 * daily}, 1)
	})
}

// A key's messages go from every table, and nobody else's do.
func TestRule35_AKeyIsErased(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		to := &scripted{script: func(topic string, _ []*message.Message) error {
			if topic == "refused" {
				return refusedError{}
			}
			return nil
		}}
		f := serve(t, db, to, outbox.RelayConfig{Attempts: 1, Archive: time.Hour})
		ctx := context.Background()
		settled := func(dead, depth int64) {
			t.Helper()
			within(t, fmt.Sprint(dead, " are dead"), func() bool {
				s, err := f.box.Stats(ctx)
				return err == nil && s.Dead == dead && s.Depth == depth && s.Retrying == 0
			})
		}
		for _, key := range []string{"mine", "yours"} {
			f.publish(t, "topic", key, "published-"+key)
			f.publish(t, "refused", key, "dead-"+key)
		}
		settled(2, 0)
		if err := f.stop(); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"mine", "yours"} {
			f.publish(t, "topic", key, "waiting-"+key)
			m := message.NewMessage("scheduled-"+key, nil)
			m.Metadata.Set(outbox.HeaderKey, key)
			m.Metadata.Set(outbox.HeaderDeliverAt, time.Now().Add(time.Hour).Format(time.RFC3339Nano))
			err := f.unit.Do(ctx, func(ctx context.Context) error {
				m.SetContext(ctx)
				return f.box.Publish("topic", m)
			})
			if err != nil {
				t.Fatal(err)
			}
			f.exec(t, `INSERT INTO outbox_retry SELECT seq + 1000, shard, id, 'refused', aggregateid, type, headers, payload,
				created_at, 1, 0, '' FROM outbox WHERE aggregateid = ?`, key)
		}
		if _, err := f.box.Erase(ctx, "mine", "", outbox.Action{}); !errors.Is(err, outbox.ErrNoActor) {
			t.Errorf("nobody erases: %v", err)
		}
		long := outbox.Action{Actor: strings.Repeat("ä", 256), Reason: "why"}
		if _, err := f.box.Erase(ctx, "mine", "", long); err == nil || !strings.Contains(err.Error(), "256 characters, at most 255") {
			t.Errorf("somebody with a long name erases: %v", err)
		}
		if _, err := f.box.Erase(ctx, "", "", why); err == nil {
			t.Error("no key: no error")
		}
		if e, err := f.box.Erase(ctx, "mine", "refused", why); err != nil || e != (outbox.Erased{Retrying: 1, Dead: 1}) {
			t.Errorf("of a topic: %+v, %v", e, err)
		}
		want := outbox.Erased{Waiting: 1, Scheduled: 1, Archived: 1}
		if e, err := f.box.Erase(ctx, "mine", "", why); err != nil || e != want {
			t.Errorf("of all: %+v, %v", e, err)
		}
		s, err := f.box.Stats(ctx)
		if err != nil || s.Depth != 1 || s.Scheduled != 1 || s.Retrying != 1 || s.Dead != 1 {
			t.Errorf("left: %+v, %v", s, err)
		}
		if got := fmt.Sprint(archivedIDs(t, f.box, outbox.ArchiveFilter{})); got != "[published-yours]" {
			t.Errorf("archived %s", got)
		}
	})
}

// A shard that waits for a message goes on when that is erased.
func TestErasedMessageBlocksNothing(t *testing.T) {
	t.Parallel()
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		if msgs[0].UUID == "bad" {
			return refusedError{}
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{
		Lease: 600 * time.Millisecond, Attempts: 1 << 30, Backoff: time.Millisecond, MaxBackoff: time.Hour,
		Poison: func(string) outbox.Poison { return outbox.BlockShard },
	})
	f.publish(t, "topic", "k", "bad")
	within(t, "it is in the retry table", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Retrying == 1
	})
	f.publish(t, "other", "k", "behind")
	if e, err := f.box.Erase(context.Background(), "k", "topic", why); err != nil || e.Retrying != 1 {
		t.Fatalf("%+v, %v", e, err)
	}
	f.drain(t)
	if got := fmt.Sprint(to.ids()); got != "[behind]" {
		t.Errorf("published %s", got)
	}
}
