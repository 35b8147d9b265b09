package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Config configures an Outbox; the zero value works.
type Config struct {
	// PollOnly keeps an outbox on PostgreSQL from notifying relays of other processes after commits (see [Channel]);
	// they poll. Set it where nobody can listen, as behind PgBouncer in transaction mode. A notification is a
	// statement on a connection of the pool, at most 20 a second whatever the number of commits, and none while a
	// relay of this process publishes all shards. Other databases have no notifications.
	PollOnly bool
	// Logger hears of what operators do. nil discards.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate joins every fault of the configuration; there is none to make yet.
func (c Config) Validate() error { return nil }

// Outbox is a Watermill publisher that writes messages to the transaction in their context. It is safe for
// concurrent use.
type Outbox struct {
	db      *gorm.DB
	dialect dialect
	cfg     Config
	checked atomic.Bool // the database has our number of shards

	mu    sync.Mutex
	wakes map[*Relay]struct{} // relays of this process

	notifier notifier // of relays of other processes
	metrics  atomic.Pointer[Metrics]
}

var _ message.Publisher = (*Outbox)(nil)

// New returns an Outbox over db, which must be PostgreSQL, MySQL, MariaDB or SQLite and have the package's tables
// (see [Migrate]). It does not touch the database.
func New(db *gorm.DB, cfg Config) (*Outbox, error) {
	if db == nil {
		return nil, errors.New("outbox: New needs a database, got nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d, err := dialectOf(db)
	if err != nil {
		return nil, err
	}
	o := &Outbox{db: db, dialect: d, cfg: cfg.withDefaults(), wakes: map[*Relay]struct{}{}}
	if d.postgres() && !cfg.PollOnly {
		o.notifier.send = o.sendNotification
	}
	return o, nil
}

// Publish adds msgs to the unit of work in each message's context. They are inserted just before the commit, all
// messages of all parts of the transaction by one statement, and leave only if the part that published them
// commits. A message whose context carries no unit of work is refused with [uow.ErrNoTransaction], and then none
// of msgs is taken. Metadata is copied; the payload must not change until the commit.
//
// Refused too are a message that is nil and what a database would not keep as it is: a topic, or an id, key or type,
// that has more than 255 characters, is not UTF-8 or holds a NUL, and other metadata that is not UTF-8.
//
// The order per topic and key is the order of commits for writers that hold a lock on what the key stands for
// (they changed its row) while they publish.
func (o *Outbox) Publish(topic string, msgs ...*message.Message) error {
	if err := noneIsNil(topic, msgs); err != nil {
		return err
	}
	records := make([]record, len(msgs))
	for i, m := range msgs {
		if err := uow.BeforeCommitLast(m.Context(), o, o.flush); err != nil { // and take nothing yet
			return fmt.Errorf("outbox: publish %s to %s: %w", m.UUID, topic, err)
		}
		r, err := newRecord(topic, m)
		if err != nil {
			return err
		}
		records[i] = r
	}
	for len(msgs) > 0 { // as a rule all have one context
		ctx, n := msgs[0].Context(), 1
		for n < len(msgs) && same(msgs[n].Context(), ctx) {
			n++
		}
		if err := uow.BeforeCommitLast(ctx, o, o.flush, records[:n]...); err != nil {
			return fmt.Errorf("outbox: publish to %s: %w", topic, err)
		}
		msgs, records = msgs[n:], records[n:]
	}
	return nil
}

func noneIsNil(topic string, msgs []*message.Message) error {
	if i := slices.Index(msgs, nil); i >= 0 {
		return fmt.Errorf("outbox: publish to %s: message %d of %d is nil", topic, i+1, len(msgs))
	}
	return nil
}

// same reports whether two contexts are certainly one; a context may be of a type that cannot be compared.
func same(a, b context.Context) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// flush inserts what a transaction's parts published.
func (o *Outbox) flush(ctx context.Context, records []record) error {
	if len(records) == 0 {
		return nil
	}
	if err := o.verify(ctx, uow.DB(ctx).Statement.ConnPool); err != nil {
		return err
	}
	if err := o.insert(ctx, uow.QueueRaw, records); err != nil {
		return err
	}
	for i := range records {
		if records[i].due != 0 {
			return uow.AfterCommit(ctx, o.wakeAll)
		}
	}
	return uow.AfterCommit(ctx, o.wake)
}

// PublishTx inserts msgs at once, in a transaction of the caller's own; their contexts are not looked at. Call it
// last, when the rows that the keys stand for are locked and nothing but the commit is to come: the messages get
// their place in the order now, and on PostgreSQL relays look back for them until the transaction ends. Relays learn
// of the commit by polling. A handle that is not a transaction is refused with [ErrNoTransaction], and a message as
// [Outbox.Publish] refuses it.
func (o *Outbox) PublishTx(tx *gorm.DB, topic string, msgs ...*message.Message) error {
	if tx == nil {
		return ErrNoTransaction
	}
	if _, ok := tx.Statement.ConnPool.(gorm.TxCommitter); !ok {
		return ErrNoTransaction
	}
	if len(msgs) == 0 {
		return nil
	}
	if err := noneIsNil(topic, msgs); err != nil {
		return err
	}
	records := make([]record, len(msgs))
	for i, m := range msgs {
		r, err := newRecord(topic, m)
		if err != nil {
			return err
		}
		records[i] = r
	}
	ctx := tx.Statement.Context
	if err := o.verify(ctx, tx.Statement.ConnPool); err != nil {
		return err
	}
	if err := o.insert(ctx, onConn(tx.Statement.ConnPool), records); err != nil {
		return err
	}
	o.wake()
	return nil
}

// Close sends the notification that is pending, if any, and ends notifications; otherwise an Outbox has nothing to
// close, and goes on to publish. It makes Outbox a message.Publisher. An idle Outbox has no goroutine, so not calling
// Close leaks nothing; call it before the database is closed.
func (o *Outbox) Close() error {
	o.notifier.close()
	return nil
}

// verify compares the recorded number of shards with ours, once.
func (o *Outbox) verify(ctx context.Context, conn gorm.ConnPool) error {
	if o.checked.Load() {
		return nil
	}
	var recorded string
	err := conn.QueryRowContext(ctx, "SELECT value FROM outbox_meta WHERE name = 'shards'").Scan(&recorded)
	if err != nil {
		return fmt.Errorf("outbox: read the number of shards (were the tables migrated?): %w", err)
	}
	if recorded != strconv.Itoa(Shards) {
		return fmt.Errorf("%w: %s recorded, %d here", ErrShards, recorded, Shards)
	}
	o.checked.Store(true)
	return nil
}

// wake tells relays that there is something to do: those of this process now, those of others in a moment.
func (o *Outbox) wake() {
	o.notifier.notify()
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := range o.wakes {
		r.reading.set()
	}
}

// wakeAll does the same, when some of it is scheduled.
func (o *Outbox) wakeAll() {
	o.wake()
	o.mu.Lock()
	defer o.mu.Unlock()
	for r := range o.wakes {
		r.waiting.set()
	}
}

func (o *Outbox) attach(r *Relay) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wakes[r] = struct{}{}
}

func (o *Outbox) detach(r *Relay) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.wakes, r)
}
