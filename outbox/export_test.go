package outbox

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// AppendHeaders encodes the headers column.
var AppendHeaders = appendHeaders

// ParseHeaders is its inverse.
func ParseHeaders(b []byte) (message.Metadata, error) { return parseHeaders(string(b)) }

// StoreMove has a relay that has leases move a message that was read under a lease with the given epoch, as it does
// if the lease was lost and won back meanwhile. It reports whether the move is still pending.
func StoreMove(ctx context.Context, o *Outbox, seq int64, shard int, read, now int64) (pending bool, err error) {
	r, err := NewRelay(o, nobody{}, RelayConfig{})
	if err != nil {
		return false, err
	}
	r.reset(ctx, ctx)
	r.held[shard] = now
	r.enqueueMove(record{seq: seq, shard: shard, epoch: read})
	err = r.unit.Do(ctx, func(ctx context.Context) error {
		return uow.DB(ctx).Exec("UPDATE outbox_lease SET owner = ?, epoch = ? WHERE shard = ?", r.owner, now, shard).Error
	})
	if err != nil {
		return false, err
	}
	err = r.storeMoves(ctx)
	return len(r.moves) > 0, err
}

type nobody struct{ message.Publisher }

// TendArchive does what a relay does about the archive, when the database's clock is some days on.
func TendArchive(ctx context.Context, o *Outbox, keep time.Duration, daysOn int) error {
	later, err := Skewed(o, time.Duration(daysOn)*day)
	if err != nil {
		return err
	}
	r, err := NewRelay(later, nobody{}, RelayConfig{Archive: keep})
	if err != nil {
		return err
	}
	return r.tendArchive(ctx)
}

// Skewed returns the same outbox as if its database's clock were ahead of what it is.
func Skewed(o *Outbox, by time.Duration) (*Outbox, error) {
	skewed, err := New(o.db, o.cfg)
	if err == nil {
		skewed.dialect.clock = "(" + o.dialect.clock + " + " + itoa(by.Microseconds()) + ")"
	}
	return skewed, err
}

// DrainSome is Drain for the first n messages.
func DrainSome(ctx context.Context, r *Relay, n int64) error {
	var nth int64
	query := r.dialect.sql("SELECT max(seq) FROM (SELECT seq FROM outbox ORDER BY seq LIMIT ?) AS x")
	err := r.pool.QueryRowContext(ctx, query, n).Scan(&nth)
	if err != nil {
		return err
	}
	return r.drain(ctx, nth)
}

// A Horizon is what a reader knows of open transactions.
type Horizon struct{ h horizon }

// NewHorizon returns one that knows nothing yet.
func NewHorizon() *Horizon { return &Horizon{horizon{open: map[int64]int64{}}} }

// Open returns how many transactions it knows to be open.
func (h *Horizon) Open() int { return len(h.h.open) }

// Passed reports whether all up to top was visible when it took notice.
func (h *Horizon) Passed(top int64) bool { return top <= h.h.upTo }

// Note takes notice of a snapshot in PostgreSQL's text form.
func (h *Horizon) Note(text string, now, top int64) error {
	var s snapshot
	err := s.parse(text)
	h.h.note(s, now, top)
	return err
}

// Ended forgets what has ended by a snapshot.
func (h *Horizon) Ended(text string) (back int64, err error) {
	var s snapshot
	err = s.parse(text)
	return h.h.ended(s), err
}

// LeaseLocks returns, of one relay, what renews its leases and what locks them, on a connection.
func LeaseLocks(o *Outbox, owner string) (renew, lock func(ctx context.Context, conn gorm.ConnPool) error, err error) {
	r, err := NewRelay(o, nobody{}, RelayConfig{Owner: owner})
	if err != nil {
		return nil, nil, err
	}
	r.reset(context.Background(), context.Background())
	renew = func(ctx context.Context, conn gorm.ConnPool) error {
		_, err := r.renewIn(ctx, conn, false, nil)
		return err
	}
	lock = func(ctx context.Context, conn gorm.ConnPool) error {
		_, err := r.heldIn(ctx, conn, r.dialect.update)
		return err
	}
	return renew, lock, nil
}

// Renewal returns what renews the leases of a relay that knows of none, and tells in which shards it found retries.
func Renewal(o *Outbox, owner string) (func(ctx context.Context) (retrying []int, err error), error) {
	r, err := NewRelay(o, nobody{}, RelayConfig{Owner: owner})
	if err != nil {
		return nil, err
	}
	r.reset(context.Background(), context.Background())
	return func(ctx context.Context) (retrying []int, err error) {
		c, err := r.renew(ctx, false)
		for _, b := range c.blockade {
			retrying = append(retrying, b.shard)
		}
		return retrying, err
	}, nil
}

// Statements returns how many bytes of text each statement has that inserts messages, as on MySQL.
func Statements(o *Outbox, topic string, msgs ...*message.Message) (sizes []int, err error) {
	o = &Outbox{db: o.db, dialect: dialects["mysql"]}
	records := make([]record, len(msgs))
	for i := range msgs {
		if records[i], err = newRecord(topic, msgs[i]); err != nil {
			return nil, err
		}
	}
	err = o.insert(context.Background(), func(_ context.Context, _ string, args ...any) error {
		size := 0
		for _, arg := range args {
			if text, ok := arg.(string); ok {
				size += len(text)
			}
		}
		sizes = append(sizes, size)
		return nil
	}, records)
	return sizes, err
}

// Resweep sets how often a relay that does not run yet reads the table from the beginning.
func Resweep(r *Relay, every time.Duration) { r.resweep = every }

// A Queue is what a topic has to publish.
type Queue struct{ s strand }

// Push appends a message to the queue.
func (q *Queue) Push(seq int64) { q.s.push(record{seq: seq, id: "x"}) }

// Pop takes messages from its front.
func (q *Queue) Pop(n int) (seqs []int64) {
	q.s.pop(n)
	for i := range q.s.batch {
		seqs = append(seqs, q.s.batch[i].seq)
	}
	return seqs
}

// Len returns how many there are.
func (q *Queue) Len() int { return len(q.s.queue) }

// Memory returns for how many there is memory, and how many of those places hold a message.
func (q *Queue) Memory() (places, taken int) {
	all := q.s.memory[:cap(q.s.memory)]
	for i := range all {
		if all[i].id != "" {
			taken++
		}
	}
	return len(all), taken
}

// Deletion is the statement that deletes rows from the outbox by their seq.
func Deletion(o *Outbox, seqs []int64) (string, []any) { return o.dialect.deletion("outbox", seqs) }

// CallContext returns the error of the context of a Publish that begins so long before the leases run out.
func CallContext(o *Outbox, left time.Duration) error {
	r, err := NewRelay(o, nobody{}, RelayConfig{})
	if err != nil {
		return err
	}
	r.reset(context.Background(), context.Background())
	r.valid = time.Now().Add(left)
	ctx, end := r.call(nil)
	defer end()
	return ctx.Err()
}

// Rooms returns how many messages a read may bring while a topic has 14 in a buffer of 20: first, once it was waited
// for, then, and when it has 10.
func Rooms(o *Outbox) (rooms []int, err error) {
	r, err := NewRelay(o, nobody{}, RelayConfig{Batch: 8, Buffer: 20})
	if err != nil {
		return nil, err
	}
	r.reset(context.Background(), context.Background())
	s := r.topic("topic").strands[0]
	s.running = true
	for range 14 {
		s.push(record{})
	}
	for _, late := range []bool{false, true, false} {
		rooms = append(rooms, r.leastRoom(10, late))
	}
	for range 2 {
		r.next(s)
	}
	return append(rooms, r.leastRoom(10, false)), nil
}
