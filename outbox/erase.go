package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/surge-go/surge/outbox/uow"
)

// Erased counts what [Outbox.Erase] deleted, by where it was.
type Erased struct {
	Waiting   int64 // on their way
	Scheduled int64
	Retrying  int64
	Dead      int64 // and records of what was done about dead ones
	Archived  int64
}

// Erase deletes all messages of a key wherever the outbox keeps them, of one topic or, with topic "", of all: when a
// person wants to be forgotten, say. They are not published any more, except those that a relay is publishing at
// this moment or has read already. Replayed and discarded messages go with the record of who did it. It joins the
// unit of work in ctx, else it is a transaction of its own. It reads all of the archive.
//
// The outbox forgets who asked for it too, since it would have to keep the key: the action is logged, with the counts
// and without the key.
func (o *Outbox) Erase(ctx context.Context, key, topic string, a Action) (Erased, error) {
	if err := a.validate(); err != nil {
		return Erased{}, err
	}
	if key == "" {
		return Erased{}, errors.New("outbox: Erase needs a key")
	}
	run, err := o.alone(ctx, uow.Config{MaxShare: 1, PartTimeout: -1})
	if err != nil {
		return Erased{}, err
	}
	var e Erased
	err = run(ctx, func(ctx context.Context) error {
		e, err = o.erase(execer{ctx, o.joined(ctx), o.dialect}, key, topic)
		return err
	})
	if err != nil {
		return Erased{}, fmt.Errorf("outbox: erase: %w", err)
	}
	o.cfg.Logger.Info("outbox erased a key", "actor", a.Actor, "reason", a.Reason, "waiting", e.Waiting,
		"scheduled", e.Scheduled, "retrying", e.Retrying, "dead", e.Dead, "archived", e.Archived)
	return e, nil
}

func (o *Outbox) erase(x execer, key, topic string) (e Erased, err error) {
	where, args := x.dialect.is("aggregateid", key)
	if topic != "" {
		cond, more := x.dialect.is("topic", topic)
		where, args = where+" AND "+cond, append(args, more...)
	}
	var today int64
	if err := x.conn.QueryRowContext(x.ctx, x.dialect.sql("SELECT "+x.dialect.today())).Scan(&today); err != nil {
		return e, err
	}
	recent := " AND day >= " + itoa(today-1)
	// In the order in which messages move, so that none that does meanwhile is missed. Dead ones may be replayed. Relays
	// wait for what is locked in their tables, so these come after the archive, of which the end is read again.
	for _, t := range []struct {
		name, more string
		n          *int64
	}{
		{"outbox_archive", "", &e.Archived},
		{"outbox_dead", "", &e.Dead},
		{"outbox_scheduled", "", &e.Scheduled},
		{"outbox", "", &e.Waiting},
		{"outbox_retry", "", &e.Retrying},
		{"outbox_dead", "", &e.Dead},
		{"outbox_archive", recent, &e.Archived},
	} {
		n, err := x.exec("DELETE FROM "+t.name+" WHERE "+where+t.more, args...)
		if err != nil {
			return e, err
		}
		*t.n += n
	}
	return e, nil
}
