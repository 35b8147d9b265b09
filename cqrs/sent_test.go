package cqrs_test

import (
	"context"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

type Collected struct{ N int }

type lastPublished struct{ ids []string }

func (p *lastPublished) Publish(_ string, ms ...*message.Message) error {
	for _, m := range ms {
		p.ids = append(p.ids, m.UUID)
	}
	return nil
}

func (p *lastPublished) Close() error { return nil }

func TestCollect(t *testing.T) {
	t.Parallel()
	pub := &lastPublished{}
	catalog := cqrs.NewCatalog(cqrs.Event[Collected]{Name: "tests.collected"})
	sender, err := cqrs.NewSender(catalog, pub, cqrs.SenderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, sent := cqrs.Collect(context.Background())
	for n := range 3 {
		if err := sender.Publish(ctx, Collected{n}, Collected{n}); err != nil {
			t.Fatal(err)
		}
	}
	if err := sender.Publish(context.Background(), Collected{}); err != nil {
		t.Fatal(err)
	}
	if got := sent.IDs(); len(got) != 6 || !slices.Equal(got, pub.ids[:6]) {
		t.Fatalf("collected %v of %v", got, pub.ids)
	}
}
