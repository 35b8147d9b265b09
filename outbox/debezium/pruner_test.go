package debezium_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/glebarez/sqlite"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/debezium"
	"github.com/surge-go/surge/outbox/outboxtest"
	"github.com/surge-go/surge/outbox/uow"
)

// createSlot creates the replication slot and its publication; both go when the test ends.
func (s *service) createSlot() {
	s.t.Helper()
	must(s.t, s.connector().CreatePublication(s.t.Context(), s.db))
	must(s.t, s.connector().CreatePublication(s.t.Context(), s.db)) // again
	must(s.t, s.db.Exec("SELECT pg_create_logical_replication_slot(?, 'pgoutput')", s.slot).Error)
	s.t.Cleanup(func() {
		s.dropSlot()
		_ = s.db.Exec("DROP PUBLICATION IF EXISTS " + s.slot)
	})
}

// A reader stands for a connector: it reads the slot and confirms only what it is told to.
type reader struct {
	s    *service
	conn *pgconn.PgConn
}

func (s *service) read() *reader {
	s.t.Helper()
	u := *s.url
	q := u.Query()
	q.Set("replication", "database")
	u.RawQuery = q.Encode()
	conn, err := pgconn.Connect(s.t.Context(), u.String())
	must(s.t, err)
	r := &reader{s: s, conn: conn}
	s.t.Cleanup(r.close)
	conn.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT " + s.slot +
		" LOGICAL 0/0 (proto_version '1', publication_names '" + s.slot + "', messages 'true')"})
	must(s.t, conn.Frontend().Flush())
	for {
		m, err := conn.ReceiveMessage(s.t.Context())
		must(s.t, err)
		if _, ok := m.(*pgproto3.CopyBothResponse); ok {
			return r
		}
	}
}

func (r *reader) close() { _ = r.conn.Close(context.Background()) }

// confirm tells the server that everything up to now was published.
func (r *reader) confirm() {
	r.s.t.Helper()
	var text string
	must(r.s.t, r.s.db.Raw("SELECT pg_current_wal_insert_lsn()::text").Scan(&text).Error)
	high, low, _ := strings.Cut(text, "/")
	lsn := parseHex(r.s.t, high)<<32 | parseHex(r.s.t, low)
	status := []byte{'r'}
	for _, v := range []uint64{lsn, lsn, lsn, 0} {
		status = binary.BigEndian.AppendUint64(status, v)
	}
	r.conn.Frontend().Send(&pgproto3.CopyData{Data: append(status, 0)})
	must(r.s.t, r.conn.Frontend().Flush())
}

func parseHex(t testing.TB, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 16, 64)
	must(t, err)
	return n
}

// add publishes n messages.
func (s *service) add(n int) {
	s.t.Helper()
	must(s.t, s.unit.Do(s.t.Context(), func(ctx context.Context) error {
		for i := range n {
			if err := s.publish(ctx, "topic", random(), specimen{key: strconv.Itoa(i)}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// confirmed confirms until the rows are pruned.
func (r *reader) confirmed(p *debezium.Pruner, total uint64) {
	r.s.t.Helper()
	eventually(r.s.t, "confirmed rows are pruned", func() bool { r.confirm(); return p.Pruned() == total })
}

// survey reads a round, which must have n rows.
func (s *service) survey(p *debezium.Pruner, n int) debezium.Round {
	s.t.Helper()
	r, got, err := p.Survey(s.t.Context())
	must(s.t, err)
	if got != n {
		s.t.Fatalf("a round of %d rows, want %d", got, n)
	}
	return r
}

// settles checks what becomes of a round.
func (s *service) settles(p *debezium.Pruner, r debezium.Round, pruned, void bool) {
	s.t.Helper()
	gotPruned, gotVoid, err := p.Settle(s.t.Context(), r)
	must(s.t, err)
	if gotPruned != pruned || gotVoid != void {
		s.t.Fatalf("pruned %v, void %v; want %v, %v", gotPruned, gotVoid, pruned, void)
	}
}

// idle returns a pruner that does not run.
func (s *service) idle() *debezium.Pruner {
	s.t.Helper()
	p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{Slot: s.slot})
	must(s.t, err)
	return p
}

func TestRule17_OnlyConfirmedRowsArePruned(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	s.add(10)
	p := s.idle()
	if _, _, err := p.Survey(t.Context()); !errors.Is(err, debezium.ErrInactive) {
		t.Fatalf("without a connector: %v", err)
	}
	r := s.read()
	round := s.survey(p, 10)
	s.settles(p, round, false, false)
	s.add(5)
	eventually(t, "the round is confirmed", func() bool {
		r.confirm()
		pruned, void, err := p.Settle(t.Context(), round)
		return pruned && !void && err == nil
	})
	if n := s.depth("outbox"); n != 5 {
		t.Errorf("%d rows stay, want the 5 that came later", n)
	}
	s.run(p.Run)
	r.confirmed(p, 15)
}

// What was committed before the slot was created is only in the connector's snapshot, which may yet be under way: on a
// quiet server the slot seems to have confirmed it.
func TestRule17_RowsOlderThanTheSlotAwaitTheSnapshot(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.add(10)
	s.createSlot()
	r := s.read()
	p := s.idle()
	r.confirm() // no more than the slot's own position on a quiet server
	s.settles(p, s.survey(p, 10), false, false)
	s.run(p.Run)
	r.confirmed(p, 10)
}

// A transaction that takes its numbers early and commits late has lower ones than what was confirmed meanwhile.
func TestRule17_LateCommitIsNotPrunedEarly(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	r := s.read()
	tx := s.db.Begin()
	must(t, s.box.PublishTx(tx, "topic", message.NewMessage("late", nil)))
	s.add(10)
	p := s.idle()
	round := s.survey(p, 10)
	must(t, tx.Commit().Error)
	eventually(t, "the round is confirmed", func() bool {
		r.confirm()
		pruned, _, err := p.Settle(t.Context(), round)
		return pruned && err == nil
	})
	if n := s.depth("outbox"); n != 1 {
		t.Fatalf("%d rows stay, want the late one", n)
	}
	s.run(p.Run)
	r.confirmed(p, 11)
}

// A slot that was dropped and created again has confirmed nothing of what is in the table, though its position is
// further.
func TestRule17_AnotherSlotOfTheSameNameConfirmsNothing(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	r := s.read()
	s.add(10)
	p := s.idle()
	round := s.survey(p, 10)
	r.close()
	s.dropSlot()
	s.createSlot()
	s.read()
	s.settles(p, round, false, true)
	if n := s.depth("outbox"); n != 10 {
		t.Fatalf("%d rows stay", n)
	}
}

// A slot that is being created has no position yet. What is in the table then is not what the connector will read from
// the log, so a round must not begin.
func TestRule17_ASlotThatIsBeingCreatedIsNotRead(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.add(3)
	tx := s.db.Begin()
	defer tx.Rollback()
	must(t, tx.Exec("SELECT pg_current_xact_id()").Error) // the slot begins behind it
	created := make(chan error, 1)
	go func() {
		created <- s.db.Exec("SELECT pg_create_logical_replication_slot(?, 'pgoutput')", s.slot).Error
	}()
	p := s.idle()
	eventually(t, "the slot is there", func() bool {
		_, _, err := p.Survey(t.Context())
		return !errors.Is(err, debezium.ErrNoSlot)
	})
	if _, n, err := p.Survey(t.Context()); !errors.Is(err, debezium.ErrInactive) {
		t.Errorf("a round of %d: %v", n, err)
	}
	must(t, tx.Rollback().Error)
	must(t, <-created)
	s.dropSlot()
}

// A round whose deletion was not committed is not deleted.
func TestPrunedCountsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	s.add(3)
	r := s.read()
	must(t, s.db.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'not now'; END $$`).Error)
	must(t, s.db.Exec(`CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON outbox DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION refuse()`).Error)
	p := s.idle()
	round := s.survey(p, 3)
	eventually(t, "the commit is refused", func() bool {
		r.confirm()
		confirmed, _, err := p.Settle(t.Context(), round)
		return confirmed && err != nil
	})
	if n := p.Pruned(); n != 0 || s.depth("outbox") != 3 {
		t.Errorf("pruned %d, %d rows stay", n, s.depth("outbox"))
	}
}

func TestPrunerNeedsTheSlot(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.add(3)
	p, stop := s.pruner()
	if err := p.Healthy(t.Context()); !errors.Is(err, debezium.ErrNoSlot) || s.depth("outbox") != 3 {
		t.Errorf("%v, %d rows", err, s.depth("outbox"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain: %v", err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, debezium.ErrRunning) {
		t.Errorf("Run: %v", err)
	}
	stop()
}

func TestConnectorThatIsBehindIsUnhealthy(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	r := s.read()
	s.add(3)
	p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{
		Slot: s.slot, Interval: 10 * time.Millisecond, BehindAfter: time.Millisecond,
	})
	must(t, err)
	s.run(p.Run)
	eventually(t, "it is behind", func() bool { return errors.Is(p.Healthy(t.Context()), debezium.ErrBehind) })
	r.confirmed(p, 3)
	eventually(t, "it is well", func() bool { return p.Healthy(t.Context()) == nil })
}

func TestPrunerIsHealthyWhileItRunsAndMoves(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	s.read()
	p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{Slot: s.slot, Interval: 10 * time.Millisecond})
	must(t, err)
	eventually(t, "it does not run", func() bool { return errors.Is(p.Healthy(t.Context()), debezium.ErrStopped) })
	stop := s.run(p.Run)
	eventually(t, "it runs", func() bool { return p.Healthy(t.Context()) == nil })
	must(t, s.db.Exec("ALTER TABLE outbox_scheduled RENAME TO hidden").Error)
	eventually(t, "it cannot move", func() bool { return p.Healthy(t.Context()) != nil })
	must(t, s.db.Exec("ALTER TABLE hidden RENAME TO outbox_scheduled").Error)
	eventually(t, "it moves", func() bool { return p.Healthy(t.Context()) == nil })
	stop()
	if err := p.Healthy(t.Context()); !errors.Is(err, debezium.ErrStopped) {
		t.Errorf("stopped: %v", err)
	}
}

func TestRule14_PrunerMovesScheduledMessagesInOrder(t *testing.T) {
	t.Parallel()
	s := newService(t)
	soon := time.Now().Add(300 * time.Millisecond)
	must(t, s.unit.Do(t.Context(), func(ctx context.Context) error {
		for i, after := range []time.Duration{20 * time.Millisecond, 0, 10 * time.Millisecond, 0} {
			at := soon.Add(after).Format(time.RFC3339Nano)
			sp := specimen{key: "k", metadata: message.Metadata{outbox.HeaderDeliverAt: at, "n": "1"}}
			if err := s.publish(ctx, "topic", strconv.Itoa(i), sp); err != nil {
				return err
			}
		}
		return uow.DB(ctx).Exec("INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, " +
			"payload) VALUES (9000000000000000, 0, 'far', 't', '', '', '{}', '')").Error
	}))
	s.pruner()
	s.pruner() // a second one harms nothing
	eventually(t, "they move", func() bool { return s.depth("outbox_scheduled") == 1 })
	if n := s.depth("outbox"); n != 4 || time.Now().Before(soon) {
		t.Errorf("%d moved, %v early", n, time.Until(soon))
	}
	var ids string
	must(t, s.db.Raw("SELECT string_agg(id, ' ' ORDER BY seq) FROM outbox WHERE aggregateid = 'k' AND shard = ?"+
		" AND headers::jsonb = ?::jsonb", outbox.ShardOf("k"), `{"n":"1","ce_partitionkey":"k"}`).Scan(&ids).Error)
	if ids != "1 3 2 0" {
		t.Errorf("order %s", ids)
	}
}

func TestPrunerIsChecked(t *testing.T) {
	t.Parallel()
	db := outboxtest.Open(t, sqlite.Open(outboxtest.File(t)))
	if _, err := debezium.NewPruner(db, debezium.PrunerConfig{}); !errors.Is(err, debezium.ErrDialect) {
		t.Errorf("SQLite: %v", err)
	}
	if _, err := debezium.NewPruner(nil, debezium.PrunerConfig{}); err == nil {
		t.Error("nil is taken")
	}
	bad := debezium.PrunerConfig{Slot: "No Slot", Interval: -1, Round: -1, BehindAfter: time.Microsecond}
	err := bad.Validate()
	for _, field := range []string{"Slot", "Interval", "Round", "BehindAfter"} {
		if err == nil || !strings.Contains(err.Error(), "PrunerConfig."+field) {
			t.Errorf("nothing about %s: %v", field, err)
		}
	}
}
