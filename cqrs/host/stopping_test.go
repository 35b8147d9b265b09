package host_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
)

// A part that panics or ends its goroutine has failed, and the others stop in order.
func TestPartsAreContained(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svc := open(t, "orders", newDB(t), host.Config{})
			stopped := false
			svc.Add(
				part(func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }),
				part(func(context.Context) error { wrong(); return nil }),
			)
			err := svc.Run(t.Context())
			if !errors.Is(err, cqrs.ErrPanic) || !stopped || !strings.Contains(err.Error(), "part 2 of orders") {
				t.Errorf("Run = %v, stopped %v", err, stopped)
			}
		})
	}
}
