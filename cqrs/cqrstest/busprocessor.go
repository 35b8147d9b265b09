package cqrstest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/surge-go/surge/cqrs"
)

// note is a message of a processor's catalog.
type note struct {
	Key string `json:"key"`
	N   int    `json:"n"`
}

// busProcessor runs a processor on the bus whose handler fails every message once, stops it, and runs another one.
func busProcessor(l *line) {
	const keys, each = 6, 20
	c := cqrs.NewCatalog(cqrs.Event[note]{
		Name: "cqrstest.note", Topic: l.Topic, Key: func(n note) string { return n.Key },
	})
	s, err := cqrs.NewSender(c, l.Bus.Publisher(), cqrs.SenderConfig{Source: "cqrstest"})
	must(l, err)
	b := newBook(l, keys*each)
	tries := &tries{failed: map[string]bool{}}
	stop := l.process(s, func(_ context.Context, n note) error { return tries.handle(b, n) })
	l.out.Go(func() { // on some buses it waits for the handlers
		for i := range each {
			l.send(s, round(keys, i)...)
		}
	})
	b.close(l)
	stop()
	again := make(chan note, keys*each)
	defer l.process(s, func(_ context.Context, n note) error {
		select {
		case again <- n:
		default:
		}
		return nil
	})()
	l.send(s, note{key(0), each})
	for {
		n := l.note(again)
		if n.N == each {
			return
		}
		if l.Claims.Drains {
			l.Fatalf("%+v came again after an orderly stop", n)
		}
	}
}

func (l *line) note(in <-chan note) note {
	l.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case n := <-in:
		return n
	case <-timer.C:
		l.Fatal("the next processor got nothing")
	}
	return note{}
}

func key(k int) string { return string(rune('a' + k)) }

func round(keys, i int) []any {
	var all []any
	for k := range keys {
		all = append(all, note{key(k), i})
	}
	return all
}

func (l *line) send(s *cqrs.Sender, events ...any) {
	l.fault(s.Publish(l.Context(), events...))
}

// process runs a processor until the function it returns is called.
func (l *line) process(s *cqrs.Sender, h func(context.Context, note) error) (stop func()) {
	l.Helper()
	p, err := cqrs.NewProcessor(l.group, s, cqrs.ProcessorConfig{
		Subscribe: func(group string) (message.Subscriber, error) { return l.Bus.Subscriber(group) },
		Retry:     cqrs.Retry{Min: time.Millisecond},
	})
	must(l, err)
	cqrs.On(p, h)
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.Context()))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	select {
	case <-p.Running():
	case err := <-ended:
		cancel()
		l.Fatalf("Run = %v", err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				l.Errorf("Run = %v", err)
			}
		})
	}
	l.Cleanup(stop)
	return stop
}

// tries fails every message the first time.
type tries struct {
	mu     sync.Mutex
	failed map[string]bool
}

var errFirst = errors.New("cqrstest: the first time fails")

func (t *tries) handle(b *book, n note) error {
	id := keyed(n.Key, n.N, 1)[0].UUID
	t.mu.Lock()
	first := !t.failed[id]
	t.failed[id] = true
	t.mu.Unlock()
	if first {
		return errFirst
	}
	b.enter(id, n.Key)
	return nil
}
