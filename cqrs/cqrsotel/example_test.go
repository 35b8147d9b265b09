package cqrsotel_test

import (
	"context"
	"fmt"
	"log"

	"github.com/glebarez/sqlite"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrsotel"
	"github.com/surge-go/surge/cqrs/host"
)

// A service gets spans and metrics by one field of its configuration.
func Example() {
	spans := tracetest.NewSpanRecorder() // stands for an exporter
	t, err := cqrsotel.New(cqrsotel.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
	})
	check(err)
	db, err := gorm.Open(sqlite.Open(":memory:"), &gorm.Config{})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	svc, err := host.Open(ctx, "orders", db, catalog, host.Config{Telemetry: t})
	check(err)
	cqrs.Handle(svc.Processor, func(ctx context.Context, c place) (string, error) {
		return "thank you", svc.Sender.Publish(ctx, ordered{c.ID})
	})
	cqrs.On(svc.Processor, func(context.Context, ordered) error { cancel(); return nil })
	_, err = cqrs.Execute(ctx, svc.Processor, place{ID: "o-1"})
	check(err)
	check(svc.Run(ctx))
	for _, s := range spans.Ended() {
		if s.Name() != "process batch" {
			fmt.Println(s.SpanKind(), s.Name())
		}
	}
	pool, err := db.DB()
	check(err)
	check(pool.Close())
	// Output:
	// producer send orders.events
	// internal execute cqrsotel_test.place
	// consumer process orders.events
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
