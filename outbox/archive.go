package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"gorm.io/gorm"
)

// An ArchiveFilter selects archived messages; a zero field selects all.
type ArchiveFilter struct {
	Topics []string  // any of them
	Key    string    // of the message
	After  int64     // messages behind this position: the Seq of the last message of an earlier reading
	Since  time.Time // published at this time or later, by the database's clock
	Until  time.Time // published before this time
	Limit  int       // at most so many; 0 means all
}

// An ArchivedMessage was published by a relay that archives.
type ArchivedMessage struct {
	Seq         int64 // its position: messages of one topic and key stand in the order in which they were committed
	Topic       string
	Message     *message.Message // with the metadata and the payload that were published, and the reader's context
	CreatedAt   time.Time        // when it entered the outbox, by the database's clock
	PublishedAt time.Time        // when its publication was recorded, by the database's clock
}

// archivePage is how many archived messages are read by one statement.
const archivePage = 500

// Archived reads what relays with [RelayConfig.Archive] have published, in the order of Seq, page by page. Each
// message is read once, whatever was published twice. It holds no transaction, and joins the unit of work in ctx.
//
// The order is the one in which messages entered the outbox, so one that was held up (it was retried, its topic was
// down) is archived later than messages behind it. A reading that goes on from a position misses what was archived
// before that position since. To rebuild a read model, read all that was published until now, then take what follows
// from the topic, with an inbox or a version guard against what comes twice.
//
// A Key or Topics filter reads every row of the days that Since and Until leave.
func (o *Outbox) Archived(ctx context.Context, f ArchiveFilter) iter.Seq2[ArchivedMessage, error] {
	return func(yield func(ArchivedMessage, error) bool) {
		if err := notNegative("ArchiveFilter.Limit", f.Limit); err != nil {
			yield(ArchivedMessage{}, err)
			return
		}
		f, left := f, f.Limit // each reading is a new one
		for {
			limit := archivePage
			if f.Limit > 0 {
				limit = min(limit, left)
			}
			page, err := o.archivePage(ctx, f, limit)
			if err != nil {
				yield(ArchivedMessage{}, fmt.Errorf("outbox: read the archive: %w", err))
				return
			}
			for _, m := range page {
				if !yield(m, nil) {
					return
				}
				f.After = m.Seq
			}
			left -= len(page)
			if len(page) < limit || f.Limit > 0 && left == 0 {
				return
			}
		}
	}
}

// where says the filter in SQL. The days bound which partitions are read; a message that was published at midnight
// may stand in the day before.
func (f ArchiveFilter) where(d dialect) (string, []any) {
	where, args := "seq > ?", []any{f.After}
	if !f.Since.IsZero() {
		where += " AND day >= ? AND published_at >= ?"
		args = append(args, f.Since.UnixMicro()/day.Microseconds()-1, f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		where += " AND day <= ? AND published_at < ?"
		args = append(args, f.Until.UnixMicro()/day.Microseconds(), f.Until.UnixMicro())
	}
	if f.Key != "" {
		is, more := d.is("aggregateid", f.Key)
		where, args = where+" AND "+is, append(args, more...)
	}
	for i, t := range f.Topics {
		is, more := d.is("topic", t)
		where, args = where+map[bool]string{true: " AND (", false: " OR "}[i == 0]+is, append(args, more...)
	}
	if len(f.Topics) > 0 {
		where += ")"
	}
	return where, args
}

func (o *Outbox) archivePage(ctx context.Context, f ArchiveFilter, limit int) (page []ArchivedMessage, err error) {
	where, args := f.where(o.dialect)
	x := execer{ctx, o.joined(ctx), o.dialect}
	err = x.query("SELECT seq, "+columns+", created_at, published_at FROM outbox_archive WHERE "+where+
		" ORDER BY seq LIMIT ?", append(args, limit), func(rows *sql.Rows) error {
		var rec record
		var created, published int64
		if err := rec.scan(rows, &created, &published); err != nil {
			return err
		}
		m, err := rec.message(ctx)
		if err != nil {
			return err
		}
		page = append(page, ArchivedMessage{
			Seq: rec.seq, Topic: rec.topic, Message: m,
			CreatedAt: time.UnixMicro(created), PublishedAt: time.UnixMicro(published),
		})
		return nil
	})
	return page, err
}

// day is the span of a partition of the archive.
const day = 24 * time.Hour

// today is the number of the day by the database's clock.
func (d dialect) today() string {
	if d.mysql() {
		return "({now} DIV " + itoa(day.Microseconds()) + ")"
	}
	return "({now} / " + itoa(day.Microseconds()) + ")"
}

// remove deletes published rows of outbox or outbox_retry, and archives them if the relay does. cond selects among
// them further; it may be empty. It returns how many there were.
func (r *Relay) remove(
	ctx context.Context, conn gorm.ConnPool, table string, seqs []int64, cond string, more ...any,
) (int64, error) {
	x := execer{ctx, conn, r.dialect}
	if r.cfg.Archive == 0 {
		query, args := r.dialect.deletion(table, seqs)
		return x.exec(query+cond, append(args, more...)...)
	}
	const kept = "seq, " + columns + ", created_at"
	into := "INSERT INTO outbox_archive (day, published_at, " + kept + ") SELECT " + r.dialect.today() + ", {now}, " + kept
	if r.dialect.postgres() {
		query, args := r.dialect.deletion(table, seqs)
		query = "WITH gone AS (" + query + cond + " RETURNING " + kept + ") " + into + " FROM gone"
		return x.exec(query, append(args, more...)...)
	}
	rows, args := r.dialect.rows(table, seqs)
	args = append(args, more...)
	if _, err := x.exec(into+" FROM "+rows+cond+r.dialect.update, args...); err != nil { // none is erased meanwhile
		return 0, err
	}
	query, _ := r.dialect.deletion(table, seqs)
	return x.exec(query+cond, args...)
}
