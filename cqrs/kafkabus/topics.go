package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

// topicPoll is how often a new topic is looked at until all its partitions have leaders.
const topicPoll = 50 * time.Millisecond

// CreateTopics creates the topics that do not exist, and returns once all of them can be used. What a
// topic leaves zero is taken from Config.Topic, then from the defaults of [Topic]. A topic that exists
// with another number of partitions is [ErrPartitions], if the number was asked for: by the topic or by
// Config.Topic. Nothing else of an existing topic is compared or changed.
func (b *Bus) CreateTopics(ctx context.Context, topics ...Topic) error {
	for _, t := range topics {
		if err := t.validate("Topic"); err != nil {
			return fmt.Errorf("kafkabus: create topic %q: %w", t.Name, err)
		}
	}
	return b.admin(ctx, func(client sarama.Client, admin sarama.ClusterAdmin) error {
		for _, t := range topics {
			if err := b.createTopic(ctx, client, admin, t); err != nil {
				return fmt.Errorf("kafkabus: create topic %q: %w", t.Name, err)
			}
		}
		return nil
	})
}

func (b *Bus) createTopic(ctx context.Context, client sarama.Client, admin sarama.ClusterAdmin, t Topic) error {
	t = t.over(b.cfg.Topic)
	detail := t.detail()
	existed := false
	if err := admin.CreateTopic(t.Name, detail, false); errors.Is(err, sarama.ErrTopicAlreadyExists) {
		existed = true
	} else if err != nil {
		return err
	}
	n, err := usable(client, t.Name)
	for err != nil || !existed && n != detail.NumPartitions {
		timer := time.NewTimer(topicPoll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
		n, err = usable(client, t.Name)
	}
	if t.Partitions != 0 && n != t.Partitions {
		return fmt.Errorf("%w: it has %d, not %d", ErrPartitions, n, t.Partitions)
	}
	return nil
}

// usable returns the number of partitions once the leaders of all of them answer: metadata name a
// leader before it knows that it is one.
func usable(client sarama.Client, topic string) (int32, error) {
	if err := client.RefreshMetadata(topic); err != nil {
		return 0, err
	}
	all, err := client.Partitions(topic)
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if _, err := client.GetOffset(topic, p, sarama.OffsetNewest); err != nil {
			return 0, err
		}
	}
	return int32(len(all)), nil
}

// validate finds what Kafka would refuse, or misunderstand, in the topic that the caller calls by name.
func (t Topic) validate(name string) error {
	if t.Partitions < 0 || t.Replication < 0 || t.MinInSync < 0 {
		return fmt.Errorf("%s has a negative number: %d partitions, %d replicas, %d in sync",
			name, t.Partitions, t.Replication, t.MinInSync)
	}
	if t.Retention > 0 && t.Retention < time.Millisecond { // Kafka counts whole ones; 0 would remove every record
		return fmt.Errorf("%s.Retention is %v, at least 1 ms is needed", name, t.Retention)
	}
	return nil
}

// over fills in what t leaves open.
func (t Topic) over(d Topic) Topic {
	if t.Partitions == 0 {
		t.Partitions = d.Partitions
	}
	if t.Replication == 0 {
		t.Replication = d.Replication
	}
	if t.MinInSync == 0 {
		t.MinInSync = d.MinInSync
	}
	if t.Retention == 0 {
		t.Retention = d.Retention
	}
	entries := maps.Clone(d.Entries)
	if entries == nil {
		entries = make(map[string]string)
	}
	maps.Copy(entries, t.Entries)
	t.Entries = entries
	return t
}

func (t Topic) detail() *sarama.TopicDetail {
	d := &sarama.TopicDetail{NumPartitions: t.Partitions, ReplicationFactor: t.Replication}
	if d.NumPartitions == 0 {
		d.NumPartitions = defaultPartitions
	}
	if d.ReplicationFactor == 0 {
		d.ReplicationFactor = -1
	}
	d.ConfigEntries = make(map[string]*string)
	set := func(name, value string) { d.ConfigEntries[name] = &value }
	if t.MinInSync > 0 {
		set("min.insync.replicas", strconv.Itoa(t.MinInSync))
	}
	switch {
	case t.Retention > 0:
		set("retention.ms", strconv.FormatInt(t.Retention.Milliseconds(), 10))
	case t.Retention < 0:
		set("retention.ms", "-1")
	}
	for k, v := range t.Entries {
		set(k, v)
	}
	return d
}

// admin connects, calls f and closes again; it gives up waiting when ctx ends.
func (b *Bus) admin(ctx context.Context, f func(sarama.Client, sarama.ClusterAdmin) error) error {
	res := make(chan error, 1)
	go func() {
		client, err := sarama.NewClient(b.brokers, b.cfg.consumer())
		if err != nil {
			res <- fmt.Errorf("kafkabus: connect: %w", err)
			return
		}
		admin, err := sarama.NewClusterAdminFromClient(client)
		if err != nil {
			res <- errors.Join(fmt.Errorf("kafkabus: connect: %w", err), client.Close())
			return
		}
		err = f(client, admin)
		res <- errors.Join(err, admin.Close()) // closes the client too
	}()
	select {
	case err := <-res:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
