package localbus_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

func batch(n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		m := message.NewMessage(fmt.Sprintf("id-%06d", i), []byte(`{"order":"o-1","sku":"s-1","units":1}`))
		m.Metadata = message.Metadata{
			"ce_partitionkey": fmt.Sprintf("order-%d", i), "ce_type": "orders.placed", "ce_kind": "event",
			"ce_source": "orders", "ce_specversion": "1.0", "ce_time": "2026-01-01T00:00:00Z",
			"content-type": "application/json", "ce_correlationid": "c", "ce_causationid": "d",
		}
		msgs[i] = m
	}
	return msgs
}

// BenchmarkPublishAck reports messages, from publishers that wait for their acks to a consumer that
// acks in batches of 64.
func BenchmarkPublishAck(b *testing.B) {
	for _, c := range []struct{ publishers, batch, groups int }{
		{1, 1, 1}, {64, 1, 1}, {1, 64, 1}, {1, 512, 1}, {4, 512, 1}, {1, 512, 2},
	} {
		b.Run(fmt.Sprintf("publishers=%d/batch=%d/groups=%d", c.publishers, c.batch, c.groups), func(b *testing.B) {
			publishAck(b, c.publishers, c.batch, c.groups)
		})
	}
}

func publishAck(b *testing.B, publishers, size, groups int) {
	bus := localbus.New(localbus.Config{})
	defer bus.Close()
	for g := range groups {
		sub, err := bus.Subscriber(fmt.Sprint("group", g))
		if err != nil {
			b.Fatal(err)
		}
		in, err := sub.Subscribe(b.Context(), "topic")
		if err != nil {
			b.Fatal(err)
		}
		go ackBatches(in, 64)
	}
	pub := bus.Publisher()
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			msgs := batch(size)
			for left.Add(-int64(size)) > -int64(size) {
				if err := pub.Publish("topic", msgs...); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// ackBatches acks up to n messages at a time, fewer when no more are there.
func ackBatches(in <-chan *message.Message, n int) {
	held := make([]*message.Message, 0, n)
	for m := range in {
		held = append(held[:0], m)
	fill:
		for len(held) < n {
			select {
			case m, ok := <-in:
				if !ok {
					break fill
				}
				held = append(held, m)
			default:
				break fill
			}
		}
		for _, m := range held {
			m.Ack()
		}
	}
}
