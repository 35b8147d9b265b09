package migration

import (
	"context"

	"gorm.io/gorm"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/host"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// Buy is a command with a result. It is executed in the process that owns it, so it needs no topic.
type Buy struct {
	cqrs.Returns[string]
	ID, SKU string
}

// WithExecute answers callers directly. Concurrent callers share transactions: 64 of them cost a commit or two.
// The host wires what the steps before wired by hand.
func WithExecute(ctx context.Context, db *gorm.DB, bus host.Transport, cfg uow.Config) (*host.Service, error) {
	svc, err := host.Open(ctx, "orders", db, messages, host.Config{Transport: bus, UnitOfWork: cfg})
	if err != nil {
		return nil, err
	}
	register(svc.Processor, svc.Sender)
	cqrs.Handle(svc.Processor, func(ctx context.Context, c Buy) (string, error) {
		if err := uow.DB(ctx).Create(&Order{c.ID, c.SKU}).Error; err != nil {
			return "", err
		}
		return c.ID, svc.Sender.Publish(ctx, OrderPlaced{c.ID, c.SKU})
	})
	return svc, nil
}

type (
	ReserveStock struct {
		cqrs.Returns[Reserved]
		ID, SKU string
	}
	Reserved     struct{}
	ReleaseStock struct{ ID, SKU string }
	Charge       struct {
		cqrs.Returns[Charged]
		ID string
	}
	Charged struct{}

	// Fulfilment is the saga's state.
	Fulfilment struct{ ID, SKU, Why string }
)

var sagaMessages = cqrs.NewCatalog(
	cqrs.Event[OrderPlaced]{
		Name: "OrderPlaced", Topic: "events.OrderPlaced", Key: func(e OrderPlaced) string { return e.ID },
	},
	cqrs.Command[ReserveStock]{Name: "stock.reserve", Key: func(c ReserveStock) string { return c.ID }},
	cqrs.Command[ReleaseStock]{Name: "stock.release", Key: func(c ReleaseStock) string { return c.ID }},
	cqrs.Command[Charge]{Name: "payments.charge", Key: func(c Charge) string { return c.ID }},
)

func (f *Fulfilment) reserve() ReserveStock { return ReserveStock{ID: f.ID, SKU: f.SKU} }
func (f *Fulfilment) release() ReleaseStock { return ReleaseStock{ID: f.ID, SKU: f.SKU} }
func (f *Fulfilment) charge() Charge        { return Charge{ID: f.ID} }
func (f *Fulfilment) refused(no *cqrs.Rejection) {
	f.Why = no.Code
}

// fulfil takes the place of event handlers that send commands, and of those that clean up after them.
var fulfil = saga.MustDefine("fulfil", 1,
	saga.Step[Fulfilment, ReserveStock, Reserved]{
		Name: "reserve", Do: (*Fulfilment).reserve, Rejected: (*Fulfilment).refused,
		Undo: saga.Command((*Fulfilment).release),
	},
	saga.Step[Fulfilment, Charge, Charged]{
		Name: "charge", Do: (*Fulfilment).charge, Rejected: (*Fulfilment).refused, Pivot: true,
	},
)

// WithSaga says what belongs together, and what is undone when it does not work out.
func WithSaga(ctx context.Context, db *gorm.DB, charge func(context.Context, Charge) (Charged, error)) (
	*host.Service, *saga.Saga[Fulfilment], error,
) {
	svc, err := host.Open(ctx, "orders", db, sagaMessages, host.Config{
		Migrations: []func(context.Context, *gorm.DB) error{saga.Migrate},
	})
	if err != nil {
		return nil, nil, err
	}
	engine, err := saga.NewEngine(svc.Processor, saga.EngineConfig{})
	if err != nil {
		return nil, nil, err
	}
	fulfilments := saga.Register(engine, fulfil)
	saga.StartOn(fulfilments, func(e OrderPlaced) (string, Fulfilment) { return e.ID, Fulfilment{ID: e.ID, SKU: e.SKU} })
	svc.Add(engine)
	saga.Participant(svc.Processor,
		func(ctx context.Context, c ReserveStock) (Reserved, error) {
			return Reserved{}, reserve(uow.DB(ctx), c.SKU)
		},
		func(ctx context.Context, c ReleaseStock) error {
			return uow.DB(ctx).Model(&Stock{}).Where("sku = ?", c.SKU).Update("units", gorm.Expr("units + 1")).Error
		})
	saga.Participant(svc.Processor, charge, saga.NoUndo)
	return svc, fulfilments, nil
}
