package outbox_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// On MySQL and MariaDB a message that commits later than MaxTransaction behind others leaves with the next sweep, also
// while a topic is behind because its publisher is down.
func TestLateCommitLeavesWhileATopicIsBehind(t *testing.T) {
	t.Parallel()
	db := openMySQL(t)
	gate := make(chan struct{})
	to := &scripted{script: func(topic string, _ []*message.Message) error {
		if topic == "slow" {
			<-gate
		}
		return nil
	}}
	f := &fixture{db: db}
	f.box, f.unit = newOutbox(t, db)
	relay := newRelay(t, f.box, to, outbox.RelayConfig{Batch: 4, Buffer: 4, MaxTransaction: 50 * time.Millisecond})
	outbox.Resweep(relay, 200*time.Millisecond)
	start(t, relay)
	defer close(gate)
	for i := range 50 {
		f.publish(t, "slow", fmt.Sprint("k", i), fmt.Sprint("slow", i))
	}
	late := db.Begin()
	m := message.NewMessage("late", nil)
	m.SetContext(context.Background())
	if err := f.box.PublishTx(late, "fast", m); err != nil {
		t.Fatal(err)
	}
	for i, began := 0, time.Now(); time.Since(began) < time.Second; i++ {
		id := fmt.Sprint("fast", i)
		f.publish(t, "fast", "k", id)
		within(t, id+" leaves", func() bool { return slices.Contains(to.ids(), id) })
	}
	if err := late.Commit().Error; err != nil {
		t.Fatal(err)
	}
	within(t, "the late one leaves", func() bool { return slices.Contains(to.ids(), "late") })
}
