package domain

import (
	"context"

	"github.com/surge-go/surge/cqrs/aggregate"
)

// Payments is the port through which payments are kept, in the transaction in ctx. They are never deleted.
type Payments interface {
	// Get loads a payment, or returns aggregate.ErrNotFound.
	Get(ctx context.Context, id PaymentID) (*Payment, error)
	// Save keeps a payment and publishes what it recorded, in the same transaction. It returns aggregate.ErrExists
	// for a new one whose ID is taken, and aggregate.ErrConflict if somebody else has saved it since.
	Save(ctx context.Context, p *Payment) error
}

var _ Payments = aggregate.Repository[Payment, PaymentID](nil)

// Request is what a provider is asked to do.
type Request struct {
	Operation Operation
	Payment   PaymentID
	Card      string // for an authorization
	Amount    Money
	Reference string // the provider's name for what is captured, voided or refunded
}

// Answer is the provider's: the name of what it did, or why it refused.
type Answer struct {
	Name    string
	Refused string // "" means that it was done
}

// Provider is the port to whoever moves the money. It is called outside of any transaction.
type Provider interface {
	// Do asks for an operation under a key. An empty key asks for it anew each time.
	// An error means that the outcome may be unknown; a refusal is an [Answer].
	Do(ctx context.Context, key string, r Request) (Answer, error)
}
