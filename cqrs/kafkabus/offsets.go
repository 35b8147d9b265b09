package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Earliest returns for each partition of topic the offset of the first record that is there. It is 0 as long
// as nothing was removed; only then can a model be built from the topic alone. Compaction removes records
// without moving it, see [Bus.Compacted].
func (b *Bus) Earliest(ctx context.Context, topic string) (map[int32]int64, error) {
	return b.edge(ctx, topic, func(s span) int64 { return s.oldest })
}

// Latest returns for each partition of topic the offset that the next record will have, so a consumer that is
// to read the record before it has read all there was.
func (b *Bus) Latest(ctx context.Context, topic string) (map[int32]int64, error) {
	return b.edge(ctx, topic, func(s span) int64 { return s.newest })
}

func (b *Bus) edge(ctx context.Context, topic string, of func(span) int64) (map[int32]int64, error) {
	var edges map[int32]int64
	err := b.admin(ctx, func(client sarama.Client, admin sarama.ClusterAdmin) error {
		all, err := client.Partitions(topic)
		if err != nil {
			return fmt.Errorf("kafkabus: topic %q: %w", topic, err)
		}
		spans, err := spansOf(admin, map[string][]int32{topic: all})
		edges = make(map[int32]int64, len(all))
		for p, s := range spans[topic] {
			edges[p] = of(s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return edges, nil
}

// Retention returns how long topic keeps records before it may remove them because of their age (retention.ms);
// -1 means for ever, also where cleanup.policy is compact alone. A limit in bytes (retention.bytes) may remove
// them sooner, and is not looked at.
func (b *Bus) Retention(ctx context.Context, topic string) (time.Duration, error) {
	entries, err := b.topicConfig(ctx, topic)
	if err != nil {
		return 0, err
	}
	if policies(entries) == "compact" {
		return -1, nil
	}
	ms, err := strconv.ParseInt(entries["retention.ms"], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("kafkabus: topic %q: retention.ms: %w", topic, err)
	}
	const most = int64(1<<63-1) / int64(time.Millisecond)
	if ms < 0 || ms > most {
		return -1, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// Compacted reports whether topic keeps only the last record of each key (cleanup.policy), so that it does not
// tell the whole story.
func (b *Bus) Compacted(ctx context.Context, topic string) (bool, error) {
	entries, err := b.topicConfig(ctx, topic)
	return strings.Contains(policies(entries), "compact"), err
}

func policies(entries map[string]string) string {
	return strings.ReplaceAll(entries["cleanup.policy"], " ", "")
}

func (b *Bus) topicConfig(ctx context.Context, topic string) (map[string]string, error) {
	var entries map[string]string
	err := b.admin(ctx, func(_ sarama.Client, admin sarama.ClusterAdmin) error {
		described, err := admin.DescribeConfigs(
			[]*sarama.ConfigResource{{Type: sarama.TopicResource, Name: topic}}, sarama.DescribeConfigsOptions{})
		entries = map[string]string{}
		for _, d := range described {
			if d.ErrorCode != sarama.ErrNoError {
				err = errors.Join(err, d.ErrorCode)
			}
			for _, e := range d.Configs {
				entries[e.Name] = e.Value
			}
		}
		if err != nil {
			return fmt.Errorf("kafkabus: configuration of topic %q: %w", topic, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Lag returns for each topic how many records group has not committed, summed over the partitions. A
// group that has committed nothing has all of them before it. Commits trail acks by up to a second. Each transaction of
// a producer ends with a control record, which has an offset and is received by nobody: those at the end of a partition
// stay in its lag until a record comes behind them.
func (b *Bus) Lag(ctx context.Context, group string, topics ...string) (map[string]int64, error) {
	return b.lag(ctx, group, topics, func(sarama.Client) []string { return topics })
}

// lag is Lag, for topics of which some may have no records because they are not there.
func (b *Bus) lag(
	ctx context.Context, group string, topics []string, which func(sarama.Client) []string,
) (map[string]int64, error) {
	lag := make(map[string]int64, len(topics))
	if len(topics) == 0 {
		return lag, nil
	}
	for _, t := range topics {
		lag[t] = 0
	}
	err := b.admin(ctx, func(client sarama.Client, admin sarama.ClusterAdmin) error {
		partitions, err := partitionsOf(client, which(client))
		if err != nil {
			return err
		}
		there, err := spansOf(admin, partitions)
		if err != nil {
			return err
		}
		committed, err := (&start{group: group}).committed(admin)
		if err != nil {
			return fmt.Errorf("kafkabus: lag of group %q: %w", group, err)
		}
		for topic, spans := range there {
			for p, s := range spans {
				lag[topic] += max(s.newest-max(committed[topic][p], s.oldest), 0)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lag, nil
}

// existing leaves out the topics that do not exist.
func existing(client sarama.Client, topics []string) []string {
	return slices.DeleteFunc(slices.Clone(topics), func(t string) bool {
		return errors.Is(client.RefreshMetadata(t), sarama.ErrUnknownTopicOrPartition)
	})
}

func partitionsOf(client sarama.Client, topics []string) (map[string][]int32, error) {
	partitions := make(map[string][]int32, len(topics))
	for _, t := range topics {
		ps, err := client.Partitions(t)
		if err != nil {
			return nil, fmt.Errorf("kafkabus: topic %q: %w", t, err)
		}
		partitions[t] = slices.Clone(ps)
	}
	return partitions, nil
}

// spansOf asks the leaders, all partitions of one in one request.
func spansOf(admin sarama.ClusterAdmin, partitions map[string][]int32) (map[string]map[int32]span, error) {
	newest, err := list(admin, partitions, sarama.OffsetNewest)
	if err != nil {
		return nil, err
	}
	oldest, err := list(admin, partitions, sarama.OffsetOldest)
	if err != nil {
		return nil, err
	}
	spans := make(map[string]map[int32]span, len(partitions))
	for topic, all := range partitions {
		spans[topic] = make(map[int32]span, len(all))
		for _, p := range all {
			o, n := oldest[topic][p], newest[topic][p]
			if o == nil || n == nil {
				return nil, fmt.Errorf("kafkabus: offsets of topic %q: %w", topic, sarama.ErrIncompleteResponse)
			}
			for _, err := range []error{o.Err, n.Err} {
				if err != nil && !errors.Is(err, sarama.ErrNoError) {
					return nil, fmt.Errorf("kafkabus: offsets of topic %q, partition %d: %w", topic, p, err)
				}
			}
			spans[topic][p] = span{o.Offset, n.Offset}
		}
	}
	return spans, nil
}

func list(
	admin sarama.ClusterAdmin, partitions map[string][]int32, at int64,
) (map[string]map[int32]*sarama.OffsetResult, error) {
	query := make(map[string]map[int32]int64, len(partitions))
	for topic, all := range partitions {
		query[topic] = make(map[int32]int64, len(all))
		for _, p := range all {
			query[topic][p] = at
		}
	}
	if len(query) == 0 {
		return nil, nil
	}
	offsets, err := admin.ListOffsets(query, nil)
	if err != nil {
		return nil, fmt.Errorf("kafkabus: offsets: %w", err)
	}
	return offsets, nil
}
