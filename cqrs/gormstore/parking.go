package gormstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"gorm.io/gorm"
)

// Parking is a [cqrs.Parking] in the table cqrs_parked. A queue's messages are in the order of seq; the first
// is marked as its head, and whoever looks whether a queue is parked locks the head until the commit. So an
// Append behind a head and a Consume of that head cannot miss each other. Two transactions that park the first
// message of a queue at the same time do not see each other, and mark one each: the later one waits all the same,
// for only the first message of a queue is leased, and nothing of a queue of which something is. It is safe for
// concurrent use.
type Parking struct{}

// NewParking returns the store. It uses the transaction in the context of each call, and returns
// [uow.ErrNoTransaction] where there is none.
func NewParking() *Parking { return &Parking{} }

// Parked reports which queues have messages.
func (p *Parking) Parked(ctx context.Context, group string, queues []string) ([]bool, error) {
	tx := uow.DB(ctx)
	if none, err := idle(tx, group); none || err != nil {
		return make([]bool, len(queues)), err
	}
	locked := make(map[string]bool, len(queues))
	err := chunks(queues, func(queues []string) error {
		names, err := lockHeads(tx, group, queues)
		for _, q := range names {
			locked[q] = true
		}
		return err
	})
	parked := make([]bool, len(queues))
	for i, q := range queues {
		parked[i] = locked[q]
	}
	return parked, err
}

// idle reports whether the group has no parked messages at all, as is usual: a question that is cheap to answer.
func idle(tx *gorm.DB, group string) (bool, error) {
	found, err := query[int](tx, "look for parked messages", "SELECT 1 FROM cqrs_parked WHERE grp=? LIMIT 1", group)
	return len(found) == 0, err
}

// lockHeads locks the heads of those queues that have one, and returns these queues.
func lockHeads(tx *gorm.DB, group string, queues []string) ([]string, error) {
	const heads = "SELECT queue FROM cqrs_parked WHERE grp=? AND queue IN ? AND head ORDER BY queue, seq"
	if tx.Name() != "postgres" {
		return query[string](tx, "look for parked queues", heads+locking(tx, "FOR UPDATE"), group, queues)
	}
	// PostgreSQL looks at the rows as they were when the statement began. If it had to wait for a head that was then
	// consumed, it does not see the one that was promoted meanwhile: the statement is repeated.
	type row struct {
		Queue  string
		Locked bool
	}
	var all []string
	for range maxLooks {
		rows, err := query[row](tx, "look for parked queues", "WITH locked AS ("+heads+" FOR UPDATE)"+
			" SELECT queue, TRUE AS locked FROM locked UNION ALL SELECT queue, FALSE FROM cqrs_parked p WHERE grp=?"+
			" AND queue IN ? AND NOT EXISTS (SELECT 1 FROM locked l WHERE l.queue=p.queue) GROUP BY queue",
			group, queues, group, queues)
		if err != nil {
			return nil, err
		}
		queues = nil
		for _, r := range rows {
			if r.Locked {
				all = append(all, r.Queue)
			} else {
				queues = append(queues, r.Queue)
			}
		}
		if len(queues) == 0 {
			return all, nil
		}
	}
	// They are busy, or have no head: give them one.
	return append(all, queues...), promote(tx, group, queues)
}

const maxLooks = 20

// Append puts messages at the end of their queues.
func (p *Parking) Append(ctx context.Context, messages []*cqrs.Parked) error {
	tx := uow.DB(ctx)
	for group, messages := range byGroup(messages) {
		queues := queuesOf(messages)
		known, err := p.known(ctx, group, queues)
		if err != nil {
			return err
		}
		// MySQL may have been told to count what it finds there as added (clientFoundRows).
		unsure := tx.Name() == "mysql" && slices.ContainsFunc(queues, func(q string) bool { return !known[q] })
		added := int64(0)
		err = chunks(messages, func(m []*cqrs.Parked) error {
			n, err := appendTo(tx, m, known)
			added += n
			return err
		})
		if err != nil {
			return err
		}
		if added == int64(len(messages)) && !unsure {
			continue
		}
		if err := promote(tx, group, queues); err != nil { // what was ignored may have been to be a head
			return err
		}
	}
	return nil
}

// queuesOf returns the messages' queues, sorted and distinct.
func queuesOf(messages []*cqrs.Parked) []string {
	queues := make([]string, len(messages))
	for i, m := range messages {
		queues[i] = m.Queue
	}
	slices.Sort(queues)
	return slices.Compact(queues)
}

// known returns which of the queues are parked already.
func (p *Parking) known(ctx context.Context, group string, queues []string) (map[string]bool, error) {
	parked, err := p.Parked(ctx, group, queues)
	known := make(map[string]bool, len(queues))
	for i, q := range queues {
		known[q] = parked[i]
	}
	return known, err
}

// appendTo returns how many of the messages were not there yet.
func appendTo(tx *gorm.DB, messages []*cqrs.Parked, known map[string]bool) (int64, error) {
	now := nowOn(tx)
	args := make([]any, 0, len(messages)*14)
	for _, m := range messages {
		values, err := recordArgs(&m.Record)
		if err != nil {
			return 0, err
		}
		args = append(args, values...)
		args = append(args, !known[m.Queue], m.Blocked, m.Dead, max(m.Delay, 0).Microseconds())
		known[m.Queue] = true
	}
	onDup := " ON CONFLICT (grp,id) DO NOTHING"
	if tx.Name() == "mysql" {
		onDup = " ON DUPLICATE KEY UPDATE cqrs_parked.id=cqrs_parked.id"
	}
	return exec(tx, "park messages", "INSERT INTO cqrs_parked ("+recordColumns+",head,blocked,dead,due_at) VALUES "+
		strings.TrimSuffix(strings.Repeat("(?,?,?,?,?,?,?,?,?,?,?,?,?,"+now+"+?),", len(messages)), ",")+onDup, args...)
}

type parkedRow struct {
	Record        recordRow `gorm:"embedded"` // GORM does not see what an unexported name embeds
	Blocked, Dead bool
	Lease         string
}

func (r parkedRow) parked(lease string) (*cqrs.Parked, error) {
	rec, err := r.Record.record()
	return &cqrs.Parked{Record: rec, Blocked: r.Blocked, Dead: r.Dead, Lease: lease}, err
}

// Lease returns heads that are due, each followed by those of its queue that are due too, at most limit.
func (p *Parking) Lease(ctx context.Context, group string, limit int, ttl time.Duration) ([]*cqrs.Parked, error) {
	tx := uow.DB(ctx)
	var rows []parkedRow
	for seen, left := []string{""}, limit; left > 0; { // queues that have to wait must not keep others from being leased
		heads, err := dueHeads(tx, group, seen, left)
		if err != nil {
			return nil, err
		}
		if len(heads) > 0 {
			more, err := followers(tx, group, heads, left)
			if err != nil {
				return nil, err
			}
			rows = append(rows, more...)
		}
		if len(heads) < left {
			break
		}
		for _, h := range heads {
			seen = append(seen, h.Queue)
		}
		left = limit - len(rows)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	lease := rand.Text()
	leased := make([]*cqrs.Parked, len(rows))
	ids := make([]string, len(rows))
	for i, r := range rows {
		var err error
		ids[i] = r.Record.ID
		if leased[i], err = r.parked(lease); err != nil {
			return nil, err
		}
	}
	err := chunks(ids, func(ids []string) error {
		_, err := exec(tx, "lease messages", "UPDATE cqrs_parked SET lease=?, lease_until="+nowOn(tx)+"+? WHERE grp=?"+
			" AND id IN ?", lease, ttl.Microseconds(), group, ids)
		return err
	})
	return leased, err
}

// dueHeads locks heads that are due, of queues that were not seen yet. It looks at nothing else: MySQL, when it knows
// little about the table, would look through all of it for each of them.
func dueHeads(tx *gorm.DB, group string, seen []string, limit int) ([]headRow, error) {
	now := nowOn(tx)
	return query[headRow](tx, "find due messages", "SELECT queue, seq FROM cqrs_parked WHERE grp=? AND head AND"+
		" NOT blocked AND due_at<="+now+" AND lease_until<="+now+" AND queue NOT IN ? ORDER BY due_at LIMIT ?"+
		locking(tx, "FOR UPDATE SKIP LOCKED"), group, seen, limit)
}

// headRow is a head that is locked.
type headRow struct {
	Queue string
	Seq   int64
}

// followers returns the leading messages of the heads' queues that may run now: every head, and behind it what is
// neither blocked nor waiting for a time of its own, in rounds so that no queue starves another. A queue of which
// something is leased, or whose first message is no longer the head that is locked, has to wait.
func followers(tx *gorm.DB, group string, heads []headRow, limit int) ([]parkedRow, error) {
	now := nowOn(tx)
	type row struct {
		Row         parkedRow `gorm:"embedded"`
		Seq         int64
		Due, Leased bool
		Rank        int
	}
	queues, first := make([]string, len(heads)), make(map[string]int64, len(heads))
	for i, h := range heads {
		queues[i] = h.Queue
		if seq, twice := first[h.Queue]; !twice || h.Seq < seq {
			first[h.Queue] = h.Seq
		}
	}
	rows, err := query[row](tx, "read due messages", "SELECT * FROM (SELECT "+recordColumns+",blocked,dead,lease,seq,"+
		"due_at<="+now+" AS due, lease_until>"+now+" AS leased, ROW_NUMBER() OVER (PARTITION BY queue ORDER BY seq) AS "+
		rank(tx)+" FROM cqrs_parked WHERE grp=? AND queue IN ?) q WHERE "+rank(tx)+"<=? ORDER BY seq",
		group, queues, 1+limit/len(queues))
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.Rank, b.Rank) })
	stopped := map[string]bool{}
	for _, r := range rows {
		queue := r.Row.Record.Queue
		stopped[queue] = stopped[queue] || r.Leased || r.Rank == 1 && r.Seq != first[queue]
	}
	var run []parkedRow
	for _, r := range rows {
		queue := r.Row.Record.Queue
		if len(run) == limit || stopped[queue] || r.Row.Blocked || !r.Due {
			stopped[queue] = true
			continue
		}
		run = append(run, r.Row)
	}
	return run, nil
}

// rank quotes a word that MySQL 8 reserves.
func rank(tx *gorm.DB) string { return tx.Statement.Quote("rank") }

// Reschedule rewrites messages that are there and ends their leases.
func (p *Parking) Reschedule(ctx context.Context, messages []*cqrs.Parked) error {
	tx := uow.DB(ctx)
	now := nowOn(tx)
	for _, m := range messages {
		metadata, failures, err := texts(&m.Record)
		if err != nil {
			return err
		}
		sql := "UPDATE cqrs_parked SET attempt=?, failures=?, blocked=?, dead=?, payload=?, metadata=?, due_at=" + now +
			"+?, lease='', lease_until=0 WHERE grp=? AND id=?"
		args := []any{
			m.Attempt, failures, m.Blocked, m.Dead, payloadOf(&m.Record), metadata,
			max(m.Delay, 0).Microseconds(), m.Group, m.ID,
		}
		if m.Lease != "" {
			sql += " AND lease=?"
			args = append(args, m.Lease)
		}
		n, err := exec(tx, "reschedule a message", sql, args...)
		if err != nil {
			return err
		}
		if n == 0 && m.Lease != "" {
			return fmt.Errorf("gormstore: message %s: %w", m.ID, cqrs.ErrLeaseLost)
		}
	}
	return nil
}

// Consume removes messages and makes the next of each queue its head.
func (p *Parking) Consume(ctx context.Context, messages []*cqrs.Parked) error {
	tx := uow.DB(ctx)
	for group, messages := range byGroup(messages) {
		var queues, free []string
		for _, m := range messages {
			queues = append(queues, m.Queue)
			if m.Lease == "" {
				free = append(free, m.Queue)
			}
		}
		if err := p.hold(ctx, group, free); err != nil {
			return err
		}
		if err := removeLeased(tx, group, messages); err != nil {
			return err
		}
		if err := promote(tx, group, queues); err != nil {
			return err
		}
	}
	return nil
}

// hold locks the heads of queues from whose middle something may be removed: a concurrent Consume of a head would
// choose as the next one what is about to go, and leave the queue without.
func (p *Parking) hold(ctx context.Context, group string, queues []string) error {
	slices.Sort(queues)
	_, err := p.Parked(ctx, group, slices.Compact(queues))
	return err
}

func removeLeased(tx *gorm.DB, group string, messages []*cqrs.Parked) error {
	byLease := map[string][]string{}
	for _, m := range messages {
		byLease[m.Lease] = append(byLease[m.Lease], m.ID)
	}
	for lease, ids := range byLease {
		sql, args := "DELETE FROM cqrs_parked WHERE grp=? AND id IN ?", []any{group, nil}
		if lease != "" {
			sql, args = sql+" AND lease=?", append(args, lease)
		}
		slices.Sort(ids)
		err := chunks(ids, func(ids []string) error {
			args[1] = ids
			n, err := exec(tx, "consume messages", sql, args...)
			if err == nil && lease != "" && n != int64(len(ids)) {
				return fmt.Errorf("gormstore: %d of %d messages: %w", int64(len(ids))-n, len(ids), cqrs.ErrLeaseLost)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// promote marks the first message of each queue as its head. It must come after the rows before it are gone:
// a concurrent Append holds the old head's lock, so what it has appended is seen here.
func promote(tx *gorm.DB, group string, queues []string) error {
	slices.Sort(queues)
	return chunks(slices.Compact(queues), func(queues []string) error {
		_, err := exec(tx, "promote messages", "UPDATE cqrs_parked SET head=? WHERE NOT head AND seq IN (SELECT first FROM"+
			" (SELECT MIN(seq) AS first FROM cqrs_parked WHERE grp=? AND queue IN ? GROUP BY queue) heads)",
			true, group, queues)
		return err
	})
}

func byGroup(messages []*cqrs.Parked) map[string][]*cqrs.Parked {
	groups := map[string][]*cqrs.Parked{}
	for _, m := range messages {
		groups[m.Group] = append(groups[m.Group], m)
	}
	return groups
}
