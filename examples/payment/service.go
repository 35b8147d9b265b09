// Package payment is the payment service: it moves money at a provider, once for each order and back when it must.
//
// Its API is for callers who are trusted, behind the gateway: a payment has no owner, so whoever may call can capture,
// void and refund any of them. The shop's gateway only shows payments; the saga moves them.
package payment

import (
	"cmp"
	"context"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs/effect"
	"github.com/surge-go/surge/examples/contracts"
	"github.com/surge-go/surge/examples/internal/unit"
	"github.com/surge-go/surge/examples/payment/adapters"
	"github.com/surge-go/surge/examples/payment/app"
	"github.com/surge-go/surge/resilience"
	"github.com/surge-go/surge/saga"
)

// Config configures the service.
type Config struct {
	unit.Config

	Bank     string        // the provider's URL; required
	Patience time.Duration // for an answer of the provider, 500 ms to 1 s; 0 means 1 s
	Sweep    time.Duration // how long an intent may be open before the service goes on with it by itself; 0 means 30 s
}

// Open wires the service. It starts nothing; its Run does.
func Open(ctx context.Context, cfg Config) (*unit.Unit, error) {
	cfg.Migrations = []func(context.Context, *gorm.DB) error{saga.Migrate, adapters.Migrate}
	u, err := unit.Open(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	if err := wire(u, cfg); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

func wire(u *unit.Unit, cfg Config) error {
	patience := min(max(cmp.Or(cfg.Patience, time.Second), 500*time.Millisecond), time.Second)
	bank, err := adapters.NewBank(adapters.BankConfig{
		URL: cfg.Bank, Keys: !u.Unsafe().Idempotency, Try: patience, Cooldown: patience,
	})
	if err != nil {
		return err
	}
	runner, err := effect.New(u.Processor, u.Effects, effect.Config{
		Outcome: outcome, Timeout: 4 * patience, MaxBackoff: 2 * patience, Poll: patience, Owner: u.Name(),
		Logger: u.Logger(),
	})
	if err != nil {
		return err
	}
	payments := &app.Payments{Repository: adapters.NewPayments(u.Sender), Provider: bank}
	reads := adapters.NewReads(u.DB())

	void := effect.Handler(runner, payments.Void())
	unit.Participant(u, effect.Handler(runner, payments.Authorize()),
		func(ctx context.Context, c contracts.VoidPayment) error {
			_, err := void(ctx, c)
			return err
		})
	unit.Forward(u, effect.Handler(runner, payments.Capture()))
	unit.Forward(u, effect.Handler(runner, payments.Refund()))

	u.Add(bankPart{bank}, runner)
	if !u.Unsafe().Idempotency { // without keys, to ask again is to pay again
		u.Add(&app.Sweeper{
			Payments: payments, Work: u.Work, Reads: reads, Age: cmp.Or(cfg.Sweep, 30*time.Second), Logger: u.Logger(),
		})
	}
	u.Serve(adapters.API{Work: u.Work, Payments: payments, Reads: reads, Keys: u.Keys, Logger: u.Logger()}.Handler())
	return nil
}

// bankPart closes the bank's connections when the service ends.
type bankPart struct{ *adapters.Bank }

// Run implements host.Part.
func (b bankPart) Run(ctx context.Context) error {
	<-ctx.Done()
	b.Close()
	return nil
}

// outcome tells the effects what the resilience package knows of an error.
func outcome(err error) effect.Outcome {
	switch resilience.OutcomeOf(err) {
	case resilience.NotExecuted:
		return effect.NotExecuted
	case resilience.Failed:
		return effect.Failed
	default:
		return effect.InDoubt
	}
}
