package cqrs

import "context"

// An Observer is told what a [Processor] does while it does it, for telemetry: cqrs/cqrsotel has one. Each method
// returns the context to go on with, and what is called when it is over. They are called by many goroutines, between
// messages, so they are quick and never wait.
type Observer interface {
	// Batch is called before a transaction of messages. The error is that of the transaction: it did not commit,
	// and its messages will be in another one.
	Batch(ctx context.Context, group string, batch []*Delivery) (context.Context, func(err error))
	// Handle is called before a handler, and its behaviors, with one message; a batch handler gets as many as there
	// are. The error is the handler's; what fails alone has its own in Delivery.Err. It is called again for
	// messages that run again, and for a call whose transaction is then undone.
	Handle(ctx context.Context, group string, messages []*Delivery) (context.Context, func(err error))
	// Execute is called before a command is executed, and over after the commit.
	Execute(ctx context.Context, group string, cmd any) (context.Context, func(err error))
}

// observeBatch is called with an observer configured.
func (b *batch) observeBatch(ctx context.Context) (context.Context, func(error)) {
	ds := make([]*Delivery, len(b.items))
	for i, it := range b.items {
		ds[i] = it.d
	}
	return b.p.cfg.Observer.Batch(ctx, b.p.group, ds)
}

// observe calls run, and tells the observer. What does not return has panicked.
func (b *batch) observe(ctx context.Context, ds []*Delivery, run func(context.Context) error) error {
	if b.p.cfg.Observer == nil {
		return run(ctx)
	}
	ctx, end := b.p.cfg.Observer.Handle(ctx, b.p.group, ds)
	err := ErrPanic
	defer func() { end(err) }()
	err = run(ctx)
	return err
}

func observeExecute[R any](ctx context.Context, p *Processor, cmd Request[R]) (R, error) {
	ctx, end := p.cfg.Observer.Execute(ctx, p.group, cmd)
	err := ErrPanic
	defer func() { end(err) }()
	r, failed := execute(ctx, p, cmd)
	err = failed
	return r, err
}
