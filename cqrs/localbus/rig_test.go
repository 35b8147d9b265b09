package localbus_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs/localbus"
)

// rig is a bus in a synctest bubble.
type rig struct {
	*testing.T
	bus *localbus.Bus
	pub message.Publisher
}

func bubble(t *testing.T, cfg localbus.Config, f func(r *rig)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bus := localbus.New(cfg)
		defer func() {
			if err := bus.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(&rig{T: t, bus: bus, pub: bus.Publisher()})
	})
}

func (r *rig) subscribe(ctx context.Context, group, topic string) <-chan *message.Message {
	r.Helper()
	sub, err := r.bus.Subscriber(group)
	if err != nil {
		r.Fatal(err)
	}
	in, err := sub.Subscribe(ctx, topic)
	if err != nil {
		r.Fatal(err)
	}
	return in
}

// publish publishes in the background; the result arrives on the channel.
func (r *rig) publish(topic string, msgs ...*message.Message) <-chan error {
	res := make(chan error, 1)
	go func() { res <- r.pub.Publish(topic, msgs...) }()
	return res
}

// read returns what can be read once the bus is idle, as far as fake time does not move.
func (r *rig) read(in <-chan *message.Message) []*message.Message {
	var got []*message.Message
	for {
		synctest.Wait()
		select {
		case m, ok := <-in:
			if !ok {
				return got
			}
			got = append(got, m)
		default:
			return got
		}
	}
}

func (r *rig) expect(got []*message.Message, want ...string) {
	r.Helper()
	if ids := ids(got); !slices.Equal(ids, want) {
		r.Fatalf("received %v, want %v", ids, want)
	}
}

func (r *rig) pending(res <-chan error) {
	r.Helper()
	synctest.Wait()
	select {
	case err := <-res:
		r.Fatalf("Publish returned %v, want it to wait", err)
	default:
	}
}

func (r *rig) returns(res <-chan error, want error, failed ...int) {
	r.Helper()
	synctest.Wait()
	select {
	case err := <-res:
		if !errors.Is(err, want) {
			r.Fatalf("Publish returned %v, want %v", err, want)
		}
		if pe := (*localbus.PublishError)(nil); errors.As(err, &pe) && !slices.Equal(pe.Failed(), failed) {
			r.Fatalf("failed %v, want %v", pe.Failed(), failed)
		} else if pe == nil && len(failed) > 0 {
			r.Fatalf("%v is not a PublishError", err)
		}
	default:
		r.Fatal("Publish has not returned")
	}
}

func ids(msgs []*message.Message) []string {
	s := make([]string, len(msgs))
	for i, m := range msgs {
		s[i] = m.UUID
	}
	return s
}

func keyed(key string, ids ...string) []*message.Message {
	msgs := make([]*message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = message.NewMessage(id, []byte(id))
		msgs[i].Metadata["ce_partitionkey"] = key
	}
	return msgs
}

func ack(msgs ...*message.Message) {
	for _, m := range msgs {
		m.Ack()
	}
}
