package cqrs

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// calls are the requests that wait for replies, and the one subscription they share.
type calls struct {
	mu      sync.Mutex
	open    map[string]chan *Delivery
	sub     message.Subscriber
	stopped chan struct{} // closed when the reader has returned
	stop    context.CancelFunc
	serving *runner
}

// CallTopic is the topic on which this instance receives the replies to its calls.
func (p *Processor) CallTopic() string { return p.group + ".replies." + p.cfg.Instance }

// Call sends a command to the service that owns it and waits for its reply; p.Run must be running, else it returns
// [ErrNotRunning]. Inside a transaction it returns [ErrInTransaction], for the command would leave only with the
// commit. The deadline of ctx goes with the command.
//
// It returns the handler's result, its [Rejection] with code and text, or [ErrNotExecuted]. When ctx ends first it
// returns its error, and the outcome is unknown: the command may still run.
func Call[R any](ctx context.Context, p *Processor, cmd Request[R]) (R, error) {
	var r R
	if p.InTransaction(ctx) {
		return r, ErrInTransaction
	}
	d, err := p.ask(ctx, cmd)
	if err != nil {
		return r, err
	}
	a, err := ParseAnswer(d)
	if err != nil {
		return r, err
	}
	if err := a.Err(); err != nil || len(a.Payload) == 0 {
		return r, err
	}
	if err := p.sender.catalog.codec.Decode(a.Payload, &r); err != nil {
		return r, fmt.Errorf("%w result of %T: %w", ErrUndecodable, cmd, err)
	}
	return r, nil
}

func (p *Processor) ask(ctx context.Context, cmd any) (*Delivery, error) {
	token := newID()
	reply, over, err := p.calls.expect(p, token)
	if err != nil {
		return nil, err
	}
	defer p.calls.forget(token)
	options := []SendOption{ReplyTo(p.CallTopic(), token)}
	if t, ok := ctx.Deadline(); ok {
		options = append(options, Deadline(t))
	}
	err = p.do(ctx, func(ctx context.Context) error { return p.sender.Send(ctx, cmd, options...) })
	if err != nil {
		return nil, err
	}
	select {
	case d := <-reply:
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-over:
		return nil, fmt.Errorf("%w any more; the outcome is unknown", ErrNotRunning)
	}
}

// serve lets calls subscribe while r runs; the function it returns ends that.
func (c *calls) serve(r *runner) (end func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = r
	return c.end
}

func (c *calls) end() error {
	c.mu.Lock()
	sub, stop, stopped := c.sub, c.stop, c.stopped
	c.serving, c.sub, c.stop, c.stopped = nil, nil, nil, nil
	c.mu.Unlock()
	if sub == nil {
		return nil
	}
	stop()
	err := sub.Close()
	<-stopped
	return err
}

// expect registers a token; the first call of a run subscribes, so that others cost nothing.
func (c *calls) expect(p *Processor, token string) (reply chan *Delivery, over <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving == nil {
		return nil, nil, ErrNotRunning
	}
	if err := c.listen(p); err != nil {
		return nil, nil, err
	}
	if c.open == nil {
		c.open = map[string]chan *Delivery{}
	}
	reply = make(chan *Delivery, 1)
	c.open[token] = reply
	return reply, c.stopped, nil
}

func (c *calls) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, token)
}

// listen subscribes unless that is done; a subscription that has ended by itself is replaced. The caller holds mu.
func (c *calls) listen(p *Processor) error {
	if c.sub == nil {
		return c.subscribe(p)
	}
	select {
	case <-c.stopped:
	default:
		return nil
	}
	c.stop()
	err := c.sub.Close()
	c.sub, c.stop, c.stopped = nil, nil, nil
	if err != nil {
		return fmt.Errorf("cqrs: close the subscriber of replies: %w", err)
	}
	return c.subscribe(p)
}

func (c *calls) subscribe(p *Processor) error {
	topic := p.CallTopic()
	sub, err := p.cfg.Subscribe(topic)
	if err != nil {
		return fmt.Errorf("cqrs: subscriber of replies: %w", err)
	}
	ctx, stop := context.WithCancel(c.serving.ctx)
	ch, err := sub.Subscribe(ctx, topic)
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("cqrs: subscribe to %q: %w", topic, err), sub.Close())
	}
	c.sub, c.stop, c.stopped = sub, stop, make(chan struct{})
	go c.read(ch, c.stopped)
	return nil
}

// read hands replies to those who wait. A reply that nobody waits for any more is dropped.
func (c *calls) read(ch <-chan *message.Message, stopped chan struct{}) {
	defer close(stopped)
	for m := range ch {
		d := &Delivery{Envelope: EnvelopeFrom(m), Payload: m.Payload, Metadata: m.Metadata}
		c.mu.Lock()
		reply := c.open[d.Envelope.Token]
		delete(c.open, d.Envelope.Token)
		c.mu.Unlock()
		if reply != nil {
			reply <- d
		}
		m.Ack()
	}
}
