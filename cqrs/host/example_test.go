package host_test

import (
	"context"
	"fmt"
	"log"

	"github.com/glebarez/sqlite"
	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"gorm.io/gorm"
)

type Greet struct {
	cqrs.Returns[string]
	Name string
}

type Greeted struct{ Name string }

// A service on a database, and nothing else: commands are executed, events are delivered, until the context ends.
func Example() {
	catalog := cqrs.NewCatalog(cqrs.Event[Greeted]{Name: "greetings.greeted"})
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	svc, err := host.Open(ctx, "greetings", db, catalog, host.Config{})
	check(err)
	cqrs.Handle(svc.Processor, func(ctx context.Context, c Greet) (string, error) {
		return "hello " + c.Name, svc.Sender.Publish(ctx, Greeted{c.Name})
	})
	cqrs.On(svc.Processor, func(_ context.Context, e Greeted) error {
		fmt.Println("heard that", e.Name, "was greeted")
		cancel()
		return nil
	})
	answer, err := cqrs.Execute(ctx, svc.Processor, Greet{Name: "Ada"})
	check(err)
	fmt.Println(answer)
	check(svc.Run(ctx))
	pool, err := db.DB()
	check(err)
	check(pool.Close())
	// Output:
	// hello Ada
	// heard that Ada was greeted
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
