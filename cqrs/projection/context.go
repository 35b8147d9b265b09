package projection

import (
	"context"
	"strconv"
)

type scopeKey struct{}

// scope says in a context which generation is meant.
type scope struct{ generation Generation }

func within(ctx context.Context, g Generation) context.Context {
	return context.WithValue(ctx, scopeKey{}, scope{g})
}

// GenerationOf returns the generation that is being applied to, created, dropped, loaded or ([Projection.Live])
// read. Number 0 means that ctx has none.
func GenerationOf(ctx context.Context) Generation {
	s, _ := ctx.Value(scopeKey{}).(scope)
	return s.generation
}

// Table returns the name of a table of the generation in ctx: Table(ctx, "order_view") is "order_view_g3" in the
// third. Without a generation in ctx it is "order_view_g0", which no generation has. Those who keep all generations
// in one table have a column for [GenerationOf](ctx).Number instead.
func Table(ctx context.Context, name string) string {
	return name + "_g" + strconv.FormatInt(GenerationOf(ctx).Number, 10)
}
