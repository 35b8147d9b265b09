package sagatest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/saga"
	"github.com/surge-go/surge/saga/internal/flow"
)

// A Reply stands in for what is around the saga: [Answer], [Undo], [Signal], [CancelAt], [Stub].
type Reply interface{ reply(*player) }

type replyFunc func(*player)

func (f replyFunc) reply(p *player) { f(p) }

// Answer answers a step's command: with the result, with a [cqrs.Rejection], or with [cqrs.ErrNotExecuted].
// Any other error stands for silence: the command was lost, or its reply was. f is called for every try until it has
// answered; then the token's answer is remembered, as a participant does.
func Answer[C cqrs.Request[R], R any](f func(context.Context, C) (R, error)) Reply {
	return replyFunc(func(p *player) {
		p.answers[reflect.TypeFor[C]()] = func(ctx context.Context, cmd any) (any, error) { return f(ctx, cmd.(C)) }
	})
}

// Undo takes a compensation. Its errors mean what they mean to [Answer].
func Undo[C any](f func(context.Context, C) error) Reply {
	return replyFunc(func(p *player) {
		p.answers[reflect.TypeFor[C]()] = func(ctx context.Context, cmd any) (any, error) {
			return nil, f(ctx, cmd.(C))
		}
	})
}

// Signal gives the saga an event that it waits for, a value or a pointer. It comes at the start, and is kept until it
// is awaited.
func Signal[E any](event E) Reply {
	return replyFunc(func(p *player) {
		t := reflect.TypeFor[E]()
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		p.check(p.stage.g.Waits()[t.Name()] != nil, "waits for no %s", t.Name())
		p.inputs = append(p.inputs, flow.Input{Kind: flow.Event, Event: t.Name(), Payload: encode(event)})
	})
}

// CancelAt asks to cancel when the command of a step, or of "undo step", is out and not yet answered; with "" after the
// saga's end.
func CancelAt(step, reason string) Reply {
	return replyFunc(func(p *player) {
		p.check(step == "" || p.stage.g.Node(strings.TrimPrefix(step, "undo ")) != nil, "has no step %q", step)
		p.cancels[step] = flow.Input{Kind: flow.Stop, Text: reason}
	})
}

// Stub runs f in place of a Local's Do. Without it a Local that looks for a transaction is taken to have succeeded.
func Stub[S any](local string, f func(context.Context, *S) error) Reply {
	return replyFunc(func(p *player) {
		n := p.stage.g.Node(local)
		p.check(n != nil && n.Kind == flow.Local, "has no Local %q", local)
		p.stage.locals[local] = func(ctx context.Context, s any) error { return f(ctx, s.(*S)) }
	})
}

// Result is what a run came to.
type Result[S any] struct {
	saga.Instance[S]
	Sent  []any         // commands, every try, in order
	Took  time.Duration // virtual time
	Steps []string      // the steps whose commands were sent, in order; undos as "undo name"
}

// Run runs one instance until it has ended, is parked, or waits for something that nobody will send. Virtual time
// passes only while nothing else happens. A command without an answer times out. A reply that names what the definition
// does not have fails t.
func Run[S any](t testing.TB, d *saga.Definition[S], start S, replies ...Reply) Result[S] {
	t.Helper()
	p := &player{
		stage:   stage{g: d.Graph(), locals: map[string]func(context.Context, any) error{}},
		answers: map[reflect.Type]func(context.Context, any) (any, error){},
		cancels: map[string]flow.Input{}, said: map[string]flow.Input{}, now: epoch,
	}
	for _, r := range replies {
		r.reply(p)
	}
	if len(p.faults) > 0 {
		t.Fatalf("sagatest: %s", strings.Join(p.faults, ", "))
	}
	in := &flow.Instance{ID: instanceID, State: &start}
	p.inputs = append([]flow.Input{{Kind: flow.Start}}, p.inputs...)
	for steps := 0; ; steps++ {
		if steps == 100_000 {
			t.Fatalf("sagatest: %s does not come to an end", d.Name())
		}
		if !p.next(in) {
			return Result[S]{Instance: d.Snapshot("test", in), Sent: p.sent, Took: p.now.Sub(epoch), Steps: p.steps}
		}
		state, cursor, err := in.Encode()
		if err != nil {
			t.Fatalf("sagatest: %v", err)
		}
		var res flow.Result
		if in, res, err = p.stage.apply(state, cursor, p.input, p.now); err != nil {
			t.Fatalf("sagatest: %s of %s: %v", p.input.Kind, d.Name(), err)
		}
		p.perform(res.Commands)
	}
}

// A player is the world around one run.
type player struct {
	stage   stage
	answers map[reflect.Type]func(context.Context, any) (any, error)
	said    map[string]flow.Input // by token
	cancels map[string]flow.Input // by step
	inputs  []flow.Input
	input   flow.Input
	now     time.Time
	sent    []any
	steps   []string
	faults  []string // of the replies
}

func (p *player) check(right bool, format string, a ...any) {
	if !right {
		p.faults = append(p.faults, p.stage.g.Name+" "+fmt.Sprintf(format, a...))
	}
}

// next chooses the next input: what has arrived, else the passing of time.
func (p *player) next(in *flow.Instance) bool {
	if len(p.inputs) > 0 {
		p.input, p.inputs = p.inputs[0], p.inputs[1:]
		return true
	}
	if due := in.Cursor.Due(); due != 0 {
		p.now = time.UnixMilli(max(due, p.now.UnixMilli())).UTC()
		p.input = flow.Input{Kind: flow.Timer}
		return true
	}
	if stop, ok := p.cancels[""]; ok {
		delete(p.cancels, "")
		p.input = stop
		return true
	}
	return false
}

func (p *player) perform(commands []flow.Command) {
	for _, c := range commands {
		p.sent = append(p.sent, c.Message)
		name := c.Token.Step
		if c.Token.Aim != flow.ToDo {
			name = "undo " + name
		}
		p.steps = append(p.steps, name)
		if stop, ok := p.cancels[name]; ok {
			delete(p.cancels, name)
			p.inputs = append(p.inputs, stop)
		}
		if in, ok := p.answer(c); ok {
			p.inputs = append(p.inputs, in)
		}
	}
}

func (p *player) answer(c flow.Command) (flow.Input, bool) {
	token := c.Token.String()
	if in, ok := p.said[token]; ok {
		return in, true
	}
	f := p.answers[reflect.TypeOf(c.Message)]
	if f == nil {
		return flow.Input{}, false
	}
	value, err := f(context.Background(), c.Message)
	in := flow.Input{
		Kind: flow.Reply, Step: c.Token.Step, Inc: c.Token.Inc, Undo: c.Token.Aim != flow.ToDo, Outcome: cqrs.OutcomeOK,
	}
	no := cqrs.AsRejection(err)
	switch {
	case no != nil:
		in.Outcome, in.Code = cqrs.OutcomeRejected, no.Code
		if no.Err != nil {
			in.Text = no.Err.Error()
		}
	case errors.Is(err, cqrs.ErrNotExecuted):
		in.Outcome = cqrs.OutcomeNotExecuted
	case err != nil:
		return flow.Input{}, false
	case value != nil:
		in.Payload = encode(value)
	}
	p.said[token] = in
	return in, true
}
