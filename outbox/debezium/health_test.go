package debezium_test

import (
	"errors"
	"testing"
	"time"

	"github.com/surge-go/surge/outbox/debezium"
)

// Whatever holds the pruner up, also where no statement fails, what is published stays and what is due waits.
func TestPrunerThatIsHeldUpIsUnhealthy(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.createSlot()
	s.read()
	must(t, s.db.Exec("INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, payload) "+
		"VALUES (0, 0, 'due', 't', '', '', '{}', '')").Error)
	for name, hold := range map[string]string{
		"rows":            "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE",
		"what is due":     "LOCK TABLE outbox_scheduled IN ACCESS EXCLUSIVE MODE",
		"another's moves": "SELECT value FROM outbox_meta WHERE name = 'shards' FOR UPDATE",
	} {
		t.Run(name, func(t *testing.T) {
			tx := s.db.Begin()
			t.Cleanup(func() { tx.Rollback() })
			must(t, tx.Exec(hold).Error)
			p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{
				Slot: s.slot, Interval: 10 * time.Millisecond, BehindAfter: 50 * time.Millisecond,
			})
			must(t, err)
			defer s.run(p.Run)()
			eventually(t, "it is behind", func() bool { return errors.Is(p.Healthy(t.Context()), debezium.ErrBehind) })
		})
	}
}
