package cqrs_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// counting is a unit of work that only counts.
type counting struct{ commits int }

func (c *counting) Do(ctx context.Context, fn func(context.Context) error) error {
	if ctx.Value(txKey{}) != nil {
		return fn(ctx)
	}
	c.commits++
	return fn(context.WithValue(ctx, txKey{}, true))
}

// BenchmarkLane is what the runtime itself costs per message: decode, waves, a part each, ack.
func BenchmarkLane(b *testing.B) {
	db := newDB()
	s, err := cqrs.NewSender(catalog(), db, cqrs.SenderConfig{})
	if err != nil {
		b.Fatal(err)
	}
	work := &counting{}
	p, err := cqrs.NewProcessor("shop", s, cqrs.ProcessorConfig{Subscribe: db.subscriber, UnitOfWork: work, Lanes: 1})
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	cqrs.On(p, func(context.Context, note) error { wg.Done(); return nil })
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.Running()
	var ms []*message.Message
	for i := range 1000 {
		ms = append(ms, noteMsg(fmt.Sprint(i), fmt.Sprint(i%50), "text"))
	}
	b.ReportAllocs()
	for b.Loop() {
		wg.Add(len(ms))
		for i, m := range ms {
			ms[i] = m.Copy()
		}
		db.deliver("shop.commands", ms...)
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ms)), "ns/message")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
