package outboxtest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"github.com/surge-go/surge/outbox/uow"
)

// testThief has sixteen writers count up shared keys while the leases are taken away from three relays again and
// again, mostly with a Publish under way, whose owner goes on as if nothing had happened. Relays stop and start too.
// Messages may appear again, but none gets lost and first appearances keep their order.
func testThief(t *testing.T, open Factory) {
	b := newBench(t, open)
	b.keys()
	p := &publisher{script: func(_ string, msgs []*message.Message) (int, error) {
		pause(time.Duration(rand.IntN(10)) * time.Millisecond)
		return len(msgs), nil
	}}
	cfg := outbox.RelayConfig{Batch: 10, Buffer: 20}
	r, _ := b.relay(p, cfg)
	b.relay(p, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var thief sync.WaitGroup
	thief.Go(func() { b.steal(ctx, p, cfg) })
	b.write(func(_ int, rnd *rand.Rand) error {
		key := rnd.IntN(keys)
		return b.unit.Do(context.Background(), func(ctx context.Context) error {
			n, err := next(uow.DB(ctx), key)
			if err != nil {
				return err
			}
			return b.box.Publish("topic", newMessage(ctx, strconv.Itoa(key), strconv.Itoa(n)))
		})
	})
	cancel()
	thief.Wait()
	b.drained(r)
	b.complete(p)
}

// steal takes leases away, by turns all and some, and has a third relay come and go.
func (b *bench) steal(ctx context.Context, p *publisher, cfg outbox.RelayConfig) {
	for n := 0; ctx.Err() == nil; n++ {
		pause(30 * time.Millisecond)
		err := b.unit.Do(context.Background(), func(ctx context.Context) error {
			return uow.DB(ctx).Exec("UPDATE outbox_lease SET owner = 'thief#1', epoch = epoch + 1, expires_at = 0 "+
				"WHERE shard >= ?", n%2*outbox.Shards/2).Error
		})
		if err != nil {
			b.t.Errorf("steal: %v", err)
			return
		}
		if n%4 == 3 {
			_, stop := b.relay(p, cfg)
			pause(30 * time.Millisecond)
			if err := stop(); err != nil {
				b.t.Error(err)
			}
		}
	}
}
