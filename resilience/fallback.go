package resilience

import "context"

// Fallback answers by fn when the layers inside fail, as [DoOr] does, for every call of the pipeline. T must
// be the type of the calls: in a call of another type the fallback itself fails.
//
// A fallback that succeeds hides the outcome of the call, so it belongs around reads, not around writes. It
// must be outside of every policy that needs to see the failure; [New] refuses it elsewhere.
func Fallback[T any](fn func(context.Context, error) (T, error)) Policy {
	return &fallback{fn: fn, missing: fn == nil}
}

type fallback struct {
	fn      any
	missing bool
}

func (f *fallback) describe() string { return "fallback" }
func (f *fallback) fresh() Policy    { return f }

func (f *fallback) check() error {
	if f.missing {
		return errNilFunction
	}
	return nil
}

func (f *fallback) run(ctx context.Context, c *call, i int) error {
	err := c.next(ctx, i)
	if err == nil {
		return nil
	}
	return c.leaf.fallBack(ctx, err, f.fn)
}
