package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
)

type publisher struct {
	bus     *Bus
	maxSize int // of a record, as sarama counts its bytes

	connecting sync.Mutex // held while a connection is made, which may take long

	mu      sync.Mutex
	current *producer
	careful bool           // the last batch failed
	closed  bool           //
	pending sync.WaitGroup // sends that outlive their Publish, connections that are being closed
}

// A producer is a connection that is closed once nobody sends on it any more.
type producer struct {
	sarama.SyncProducer
	users sync.WaitGroup
}

// Publish sends the batch and waits for the answers, no longer than the first message's context allows.
func (p *publisher) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	b := newBatch(topic, len(msgs))
	for i, m := range msgs {
		rec, err := p.record(topic, m)
		b.add(i, rec, m.Metadata[headerKey], err)
	}
	ctx := msgs[0].Context()
	if ctx.Done() == nil {
		return p.send(ctx, b)
	}
	if err := ctx.Err(); err != nil {
		return b.refuse(err)
	}
	res := make(chan error, 1)
	if !p.background(func() { res <- p.send(ctx, b) }) {
		return b.refuse(ErrClosed)
	}
	select {
	case err := <-res:
		return err
	case <-ctx.Done():
		p.distrust(nil, ctx.Err())
		return b.refuse(ctx.Err())
	}
}

// record marshals a message. One that sarama would refuse is refused here: sarama would go on with those behind it.
func (p *publisher) record(topic string, m *message.Message) (*sarama.ProducerMessage, error) {
	const headers = 2 // the version of the format from which records have them
	rec, err := p.bus.cfg.Publisher.Marshaler.Marshal(topic, m)
	if err != nil {
		return nil, &marshalError{err}
	}
	if n := rec.ByteSize(headers); n > p.maxSize {
		return nil, fmt.Errorf("%w: %d bytes, Producer.MaxMessageBytes is %d", sarama.ErrMessageSizeTooLarge, n, p.maxSize)
	}
	return rec, nil
}

// background runs f on a goroutine that Close waits for.
func (p *publisher) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.pending.Go(f)
	}
	return !p.closed
}

func (p *publisher) send(ctx context.Context, b *batch) error {
	prod, careful, err := p.acquire()
	if err != nil {
		return b.refuse(err)
	}
	defer prod.users.Done()
	err = b.send(ctx, prod, careful)
	var pe *PublishError
	switch {
	case err == nil:
		p.trust(prod)
	case !errors.As(err, &pe) || !pe.Refused(): // else the message is to blame
		p.distrust(prod, err)
	}
	return err
}

// acquire returns the connection, a new one after a failure.
func (p *publisher) acquire() (*producer, bool, error) {
	p.connecting.Lock()
	defer p.connecting.Unlock()
	prod, careful, err := p.use(nil)
	if prod != nil || err != nil {
		return prod, careful, err
	}
	cfg := p.bus.cfg.producer()
	sp, err := sarama.NewSyncProducer(p.bus.brokers, cfg)
	if err != nil {
		return nil, false, fmt.Errorf("connect: %w", err)
	}
	if t := p.bus.cfg.Publisher.Tracer; t != nil {
		sp = t.WrapSyncProducer(cfg, sp)
	}
	if prod, careful, err = p.use(&producer{SyncProducer: sp}); err != nil {
		_ = sp.Close() // it has sent nothing
	}
	return prod, careful, err
}

// use takes the current connection, after setting it to fresh if that is given.
func (p *publisher) use(fresh *producer) (*producer, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, ErrClosed
	}
	if fresh != nil {
		p.current = fresh
	}
	if p.current != nil {
		p.current.users.Add(1)
	}
	return p.current, p.careful, nil
}

func (p *publisher) trust(prod *producer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == prod {
		p.careful = false
	}
}

// distrust replaces a connection that failed, or the current one when prod is nil.
func (p *publisher) distrust(prod *producer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.careful = true
	if prod == nil || p.current == prod {
		p.bus.cfg.Logger.Warn("publishing failed, the connection is replaced", "error", err)
		p.retire()
	}
}

// retire closes the current connection once its users are gone; the caller holds mu.
func (p *publisher) retire() {
	prod := p.current
	if p.current = nil; prod == nil {
		return
	}
	p.pending.Go(func() {
		prod.users.Wait()
		if err := prod.Close(); err != nil {
			p.bus.cfg.Logger.Warn("closing a producer failed", "error", err)
		}
	})
}

// Close waits for what is being sent, twice as long as a broker may take to answer (15 s unless the configuration says
// otherwise), then leaves it behind with [ErrUnanswered]: sarama's producer may wait for ever when brokers are killed.
func (p *publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.retire()
	p.mu.Unlock()
	defer p.bus.disown(p)
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.pending.Wait()
	}()
	limit := time.NewTimer(2 * p.bus.cfg.producer().Net.ReadTimeout)
	defer limit.Stop()
	select {
	case <-over:
		return nil
	case <-limit.C:
		return ErrUnanswered
	}
}
