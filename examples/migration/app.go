package migration

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// App is the project after a step.
type App struct {
	Send  func(ctx context.Context, cmd any) error
	parts []part
}

type part func(ctx context.Context) error

// Run runs everything until ctx ends.
func (a *App) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range a.parts {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}
