package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/IBM/sarama"
)

// Offsets that a position may name instead of a number.
const (
	Newest = sarama.OffsetNewest // -1: what comes from now on
	Oldest = sarama.OffsetOldest // -2: all there is
)

// Lost says where a group goes on whose committed offsets are lost, see [LostError].
type Lost int

const (
	// Refuse leaves the decision to people: the group does not read.
	Refuse Lost = iota
	// FromOldest reads what is still there. What the group has handled before comes again, as far as it is there.
	FromOldest
	// FromNewest skips all there is.
	FromNewest
)

// A LostError says that a group cannot go on where it was: the records at its committed offset, or at its
// position (see [Bus.SubscriberAt]), are gone (retention has passed, the topic was made anew), or it has no
// offsets on any topic although it has handled messages before (by default offsets expire after seven days
// without a member). Going on elsewhere would skip records, or run old ones again. Config.Lost decides.
type LostError struct {
	Group     string
	Topic     string
	Partition int32
	Offset    int64 // where the group wants to go on; negative if it has no offsets
	Oldest    int64 // the first record that is there
	Newest    int64 // the next record that will be there
}

// Error names the place, and what is there.
func (e *LostError) Error() string {
	at := fmt.Sprintf("kafkabus: group %q cannot go on in topic %q, partition %d: ", e.Group, e.Topic, e.Partition)
	if e.Offset < 0 {
		return at + "it has handled messages before, and its committed offsets are lost; see Config.Lost"
	}
	return at + fmt.Sprintf("offset %d is not there, only %d to %d; see Config.Lost", e.Offset, e.Oldest, e.Newest)
}

// OffsetsLost reports true. It tells this error from others where the package is not imported.
func (e *LostError) OffsetsLost() bool { return true }

// A start decides where the partitions of a group begin.
type start struct {
	group    string
	position func(ctx context.Context, topic string, partition int32) (offset int64, ok bool, err error)
	lost     Lost
	handled  bool  // the group has handled messages before, or has offsets
	initial  int64 // of a new group
}

// offsets returns where to begin the partitions.
func (s *start) offsets(
	ctx context.Context, admin sarama.ClusterAdmin, partitions map[string][]int32,
) (map[string]map[int32]int64, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	committed, err := s.committed(admin)
	if err != nil {
		return nil, fmt.Errorf("kafkabus: offsets of group %q: %w", s.group, err)
	}
	s.handled = s.handled || len(committed) > 0
	there, err := spansOf(admin, partitions)
	if err != nil {
		return nil, err
	}
	begin := make(map[string]map[int32]int64, len(partitions))
	for _, topic := range slices.Sorted(maps.Keys(partitions)) {
		begin[topic] = make(map[int32]int64, len(partitions[topic]))
		for _, p := range partitions[topic] {
			want, err := s.want(ctx, topic, p, committed)
			if err != nil {
				return nil, err
			}
			at, ok := there[topic][p].resolve(want, s.lost)
			if !ok {
				span := there[topic][p]
				return nil, &LostError{s.group, topic, p, want, span.oldest, span.newest}
			}
			begin[topic][p] = at
		}
	}
	return begin, nil
}

// gone is the offset of a group that should have one; there is no such record.
const gone = -3

// want is where the group wants to go on.
func (s *start) want(
	ctx context.Context, topic string, partition int32, committed map[string]map[int32]int64,
) (int64, error) {
	if s.position != nil {
		offset, ok, err := s.ask(ctx, topic, partition)
		if err != nil {
			return 0, fmt.Errorf("kafkabus: position of group %q in topic %q, partition %d: %w",
				s.group, topic, partition, err)
		}
		if ok {
			return offset, nil
		}
	}
	if at, ok := committed[topic][partition]; ok {
		return at, nil
	}
	if s.handled && len(committed) == 0 {
		return gone, nil
	}
	return s.initial, nil
}

// ask asks for the position; a panic on the group's goroutine would end the process.
func (s *start) ask(ctx context.Context, topic string, partition int32) (offset int64, ok bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return s.position(ctx, topic, partition)
}

// committed returns the group's offsets by topic and partition.
func (s *start) committed(admin sarama.ClusterAdmin) (map[string]map[int32]int64, error) {
	resp, err := admin.ListConsumerGroupOffsets(s.group, nil)
	if errors.Is(err, sarama.ErrGroupIDNotFound) { // it has never committed
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	committed := make(map[string]map[int32]int64)
	for topic, blocks := range resp.Blocks {
		for p, block := range blocks {
			switch {
			case block.Err != sarama.ErrNoError:
				return nil, block.Err
			case block.Offset < 0:
				continue
			case committed[topic] == nil:
				committed[topic] = make(map[int32]int64)
			}
			committed[topic][p] = block.Offset
		}
	}
	return committed, nil
}

// A span is what a partition holds: the first record, and the one after the last.
type span struct{ oldest, newest int64 }

// resolve makes a record's offset of what is wanted; false means that it is not there.
func (s span) resolve(want int64, lost Lost) (int64, bool) {
	switch {
	case want == Oldest:
		return s.oldest, true
	case want == Newest:
		return s.newest, true
	case s.oldest <= want && want <= s.newest:
		return want, true
	case lost == FromOldest:
		return s.oldest, true
	case lost == FromNewest:
		return s.newest, true
	}
	return 0, false
}
