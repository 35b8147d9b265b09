package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/surge-go/surge/outbox"
)

// A pause lets the Publish under way go on, and no other of those that publish messages one by one after a failure.
func TestPauseEndsASweep(t *testing.T) {
	t.Parallel()
	var relay *outbox.Relay
	var down atomic.Bool
	down.Store(true)
	to := &scripted{script: func(string, []*message.Message) error {
		if down.Load() {
			return errors.New("down")
		}
		relay.Pause()
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{})
	relay = f.relay
	relay.Pause()
	for i := range 20 {
		f.publish(t, "topic", fmt.Sprint("k", i), fmt.Sprint(i))
	}
	relay.Resume()
	within(t, "it fails", func() bool {
		p := relay.Progress()
		return len(p.Topics) > 0 && p.Topics[0].Failures > 1
	})
	down.Store(false)
	within(t, "one leaves", func() bool { return len(to.ids()) > 0 && relay.Publishing() == 0 })
	if n := len(to.ids()); n != 1 {
		t.Errorf("%d left, the first of which paused the relay", n)
	}
}

// A pause lets a message of the retry table go on that is being published, and not what waits behind it.
func TestPauseEndsATrial(t *testing.T) {
	t.Parallel()
	var relay *outbox.Relay
	var up atomic.Bool
	to := &scripted{script: func(_ string, msgs []*message.Message) error {
		switch bad := slices.ContainsFunc(msgs, func(m *message.Message) bool { return m.UUID == "bad" }); {
		case bad && !up.Load():
			return errors.New("refused")
		case bad:
			relay.Pause()
		}
		return nil
	}}
	f := run(t, to, outbox.RelayConfig{Attempts: 1_000})
	relay = f.relay
	f.publish(t, "topic", "k", "bad", "behind")
	within(t, "both are in the retry table", func() bool {
		f.publish(t, "topic", "l", "good")
		s, err := f.box.Stats(t.Context())
		return err == nil && s.Retrying == 2
	})
	up.Store(true)
	within(t, "it leaves", func() bool { return slices.Contains(to.ids(), "bad") && relay.Publishing() == 0 })
	if slices.Contains(to.ids(), "behind") {
		t.Error("what was behind it left, too")
	}
	relay.Resume()
	within(t, "the other leaves", func() bool { return slices.Contains(to.ids(), "behind") })
}
