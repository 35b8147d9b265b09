package kafkabus_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/kafkabus"
)

// A consumer gets many messages before it acks the first, so it can put them into one transaction.
func Example() {
	cluster := kfake.MustCluster(kfake.NumBrokers(1)) // a cluster in this process, for tests
	defer cluster.Close()
	bus, err := kafkabus.New(cluster.ListenAddrs(), kafkabus.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close()

	ctx := context.Background()
	if err := bus.CreateTopics(ctx, kafkabus.Topic{Name: "orders", Partitions: 4}); err != nil {
		log.Fatal(err)
	}
	batch := make([]*message.Message, 3)
	for i := range batch {
		batch[i] = message.NewMessage(fmt.Sprint("message ", i), []byte(fmt.Sprint("step ", i)))
		batch[i].Metadata.Set("ce_partitionkey", "order 7") // one key, so in order
	}
	if err := bus.Publisher().Publish("orders", batch...); err != nil {
		log.Fatal(err)
	}

	sub, err := bus.Subscriber("shipping")
	if err != nil {
		log.Fatal(err)
	}
	orders, err := sub.Subscribe(ctx, "orders")
	if err != nil {
		log.Fatal(err)
	}
	var held []*message.Message
	for len(held) < len(batch) {
		m := <-orders
		fmt.Printf("%s: %s\n", m.UUID, m.Payload)
		held = append(held, m)
	}
	for _, m := range held {
		m.Ack()
	}
	// Output:
	// message 0: step 0
	// message 1: step 1
	// message 2: step 2
}

// The error of a batch says what to publish again.
func ExamplePublishError() {
	cluster := kfake.MustCluster(kfake.NumBrokers(1))
	defer cluster.Close()
	bus, err := kafkabus.New(cluster.ListenAddrs(), kafkabus.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close()
	if err := bus.CreateTopics(context.Background(), kafkabus.Topic{Name: "orders"}); err != nil {
		log.Fatal(err)
	}

	large := message.NewMessage("large", make([]byte, 2<<20))
	err = bus.Publisher().Publish("orders", message.NewMessage("small", nil), large)

	var failed *kafkabus.PublishError
	if errors.As(err, &failed) {
		fmt.Println("again:", failed.Failed())
	}
	// Output: again: [1]
}

// A read model that keeps its own position is read from there, whatever the group has committed.
func ExampleBus_SubscriberAt() {
	cluster := kfake.MustCluster(kfake.NumBrokers(1))
	defer cluster.Close()
	bus, err := kafkabus.New(cluster.ListenAddrs(), kafkabus.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close()
	ctx := context.Background()
	if err := bus.CreateTopics(ctx, kafkabus.Topic{Name: "orders", Partitions: 1}); err != nil {
		log.Fatal(err)
	}
	for i := range 5 {
		if err := bus.Publisher().Publish("orders", message.NewMessage(fmt.Sprint("message ", i), nil)); err != nil {
			log.Fatal(err)
		}
	}

	checkpoint := map[int32]int64{0: 3} // by partition, written in the model's transactions
	sub, err := bus.SubscriberAt("order-view",
		func(_ context.Context, topic string, partition int32) (int64, bool, error) {
			next, ok := checkpoint[partition]
			return next, ok, nil
		})
	if err != nil {
		log.Fatal(err)
	}
	orders, err := sub.Subscribe(ctx, "orders")
	if err != nil {
		log.Fatal(err)
	}
	m := <-orders
	at, _ := cqrs.PositionOf(m.Context())
	fmt.Println(m.UUID, "at", at.Offset)
	m.Ack()
	// Output: message 3 at 3
}
