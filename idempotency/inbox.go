package idempotency

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/surge-go/surge/outbox/uow"
)

// DefaultInboxRetention is how long an inbox remembers messages: twice Kafka's default retention.
const DefaultInboxRetention = 14 * 24 * time.Hour

// InboxConfig configures an Inbox; the zero value works.
type InboxConfig struct {
	// Retention is how long a message is remembered. It must be longer than any topic can deliver it again.
	// 0 or less means [DefaultInboxRetention].
	Retention time.Duration
}

func (c InboxConfig) withDefaults() InboxConfig {
	if c.Retention <= 0 {
		c.Retention = DefaultInboxRetention
	}
	return c
}

// An Inbox remembers which messages a consumer group has handled, in the table idempotency_inbox, within the
// transaction of the handlers: a message counts as handled exactly when what it did is committed. It turns a bus
// that delivers at least once into effects that happen once. It satisfies cqrs.Inbox. It is safe for concurrent use.
type Inbox struct{ cfg InboxConfig }

// NewInbox returns an inbox. [Migrate] creates its table.
func NewInbox(cfg InboxConfig) *Inbox { return &Inbox{cfg.withDefaults()} }

// Claim notes ids as handled by group and reports which of them are new, in the order of ids. Of an id that occurs
// twice only the first can be new. An id or group has 1 to 255 bytes of UTF-8 without a zero byte, or the error is
// [ErrKey]. If another transaction is claiming one of them, Claim waits for it to end: only then is it known whether
// the message has been handled.
// Outside a transaction it returns uow.ErrNoTransaction.
func (i *Inbox) Claim(ctx context.Context, group string, ids []string) ([]bool, error) {
	fresh := make([]bool, len(ids))
	sorted, err := distinct(group, ids)
	if err != nil {
		return nil, err
	}
	if !uow.In(ctx) {
		return nil, fmt.Errorf("idempotency: inbox claim: %w", uow.ErrNoTransaction)
	}
	got := make([]string, 0, len(sorted))
	err = inChunks(sorted, func(chunk []string) error {
		inserted, err := i.insert(ctx, group, chunk)
		got = append(got, inserted...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("idempotency: inbox claim: %w", err)
	}
	isNew := make(map[string]bool, len(got))
	for _, id := range got {
		isNew[id] = true
	}
	for n, id := range ids {
		fresh[n] = isNew[id]
		delete(isNew, id)
	}
	return fresh, nil
}

// text refuses what is not kept, or not by every database.
func text(field, s string) error {
	switch {
	case s == "" || len(s) > MaxKeyPart:
		return fmt.Errorf("%w: inbox: %s has %d bytes, 1 to %d are allowed", ErrKey, field, len(s), MaxKeyPart)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%w: inbox: %s %q is not UTF-8, or has a zero byte", ErrKey, field, s)
	}
	return nil
}

func distinct(group string, ids []string) ([]string, error) {
	if err := text("group", group); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := text("message id", id); err != nil {
			return nil, err
		}
	}
	sorted := slices.Clone(ids)
	slices.Sort(sorted)
	return slices.Compact(sorted), nil
}

// insert inserts what is not there and returns it. Claims wait for each other in the order of ids, which is sorted, so
// that they do not deadlock.
func (i *Inbox) insert(ctx context.Context, group string, ids []string) ([]string, error) {
	token, keep := rand.Int64(), millis(i.cfg.Retention)
	s := statementIn(ctx)
	const into = " INTO idempotency_inbox (consumer, message, token, expires_at) "
	switch s.dialect {
	case postgres:
		s.add("INSERT"+into+"SELECT ?, m, ?, ? + "+s.dialect.now()+" FROM unnest(?::text[]) AS m "+
			"ON CONFLICT DO NOTHING", group, token, keep, ids)
	case sqlite:
		// One variable per message: the time that the driver takes to bind them grows with their square.
		s.add("INSERT"+into+"SELECT ?, v.column1, ?, ? + (SELECT "+s.dialect.now()+") FROM (", group, token, keep)
		s.values(len(ids), func(n int) (string, []any) { return "?", []any{ids[n]} })
		s.add(") AS v WHERE true ON CONFLICT DO NOTHING")
	default:
		s.add("INSERT IGNORE"+into).values(len(ids), func(n int) (string, []any) {
			return "?, ?, ?, ? + " + s.dialect.now(), []any{group, ids[n], token, keep}
		})
	}
	n, err := s.exec(ctx)
	if err != nil || int(n) == len(ids) { // as a rule all are new
		return ids, err
	}
	// Those with our token are ours.
	q := statementIn(ctx).add("SELECT message FROM idempotency_inbox WHERE consumer = ? AND token = ? AND message",
		group, token)
	return q.among(ids).strings(ctx)
}

// Unclaim forgets ids, as if they had never come. Unknown ids are ignored.
// Outside a transaction it returns uow.ErrNoTransaction.
func (i *Inbox) Unclaim(ctx context.Context, group string, ids []string) error {
	sorted, err := distinct(group, ids)
	if err != nil {
		return err
	}
	err = inChunks(sorted, func(chunk []string) error {
		q := statementIn(ctx).add("DELETE FROM idempotency_inbox WHERE consumer = ? AND message", group)
		_, err := q.among(chunk).exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("idempotency: inbox unclaim: %w", err)
	}
	return nil
}

// Purge forgets at most limit messages whose retention is over by the database's clock, and returns how many.
// Outside a transaction it returns uow.ErrNoTransaction; a [Sweeper] calls it in one.
func (i *Inbox) Purge(ctx context.Context, limit int) (int, error) {
	n, err := purge(ctx, "idempotency_inbox", "consumer, message", "", limit)
	if err != nil {
		return 0, fmt.Errorf("idempotency: inbox purge: %w", err)
	}
	return n, nil
}

// Empty reports whether nothing is remembered of group. A group with an inbox that is not empty whose position in a
// topic is gone must not start from the topic's beginning by itself: it has a past that the position does not show.
// Outside a transaction it returns uow.ErrNoTransaction.
func (i *Inbox) Empty(ctx context.Context, group string) (bool, error) {
	q := statementIn(ctx).add("SELECT message FROM idempotency_inbox WHERE consumer = ? LIMIT 1", group)
	found, err := q.strings(ctx)
	if err != nil {
		return false, fmt.Errorf("idempotency: inbox: %w", err)
	}
	return len(found) == 0, nil
}

// Retention returns how long messages are remembered. One older than that must become a dead letter, not run:
// nobody can tell any more whether it has run before.
func (i *Inbox) Retention() time.Duration { return i.cfg.Retention }

// CheckRetention returns [ErrRetention] if a topic keeps its messages as long as the inbox remembers them, or
// longer. topic is the topic's retention; negative means unlimited, as in Kafka.
func (i *Inbox) CheckRetention(topic time.Duration) error {
	if topic < 0 {
		return fmt.Errorf("%w: the topic keeps its messages for ever, the inbox remembers %v", ErrRetention, i.cfg.Retention)
	}
	if topic >= i.cfg.Retention {
		return fmt.Errorf("%w: the topic keeps its messages for %v, the inbox remembers %v",
			ErrRetention, topic, i.cfg.Retention)
	}
	return nil
}
