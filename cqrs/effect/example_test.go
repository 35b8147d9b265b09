package effect_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/cqrs/host"
	"gorm.io/gorm"
)

type Capture struct {
	cqrs.Returns[string] // the provider's reference
	Payment              string
	Cents                int
}

type Captured struct{ Payment, Reference string }

var payments = cqrs.NewCatalog(
	cqrs.Command[Capture]{Name: "payments.capture", Key: func(c Capture) string { return c.Payment }},
	cqrs.Event[Captured]{Name: "payments.captured", Key: func(e Captured) string { return e.Payment }},
)

// A command whose work is done by a provider: recorded with the commit, called outside of it, settled in another.
func Example() {
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	svc, err := host.Open(ctx, "payments", db, payments, host.Config{})
	check(err)
	runner, err := effect.New(svc.Processor, svc.Effects, effect.Config{})
	check(err)
	svc.Add(runner)

	cqrs.Handle(svc.Processor, effect.Handler(runner, effect.Effect[Capture, string, int, string]{
		Name: "payments.capture",
		Intent: func(_ context.Context, c Capture) (string, int, error) {
			return "capture-" + c.Payment, c.Cents, nil
		},
		Call: func(_ context.Context, key string, cents int) (string, error) {
			fmt.Println("the provider is asked for", cents, "under", key)
			return "ref-1", nil
		},
		Settle: func(ctx context.Context, c Capture, _ int, ref string) (string, error) {
			return ref, svc.Sender.Publish(ctx, Captured{c.Payment, ref})
		},
	}))
	cqrs.On(svc.Processor, func(_ context.Context, e Captured) error {
		fmt.Println("captured", e.Payment, e.Reference)
		cancel()
		return nil
	})

	var running sync.WaitGroup
	running.Go(func() { check(svc.Run(ctx)) })
	check(svc.Work.Do(ctx, func(ctx context.Context) error {
		return svc.Sender.Send(ctx, Capture{Payment: "p-1", Cents: 1000})
	}))
	running.Wait()
	pool, err := db.DB()
	check(err)
	check(pool.Close())
	// Output:
	// the provider is asked for 1000 under capture-p-1
	// captured p-1 ref-1
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
