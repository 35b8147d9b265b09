package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/query"
	"github.com/surge-go/surge/examples/payment/domain"
)

// Sweeper settles intents that nobody is at work on: whoever waited for [Payments.Perform] was cut off from the
// provider's answer, and does not come back. It sends the same request under the same key, which the provider must
// remember for longer than the sweeper may be down. So it is safe beside requests and effects that are under way, and
// beside other sweepers. All fields are required.
type Sweeper struct {
	Payments *Payments
	Work     cqrs.UnitOfWork
	Reads    *query.Mux    // answers ListOpen
	Age      time.Duration // an intent that is open for this long is settled before twice the time is over
	Logger   *slog.Logger
}

// Run implements host.Part.
func (s *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(s.Age)
	defer tick.Stop()
	for seen := map[domain.PaymentID]int64{}; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			seen = s.sweep(ctx, seen)
		}
	}
}

// sweep settles what is open and has not changed since it was seen, and returns what it has seen now.
func (s *Sweeper) sweep(ctx context.Context, seen map[domain.PaymentID]int64) map[domain.PaymentID]int64 {
	open, err := query.Ask(ctx, s.Reads, ListOpen{})
	if err != nil {
		s.Logger.WarnContext(ctx, "open payments are not read", "error", err)
		return seen
	}
	now := make(map[domain.PaymentID]int64, len(open))
	for _, p := range open {
		now[p.ID] = p.Version
		if version, old := seen[p.ID]; !old || version != p.Version || ctx.Err() != nil {
			continue
		}
		o := opened[p.Status]
		key, r := request(p.Snapshot, o.op)
		if _, err := s.Payments.finish(ctx, s.Work, o, key, r); err != nil {
			s.Logger.WarnContext(ctx, "an open payment", "payment", p.ID, "status", p.Status, "error", err)
		}
	}
	return now
}

// opened is the operation that a payment with an open intent waits for.
var opened = map[domain.Status]operation{
	domain.Authorizing: authorize, domain.Capturing: capture, domain.Voiding: void, domain.Refunding: refund,
}
