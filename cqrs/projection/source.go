package projection

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// A Source is what a generation is built from before it follows its topics. [FromTopics], [FromArchive] and
// [FromSnapshot] make one.
type Source interface {
	// check refuses a source that cannot give all that is needed, before anything is built.
	check(ctx context.Context, p *Projection) error
	// load fills the generation. It is called again after a crash.
	load(ctx context.Context, f *feeder) error
	// state is the one in which a generation begins.
	state() State
}

// FromTopics rebuilds from the topics themselves, which must have kept every message since the first: unlimited
// retention, no compaction, first offset 0. That is checked before a rebuild begins and, as far as it can be seen
// there, whenever a partition is assigned. The bus needs Earliest, Compacted, Retention and positions: kafkabus.
func FromTopics() Source { return fromTopics{} }

type fromTopics struct{}

func (fromTopics) state() State                        { return Following }
func (fromTopics) load(context.Context, *feeder) error { return nil }

func (fromTopics) check(ctx context.Context, p *Projection) error {
	bus, ok := p.bus.(lasting)
	if _, at := p.bus.(positioned); !ok || !at {
		return fmt.Errorf("%w: %T keeps no history; give a FromArchive or a FromSnapshot", ErrNoSource, p.bus)
	}
	for _, topic := range p.topics() {
		compacted, err := bus.Compacted(ctx, topic)
		if err != nil {
			return err
		}
		if compacted {
			return fmt.Errorf("%w: topic %q is compacted", ErrNoSource, topic)
		}
		keeps, err := bus.Retention(ctx, topic)
		if err != nil {
			return err
		}
		if keeps >= 0 {
			return fmt.Errorf("%w: topic %q keeps its messages for %v only", ErrNoSource, topic, keeps)
		}
		first, err := bus.Earliest(ctx, topic)
		if err != nil {
			return err
		}
		for partition, offset := range first {
			if offset > 0 {
				return fmt.Errorf("%w: topic %q, partition %d begins at offset %d", ErrNoSource, topic, partition, offset)
			}
		}
	}
	return nil
}

// Archived is a message that was published once.
type Archived struct {
	Position int64  // in the archive; grows from message to message, from 0 on
	Topic    string // it went to
	Message  *message.Message
}

// ArchiveQuery says what is to be read of an archive.
type ArchiveQuery struct {
	Topics []string  // at least these
	After  int64     // what is behind this position; -1: everything
	Since  time.Time // what was noted as published then or later, by the database's clock; zero: everything
}

// An Archive yields what it is asked for in the order of positions, up to its end; an error ends it too.
type Archive func(ctx context.Context, q ArchiveQuery) iter.Seq2[Archived, error]

// FromArchive rebuilds from an archive of everything that was ever published, and then follows the topics.
// With the outbox's:
//
//	projection.FromArchive(func(ctx context.Context, q projection.ArchiveQuery) iter.Seq2[projection.Archived, error] {
//		f := outbox.ArchiveFilter{Topics: q.Topics, After: q.After, Since: q.Since}
//		return func(yield func(projection.Archived, error) bool) {
//			for m, err := range box.Archived(ctx, f) {
//				if !yield(projection.Archived{Position: m.Seq, Topic: m.Topic, Message: m.Message}, err) {
//					return
//				}
//			}
//		}
//	})
//
// There is no gap if every message is in the archive or still in its topic: a topic that the archive takes over from
// keeps its messages longer than a rebuild takes. On a bus without positions, where a shadow sees only what is
// published after it has subscribed, the archive is read again from when the rebuild began; it has to note a message
// soon after its publication, and in the order of its key. Nothing is doubled, because messages keep their ID in the
// archive and the inbox knows it, or because apply functions are guarded. After a crash reading goes on where it was.
func FromArchive(read Archive) Source { return fromArchive{read} }

type fromArchive struct{ read Archive }

func (fromArchive) state() State { return Loading }

func (a fromArchive) check(context.Context, *Projection) error {
	if a.read == nil {
		return fmt.Errorf("%w: FromArchive was given no function", ErrNoSource)
	}
	return nil
}

// A Load writes a snapshot of the model into the generation in ctx and returns, for each partition that the
// snapshot knows of, the position of the next event: that of the first one which is not in it. It writes in calls
// of write, each in a transaction; if one fails it returns that error. Partitions that it does not return are
// followed from their oldest message.
type Load func(ctx context.Context, write func(func(ctx context.Context) error) error) ([]cqrs.Position, error)

// FromSnapshot rebuilds from a snapshot that the events' owner has made, with its position, and then follows the
// topics from there. After a crash in the middle another generation is begun. On a bus without positions events
// that are in the snapshot may come again, so apply functions must be guarded by versions ([Config].Guarded).
func FromSnapshot(load Load) Source { return fromSnapshot{load} }

type fromSnapshot struct{ read Load }

func (fromSnapshot) state() State { return Loading }

func (s fromSnapshot) check(_ context.Context, p *Projection) error {
	if s.read == nil {
		return fmt.Errorf("%w: FromSnapshot was given no function", ErrNoSource)
	}
	if _, ok := p.bus.(positioned); !ok && !p.cfg.Guarded {
		return fmt.Errorf("%w: a snapshot has no position on %T; apply functions have to be Guarded", ErrNoSource, p.bus)
	}
	return nil
}

var errOthers = errors.New("projection: another process loads the generation")
