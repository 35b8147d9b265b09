package debezium_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/surge-go/surge/cqrs/kafkabus"
	"github.com/surge-go/surge/outbox/debezium"
)

// A cluster is a Kafka cluster with Kafka Connect.
type cluster struct {
	t       testing.TB
	brokers []string
	connect string
	client  sarama.Client
	bus     *kafkabus.Bus
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, connect: env(t, "SURGE_TEST_CONNECT")}
	c.brokers = strings.Split(env(t, "SURGE_TEST_KAFKA"), ",")
	var err error
	c.client, err = sarama.NewClient(c.brokers, sarama.NewConfig())
	must(t, err)
	t.Cleanup(func() { _ = c.client.Close() })
	c.bus, err = kafkabus.New(c.brokers, kafkabus.Config{})
	must(t, err)
	t.Cleanup(func() { _ = c.bus.Close() })
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return c
}

// topics creates topics that are deleted when the test ends.
func (c *cluster) topics(partitions int32, names ...string) {
	c.t.Helper()
	for _, name := range names {
		must(c.t, c.bus.CreateTopics(c.t.Context(), kafkabus.Topic{Name: name, Partitions: partitions}))
	}
	c.t.Cleanup(func() { c.remove(func(topic string) bool { return slices.Contains(names, topic) }) })
}

// remove deletes the topics that match.
func (c *cluster) remove(match func(topic string) bool) {
	admin, err := sarama.NewClusterAdmin(c.brokers, sarama.NewConfig())
	if err != nil {
		c.t.Errorf("topics stay behind: %v", err)
		return
	}
	defer func() { _ = admin.Close() }()
	all, err := admin.ListTopics()
	for name := range all {
		if match(name) && err == nil {
			err = admin.DeleteTopic(name)
		}
	}
	if err != nil {
		c.t.Errorf("topics stay behind: %v", err)
	}
}

// read returns the n records that a topic must come to have after the given number of them.
func (c *cluster) read(topic string, skip map[int32]int64, n int) []*sarama.ConsumerMessage {
	c.t.Helper()
	ends := map[int32]int64{}
	eventually(c.t, fmt.Sprintf("%d records in %s", n, topic), func() bool {
		var total int64
		for p, end := range c.ends(topic) {
			ends[p] = end
			total += end - skip[p]
		}
		return total >= int64(n)
	})
	consumer, err := sarama.NewConsumerFromClient(c.client)
	must(c.t, err)
	defer func() { _ = consumer.Close() }()
	var list []*sarama.ConsumerMessage
	for p, end := range ends {
		if end > skip[p] {
			list = append(list, c.readPartition(consumer, topic, p, skip[p], end)...)
		}
	}
	return list
}

func (c *cluster) readPartition(
	consumer sarama.Consumer, topic string, partition int32, from, end int64,
) (list []*sarama.ConsumerMessage) {
	c.t.Helper()
	pc, err := consumer.ConsumePartition(topic, partition, from)
	must(c.t, err)
	defer func() { _ = pc.Close() }()
	for m := range pc.Messages() {
		list = append(list, m)
		if m.Offset >= end-1 {
			break
		}
	}
	return list
}

// ends returns the partitions' ends.
func (c *cluster) ends(topic string) map[int32]int64 {
	c.t.Helper()
	partitions, err := c.client.Partitions(topic)
	must(c.t, err)
	ends := map[int32]int64{}
	for _, p := range partitions {
		ends[p], err = c.client.GetOffset(topic, p, sarama.OffsetNewest)
		must(c.t, err)
	}
	return ends
}

// start starts a service's connector and waits until it reads the slot. It ends with the test.
func (c *cluster) start(s *service) {
	c.t.Helper()
	d := s.connector()
	must(c.t, d.CreatePublication(c.t.Context(), s.db))
	body, err := d.JSON()
	must(c.t, err)
	c.call(http.MethodPost, "/connectors", body)
	c.t.Cleanup(func() { c.stop(s) })
	c.running(s)
}

// running waits until the connector reads the slot.
func (c *cluster) running(s *service) {
	c.t.Helper()
	p, err := debezium.NewPruner(s.db, debezium.PrunerConfig{Slot: s.slot})
	must(c.t, err)
	eventually(c.t, "the connector reads the slot", func() bool {
		status := c.call(http.MethodGet, "/connectors/"+s.slot+"/status", nil)
		if strings.Contains(status, "FAILED") {
			c.t.Fatal(status)
		}
		return errors.Is(p.Healthy(c.t.Context()), debezium.ErrStopped) // there is nothing else
	})
}

// stop deletes the connector, its slot, its publication and its topics.
func (c *cluster) stop(s *service) {
	c.call(http.MethodDelete, "/connectors/"+s.slot, nil)
	s.dropSlot()
	_ = s.db.Exec("DROP PUBLICATION IF EXISTS " + s.slot)
	c.remove(func(topic string) bool { return strings.Contains(topic, s.slot) })
}

// call calls Kafka Connect. A missing resource is no error.
func (c *cluster) call(method, path string, body []byte) string {
	c.t.Helper()
	req, err := http.NewRequest(method, c.connect+path, bytes.NewReader(body))
	must(c.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultClient.Do(req)
	must(c.t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	must(c.t, err)
	if res.StatusCode >= 300 && res.StatusCode != http.StatusNotFound {
		var e struct{ Message string }
		_ = json.Unmarshal(text, &e)
		c.t.Fatalf("%s %s: %s: %s", method, path, res.Status, e.Message)
	}
	return string(text)
}
