package cqrs_test

import (
	"context"
	"database/sql/driver"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
)

// A store that is back at once, or whose answer to COMMIT is lost, costs no attempt either; but a message that loses the
// connection each time is to blame.
func TestALostConnectionCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]error{
		"bad connection": fmt.Errorf("commit: %w", driver.ErrBadConn), "outcome unknown": &uow.OutcomeError{},
		"server shuts down": &pgconn.PgError{Code: "57P01"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { losesConnections(t, lost) })
		})
	}
}

func losesConnections(t *testing.T, lost error) {
	b := newDB()
	losses := 3
	b.refuse = func(st *tables) error {
		if st.rows["always"] > 0 || st.rows["n"] > 0 && losses > 0 {
			losses--
			return lost
		}
		return nil
	}
	s := newService(t, b, catalog(), b.config())
	cqrs.On(s.p, func(ctx context.Context, n note) error { return b.write(ctx, n.Text, 1) })
	s.run()
	synctest.Wait()
	s.deliver("shop.commands", noteMsg("1", "a", "n"))
	time.Sleep(time.Minute)
	synctest.Wait()
	if st := s.p.Stats(); b.row("n") != 1 || st.Failed != 0 {
		t.Errorf("n = %d, stats %+v", b.row("n"), st)
	}
	s.deliver("shop.commands", noteMsg("2", "b", "always"))
	time.Sleep(time.Hour)
	synctest.Wait()
	b.read(func(st *tables) {
		if d := st.dead["2"]; d.state != "dead" || d.Attempt != 5 {
			t.Errorf("dead letters %+v", st.dead)
		}
	})
}
