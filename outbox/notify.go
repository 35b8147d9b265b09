package outbox

import (
	"context"
	"sync"
	"time"
)

// Channel is the PostgreSQL channel on which an [Outbox] tells other processes of its commits. A notification's
// payload is the object id of the outbox table, since several schemas of a database may have one; see the package
// outbox/pglisten, which listens.
const Channel = "surge_outbox"

const (
	notifyWindow  = 50 * time.Millisecond // at most one notification in it; a relay that was woken polls more often
	notifyTimeout = 2 * time.Second       // for the statement
	notifyRest    = time.Second           // after a failure
)

// notifySQL is a transaction of its own: inside the one that publishes it would serialize all commits of the
// server. It does not wait for the disk, which a notification, having a transaction id, otherwise does.
const notifySQL = `SELECT set_config('synchronous_commit', 'off', true),
	pg_notify('` + Channel + `', 'outbox'::regclass::oid::text)`

// A notifier passes commits on: the first at once, and those that come before the window is over by one call at its
// end. It has a goroutine while a call is under way, and a timer until the window is over; idle it has neither.
type notifier struct {
	send func(context.Context) error // nil: off

	mu     sync.Mutex
	busy   bool // a call is under way, or its window not over
	again  bool // there were commits since the call began
	closed bool
	timer  *time.Timer
	calls  sync.WaitGroup
}

// notify passes a commit on. It does not block.
func (n *notifier) notify() {
	if n.send == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
	case n.busy:
		n.again = true
	default:
		n.busy = true
		n.calls.Go(n.call)
	}
}

func (n *notifier) call() {
	rest := notifyWindow
	if n.try() != nil {
		rest = notifyRest
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.timer = time.AfterFunc(rest, n.over)
	}
}

func (n *notifier) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	return n.send(ctx)
}

// over ends a window.
func (n *notifier) over() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.busy = n.again
	if n.again {
		n.again = false
		n.calls.Go(n.call)
	}
}

// close passes on what is pending and returns when no call is under way; later commits are not passed on.
func (n *notifier) close() {
	n.mu.Lock()
	pending := n.again && !n.closed
	n.closed = true
	if n.timer != nil {
		n.timer.Stop()
	}
	n.mu.Unlock()
	n.calls.Wait()
	if pending {
		_ = n.try() // it has said why; polling finds the messages
	}
}

// sendNotification tells the relays of other processes, if they have anything to do.
func (o *Outbox) sendNotification(ctx context.Context) error {
	if o.served() {
		return nil
	}
	pool, err := o.db.DB()
	if err == nil {
		_, err = pool.ExecContext(ctx, notifySQL)
	}
	if err != nil {
		o.cfg.Logger.Warn("outbox cannot notify; relays of other processes poll", "error", err)
	}
	return err
}

// served reports whether a relay of this process publishes all shards. A relay that gets one of them later reads
// the table from its beginning, so it needs no notification either.
func (o *Outbox) served() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := range o.wakes {
		if r.servesAll() {
			return true
		}
	}
	return false
}

func (r *Relay) servesAll() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, closing := range r.closing {
		if closing {
			return false
		}
	}
	return len(r.held) == Shards && time.Now().Before(r.valid)
}
