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
	answers *answers // nil until the first call of a run
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
	reply, over, err := p.calls.expect(ctx, p, token)
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
		err = ctx.Err()
	case <-over:
		err = fmt.Errorf("%w any more; the outcome is unknown", ErrNotRunning)
	}
	select {
	case d := <-reply: // it has come, too
		return d, nil
	default:
		return nil, err
	}
}

// serve lets calls subscribe while r runs; the function it returns ends that.
func (c *calls) serve(r *runner) (end func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serving = r
	return func() error { return c.end(r.overtime) }
}

func (c *calls) end(overtime <-chan struct{}) error {
	c.mu.Lock()
	as := c.answers
	c.serving, c.answers = nil, nil
	c.mu.Unlock()
	if as == nil {
		return nil
	}
	return as.close(overtime)
}

// expect registers a token, once the subscription is there: the first call of a run makes it, so that runs without
// calls cost nothing.
func (c *calls) expect(ctx context.Context, p *Processor, token string) (chan *Delivery, <-chan struct{}, error) {
	as, err := c.subscription(p)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-as.made:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if as.err != nil {
		return nil, nil, as.err
	}
	reply := make(chan *Delivery, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]chan *Delivery{}
	}
	c.open[token] = reply
	return reply, as.over, nil
}

func (c *calls) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, token)
}

// subscription returns the one that is there or being made. One that failed or ended by itself is replaced.
func (c *calls) subscription(p *Processor) (*answers, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.serving == nil {
		return nil, ErrNotRunning
	}
	old := c.answers
	if old != nil {
		select {
		case <-old.over:
		default:
			return old, nil
		}
	}
	ctx, stop := context.WithCancel(c.serving.ctx)
	as := &answers{made: make(chan struct{}), over: make(chan struct{}), stop: stop}
	c.answers = as
	go func() {
		defer close(as.over)
		ch := as.open(ctx, p, old)
		if as.err == nil {
			c.read(ch)
		}
	}()
	return as, nil
}

// answers is a subscription to the replies of calls.
type answers struct {
	made chan struct{} // closed when it is there, or err says why not
	over chan struct{} // closed when it has ended
	stop context.CancelFunc
	sub  message.Subscriber
	err  error
}

// open subscribes, once what was there before is closed. A subscriber that panics or ends its goroutine has failed.
func (as *answers) open(ctx context.Context, p *Processor, old *answers) (ch <-chan *message.Message) {
	defer close(as.made)
	defer contain(&as.err)
	as.err = errExited
	if old != nil {
		if err := old.close(nil); err != nil {
			as.err = err
			return nil
		}
	}
	ch, as.err = as.subscribe(ctx, p)
	return ch
}

func (as *answers) subscribe(ctx context.Context, p *Processor) (<-chan *message.Message, error) {
	topic := p.CallTopic()
	sub, err := p.cfg.Subscribe(topic)
	if err != nil {
		return nil, fmt.Errorf("cqrs: subscriber of replies: %w", err)
	}
	if s, ok := sub.(message.SubscribeInitializer); ok {
		if err := s.SubscribeInitialize(topic); err != nil { // it may be there all the same
			p.log.Warn("topic of replies cannot be created", "topic", topic, "error", err)
		}
	}
	ch, err := sub.Subscribe(ctx, topic)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cqrs: subscribe to %q: %w", topic, err), sub.Close())
	}
	as.sub = sub
	return ch, nil
}

// close ends the subscription. One that is still being made when giveUp is closed ends as soon as it is there.
func (as *answers) close(giveUp <-chan struct{}) error {
	as.stop()
	select {
	case <-as.made:
	case <-giveUp:
		go func() { _ = as.close(nil) }()
		return fmt.Errorf("%w: the subscription to replies", ErrHung)
	}
	if as.err != nil {
		return nil // who asked for it was told
	}
	err := as.sub.Close()
	<-as.over
	if err != nil {
		return fmt.Errorf("cqrs: close the subscriber of replies: %w", err)
	}
	return nil
}

// read hands replies to those who wait. A reply that nobody waits for any more is dropped.
func (c *calls) read(ch <-chan *message.Message) {
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
