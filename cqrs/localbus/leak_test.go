package localbus_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs/localbus"
)

// A subscriber lives as long as its process, and may subscribe for a moment again and again.
func TestASubscriberForgetsSubscriptionsThatHaveEnded(t *testing.T) {
	t.Parallel()
	type key struct{}
	bus := localbus.New(localbus.Config{})
	sub, err := bus.Subscriber("g")
	if err != nil {
		t.Fatal(err)
	}
	freed := make(chan struct{})
	func() {
		value := new([64]byte)
		runtime.AddCleanup(value, func(c chan struct{}) { close(c) }, freed)
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, value))
		in, err := sub.Subscribe(ctx, "t")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		<-in // closed
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		runtime.GC()
		select {
		case <-freed:
			if err := sub.Close(); err != nil {
				t.Fatal(err)
			}
			return
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the subscriber holds a subscription that has ended")
		}
	}
}
