package outbox_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
	"gorm.io/gorm"
)

// Whether a message is due is for the database's clock to say, though Go's may be ahead or behind.
func TestRule34_ScheduledByTheDatabasesClock(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db *gorm.DB) {
		for clock, c := range map[time.Duration]struct{ leaves, waits time.Duration }{
			time.Hour:  {leaves: 30 * time.Minute, waits: 90 * time.Minute},
			-time.Hour: {leaves: -90 * time.Minute, waits: -30 * time.Minute},
		} {
			box, unit := newOutbox(t, db)
			box, err := outbox.Skewed(box, clock)
			if err != nil {
				t.Fatal(err)
			}
			err = unit.Do(context.Background(), func(ctx context.Context) error {
				for id, at := range map[string]time.Duration{"leaves": c.leaves, "waits": c.waits} {
					m := message.NewMessage(id, nil)
					m.Metadata.Set(outbox.HeaderDeliverAt, time.Now().Add(at).Format(time.RFC3339Nano))
					m.SetContext(ctx)
					if err := box.Publish("topic", m); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			to := &scripted{}
			stop := start(t, newRelay(t, box, to, outbox.RelayConfig{UnitOfWork: unit}))
			within(t, "one leaves", func() bool { return len(to.ids()) > 0 })
			stop()
			var left int64
			if err := db.Raw("SELECT count(*) FROM outbox_scheduled").Row().Scan(&left); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(to.ids()); got != "[leaves]" || left != 1 {
				t.Errorf("clock %v ahead: published %s, %d wait", clock, got, left)
			}
			if err := db.Exec("DELETE FROM outbox_scheduled").Error; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Scheduled messages of a key keep their order, though several relays are there to move them.
func TestRule14_RelaysMoveScheduledMessagesInOrder(t *testing.T) {
	eachServer(t, func(t *testing.T, db *gorm.DB) {
		box, _ := newOutbox(t, db)
		const messages = 3000 // several rounds
		values := make([]string, messages)
		for i := range values {
			values[i] = fmt.Sprintf("(%d, %d, '%d', 'topic', 'k', '', '{}', '')", i, outbox.ShardOf("k"), i)
		}
		err := db.Exec("INSERT INTO outbox_scheduled (due_at, shard, id, topic, aggregateid, type, headers, payload) VALUES " +
			strings.Join(values, ", ")).Error
		if err != nil {
			t.Fatal(err)
		}
		var relays []*outbox.Relay
		for range 4 {
			relay := newRelay(t, box, &scripted{}, outbox.RelayConfig{})
			relay.Pause()
			relays = append(relays, relay)
		}
		for _, relay := range relays {
			start(t, relay)
		}
		var ids []int
		within(t, "all have moved", func() bool {
			if err := db.Raw("SELECT id FROM outbox ORDER BY seq").Scan(&ids).Error; err != nil {
				t.Fatal(err)
			}
			return len(ids) == messages
		})
		if !slices.IsSorted(ids) {
			t.Error("they are out of order")
		}
	})
}

// start runs a relay until stop is called, at the latest when the test ends.
func start(t *testing.T, relay *outbox.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := relay.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}
