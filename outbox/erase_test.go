package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// somebodyWaits waits until another session waits for a lock of the transaction in ctx.
func somebodyWaits(ctx context.Context, t *testing.T, db *gorm.DB) {
	t.Helper()
	var self int64
	if err := uow.DB(ctx).Raw("SELECT pg_backend_pid()").Row().Scan(&self); err != nil {
		t.Fatal(err)
	}
	within(t, "somebody waits", func() bool { // in a transaction of its own, as one sees one state of the server
		var n int64
		err := db.Raw("SELECT count(*) FROM pg_stat_activity WHERE ? = ANY(pg_blocking_pids(pid))", self).Row().Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	})
}

func kept(t *testing.T, db *gorm.DB) (n int64) {
	t.Helper()
	err := db.Raw(`SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM outbox_retry)
		+ (SELECT count(*) FROM outbox_dead)`).Row().Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Keys that differ by a space at their end are two keys, which they are not for MySQL and MariaDB.
func TestSpaceAtTheEndOfAKeyCounts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		f := &fixture{db: db}
		f.box, f.unit = newOutbox(t, db)
		ctx := context.Background()
		for _, key := range []string{"k", "k "} {
			f.publish(t, "topic", key, "waiting"+key)
			f.publish(t, "topic ", key, "elsewhere"+key)
		}
		f.exec(t, `INSERT INTO outbox_dead SELECT seq, shard, id, topic, aggregateid, type, headers, payload, created_at,
			1, '', 0, 'dead', '', '', 0 FROM outbox`)
		dead := outbox.DeadFilter{Topic: "topic", Key: "k"}
		if n, err := f.box.Discard(ctx, dead, why); n != 1 || err != nil {
			t.Errorf("discarded %d, %v", n, err)
		}
		if e, err := f.box.Erase(ctx, "k", "topic", why); err != nil || e != (outbox.Erased{Waiting: 1, Dead: 1}) {
			t.Errorf("of a topic: %+v, %v", e, err)
		}
		if e, err := f.box.Erase(ctx, "k", "", why); err != nil || e != (outbox.Erased{Waiting: 1, Dead: 1}) {
			t.Errorf("of all: %+v, %v", e, err)
		}
	})
}

// A message is gone from every table though a relay moves it from one to another while it is erased.
func TestRule35_AMovingMessageIsErased(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, from string
		attempts   int
	}{
		{"to the retry table", "outbox", 1000},
		{"to the dead", "outbox_retry", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := openPostgres(t)
			refuse := make(chan struct{})
			to := &scripted{script: func(string, []*message.Message) error { <-refuse; return refusedError{} }}
			f := serve(t, db, to, outbox.RelayConfig{Attempts: c.attempts})
			_, eraser := newOutbox(t, db)
			f.publish(t, "topic", "k", "1")
			if c.from == "outbox_retry" {
				refuse <- struct{}{} // with others, as far as the relay knows
				refuse <- struct{}{} // alone
				within(t, "it is tried again", func() bool {
					s, err := f.box.Stats(context.Background())
					return err == nil && s.Retrying == 1 && f.relay.Publishing() == 1
				})
			}
			err := eraser.Do(context.Background(), func(ctx context.Context) error {
				if err := uow.DB(ctx).Exec("DELETE FROM " + c.from).Error; err != nil {
					return err
				}
				close(refuse)
				somebodyWaits(ctx, t, db)
				_, err := f.box.Erase(ctx, "k", "", why)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := f.stop(); err != nil {
				t.Fatal(err)
			}
			if n := kept(t, db); n != 0 {
				t.Errorf("%d rows are kept", n)
			}
		})
	}
}

// What is replayed while it is erased is not published.
func TestRule35_AReplayedMessageIsErased(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	to := &scripted{script: func(string, []*message.Message) error { return refusedError{} }}
	f := serve(t, db, to, outbox.RelayConfig{Attempts: 1})
	f.publish(t, "topic", "k", "1")
	within(t, "it is dead", func() bool {
		s, err := f.box.Stats(context.Background())
		return err == nil && s.Dead == 1
	})
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	_, replayer := newOutbox(t, db)
	erased := make(chan error, 1)
	err := replayer.Do(context.Background(), func(ctx context.Context) error {
		n, err := f.box.Replay(ctx, outbox.DeadFilter{}, why)
		if n != 1 || err != nil {
			return errors.Join(errors.New("not replayed"), err)
		}
		go func() {
			_, err := f.box.Erase(context.Background(), "k", "", why)
			erased <- err
		}()
		somebodyWaits(ctx, t, db)
		return nil
	})
	if err := errors.Join(err, <-erased); err != nil {
		t.Fatal(err)
	}
	if n := kept(t, db); n != 0 {
		t.Errorf("%d rows are kept", n)
	}
}

// What is archived while it is erased is not kept.
func TestRule35_AMessageOnItsWayToTheArchiveIsErased(t *testing.T) {
	t.Parallel()
	db := openPostgres(t)
	box, unit := newOutbox(t, db)
	_, relay := newOutbox(t, db)
	erased := make(chan error, 1)
	err := relay.Do(context.Background(), func(ctx context.Context) error {
		m := message.NewMessage("1", nil)
		m.Metadata.Set(outbox.HeaderKey, "k")
		err := unit.Do(context.Background(), func(ctx context.Context) error {
			m.SetContext(ctx)
			return box.Publish("topic", m)
		})
		if err != nil {
			return err
		}
		err = uow.DB(ctx).Exec(`WITH gone AS (DELETE FROM outbox RETURNING *)
			INSERT INTO outbox_archive SELECT extract(epoch FROM now())::bigint / 86400, *, 0 FROM gone`).Error
		if err != nil {
			return err
		}
		go func() {
			_, err := box.Erase(context.Background(), "k", "", why)
			erased <- err
		}()
		somebodyWaits(ctx, t, db)
		return nil
	})
	if err := errors.Join(err, <-erased); err != nil {
		t.Fatal(err)
	}
	var n int64
	if err := db.Raw("SELECT count(*) FROM outbox_archive").Row().Scan(&n); err != nil || n != 0 {
		t.Errorf("%d are archived, %v", n, err)
	}
}
