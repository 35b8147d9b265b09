package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/surge-go/surge/cqrs/aggregate"
)

var (
	// ErrInvalid is wrapped by every refusal of a value.
	ErrInvalid = errors.New("payment: invalid")
	// ErrWrongState is returned for a move that the payment's state does not allow.
	ErrWrongState = errors.New("payment: not possible in this state")
	// ErrBusy is returned for an intent while another one is open. It passes.
	ErrBusy = errors.New("payment: another operation is under way")
)

// PaymentID names a payment; it is the order's ID.
type PaymentID string

// Operation is something that a provider does.
type Operation string

// What a provider is asked for.
const (
	OpAuthorize Operation = "authorize"
	OpCapture   Operation = "capture"
	OpVoid      Operation = "void"
	OpRefund    Operation = "refund"
)

// Key is the idempotency key under which the provider hears of the operation, however often it is asked.
func (id PaymentID) Key(op Operation) string {
	sum := sha256.Sum256([]byte(string(op) + "\x00" + string(id)))
	return hex.EncodeToString(sum[:16])
}

// Money is an amount in cents.
type Money int64

// Status says where a payment stands.
type Status string

// The states of a payment; see the package's comment for the moves.
const (
	Authorizing Status = "authorizing"
	Authorized  Status = "authorized"
	Declined    Status = "declined"
	Capturing   Status = "capturing"
	Captured    Status = "captured"
	Voiding     Status = "voiding"
	Voided      Status = "voided"
	Refunding   Status = "refunding"
	Refunded    Status = "refunded"
)

// Events of a payment.
type (
	// PaymentAuthorized says that the money is set aside.
	PaymentAuthorized struct {
		ID     PaymentID
		Amount Money
	}
	// PaymentDeclined says that there is no money, and why.
	PaymentDeclined struct {
		ID     PaymentID
		Reason string
	}
	// PaymentCaptured says that the money was taken.
	PaymentCaptured struct {
		ID     PaymentID
		Amount Money
	}
	// PaymentVoided says that the money is no longer set aside.
	PaymentVoided struct{ ID PaymentID }
	// PaymentRefunded says that the money went back.
	PaymentRefunded struct {
		ID     PaymentID
		Amount Money
	}
)

// Payment is the aggregate. It is not safe for concurrent use.
type Payment struct {
	aggregate.Root
	s Snapshot
}

// Snapshot is the state of a payment, for repositories and views.
type Snapshot struct {
	ID            PaymentID
	Card          string
	Amount        Money
	Status        Status
	Authorization string // the provider's name for the money set aside
	Capture       string // the provider's name for the charge
	Refund        string
	Reason        string // why it was declined
}

// Begin is the factory of new payments: it records the intent to authorize.
func Begin(id PaymentID, card string, amount Money) (*Payment, error) {
	if id == "" || card == "" || amount <= 0 {
		return nil, fmt.Errorf("%w: a payment has an ID, a card and a positive amount", ErrInvalid)
	}
	return &Payment{s: Snapshot{ID: id, Card: card, Amount: amount, Status: Authorizing}}, nil
}

// Restore is the factory of payments that were saved before.
func Restore(s Snapshot, version int64) *Payment {
	p := &Payment{s: s}
	p.Saved(version)
	return p
}

// Snapshot returns the payment's state.
func (p *Payment) Snapshot() Snapshot { return p.s }

// ID names the payment.
func (p *Payment) ID() PaymentID { return p.s.ID }

// Status says where the payment stands.
func (p *Payment) Status() Status { return p.s.Status }

// Authorize records that the provider set the money aside under this name.
func (p *Payment) Authorize(name string) error {
	if err := p.settle(Authorizing, Authorized); err != nil {
		return err
	}
	p.s.Authorization = name
	p.Record(PaymentAuthorized{ID: p.s.ID, Amount: p.s.Amount})
	return nil
}

// Decline records that the provider refused to set the money aside.
func (p *Payment) Decline(reason string) error {
	if err := p.settle(Authorizing, Declined); err != nil {
		return err
	}
	p.s.Reason = reason
	p.Record(PaymentDeclined{ID: p.s.ID, Reason: reason})
	return nil
}

// BeginCapture records the intent to take the money.
func (p *Payment) BeginCapture() error { return p.begin(Authorized, Capturing, Captured) }

// Capture records that the provider took the money under this name.
func (p *Payment) Capture(name string) error {
	if err := p.settle(Capturing, Captured); err != nil {
		return err
	}
	p.s.Capture = name
	p.Record(PaymentCaptured{ID: p.s.ID, Amount: p.s.Amount})
	return nil
}

// AbandonCapture records that the provider took no money and never will under that key.
func (p *Payment) AbandonCapture() error { return p.settle(Capturing, Authorized) }

// BeginVoid records the intent to give up the money that was set aside.
func (p *Payment) BeginVoid() error { return p.begin(Authorized, Voiding, Voided) }

// Void records that the provider gave it up.
func (p *Payment) Void() error {
	if err := p.settle(Voiding, Voided); err != nil {
		return err
	}
	p.Record(PaymentVoided{ID: p.s.ID})
	return nil
}

// BeginRefund records the intent to give the money back.
func (p *Payment) BeginRefund() error { return p.begin(Captured, Refunding, Refunded) }

// Refund records that the provider gave it back under this name.
func (p *Payment) Refund(name string) error {
	if err := p.settle(Refunding, Refunded); err != nil {
		return err
	}
	p.s.Refund = name
	p.Record(PaymentRefunded{ID: p.s.ID, Amount: p.s.Amount})
	return nil
}

// begin opens an intent. Opening the same one again does nothing, even when it has been settled since, so that a
// command may be repeated.
func (p *Payment) begin(from, to, done Status) error {
	switch p.s.Status {
	case to, done:
		return nil
	case from:
		p.s.Status = to
		return nil
	case Authorizing, Capturing, Voiding, Refunding:
		return fmt.Errorf("%w: %s is %s", ErrBusy, p.s.ID, p.s.Status)
	default:
		return p.wrong(to)
	}
}

// settle closes an intent.
func (p *Payment) settle(from, to Status) error {
	if p.s.Status != from {
		return p.wrong(to)
	}
	p.s.Status = to
	return nil
}

func (p *Payment) wrong(to Status) error {
	return fmt.Errorf("%w: %s is %s and cannot become %s", ErrWrongState, p.s.ID, p.s.Status, to)
}
