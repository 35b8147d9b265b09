package cqrs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// rejectionText is a rejection on the wire and in stored outcomes.
type rejectionText struct {
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

func textOf(r *Rejection) *rejectionText {
	t := &rejectionText{Code: r.Code}
	if r.Err != nil {
		t.Message = r.Err.Error()
	}
	return t
}

func (t *rejectionText) rejection() *Rejection {
	r := &Rejection{Code: t.Code}
	if t.Message != "" {
		r.Err = errors.New(t.Message)
	}
	return r
}

// ParseAnswer reads a reply that a consumer of a reply topic got.
func ParseAnswer(d *Delivery) (Answer, error) {
	a := Answer{Outcome: d.Envelope.Outcome}
	switch a.Outcome {
	case OutcomeOK:
		a.Payload = d.Payload
	case OutcomeRejected:
		var t rejectionText
		if err := json.Unmarshal(d.Payload, &t); err != nil {
			return a, fmt.Errorf("%w rejection: %w", ErrUndecodable, err)
		}
		a.Rejection = t.rejection()
	case OutcomeNotExecuted:
	default:
		return a, fmt.Errorf("%w: a reply with outcome %q", ErrUndecodable, a.Outcome)
	}
	return a, nil
}

// Err is nil when the outcome is ok, the [Rejection], or [ErrNotExecuted].
func (a Answer) Err() error {
	switch {
	case a.Rejection != nil:
		return a.Rejection
	case a.Outcome == OutcomeNotExecuted:
		return ErrNotExecuted
	}
	return nil
}

func (p *Processor) answerOf(result any, err error) (Answer, error) {
	no := AsRejection(err)
	switch {
	case no != nil:
		return Answer{Outcome: OutcomeRejected, Rejection: no}, nil
	case errors.Is(err, ErrNotExecuted):
		return Answer{Outcome: OutcomeNotExecuted}, nil
	case err != nil:
		return Answer{}, fmt.Errorf("cqrs: neither a result nor a refusal: %w", err)
	case result == nil:
		return Answer{Outcome: OutcomeOK}, nil
	}
	payload, err := p.sender.catalog.codec.Encode(result)
	if err != nil {
		return Answer{}, fmt.Errorf("cqrs: encode result %T: %w", result, err)
	}
	return Answer{Outcome: OutcomeOK, Payload: payload}, nil
}

// Reply answers a command whose handler returned [ErrDeferred]: it runs the handler's [OnReply] hooks and sends the
// reply, if env asks for one. It is called inside a unit of work, once. err is nil, a [Rejection] or
// [ErrNotExecuted]; result is the handler's R, ignored unless err is nil. A json.RawMessage is an encoded result.
func Reply(ctx context.Context, p *Processor, env Envelope, result any, err error) error {
	raw, encoded := result.(json.RawMessage)
	if encoded {
		result = nil // whatever the codec would make of it
	}
	a, err := p.answerOf(result, err)
	if err != nil {
		return err
	}
	if encoded && a.Outcome == OutcomeOK {
		a.Payload = raw
	}
	return p.SendAnswer(WithEnvelope(ctx, env), env, a)
}

// SendAnswer is Reply with the answer itself, for participants that send a stored answer again.
func (p *Processor) SendAnswer(ctx context.Context, env Envelope, a Answer) error {
	if h := p.answering(env.Type); h != nil {
		if err := runHooks(ctx, h, env, a); err != nil {
			return err
		}
	}
	return p.sendAnswer(WithEnvelope(ctx, env), env, a)
}

func runHooks(ctx context.Context, h *handler, env Envelope, a Answer) error {
	for _, hook := range h.onReply {
		err := hook(ctx, env, a)
		switch {
		case err == nil:
		case outcomeOnly(err): // wrapped, it would pass for the handler's own, which does not undo the handling
			return fmt.Errorf("cqrs: OnReply: %s", err.Error())
		default:
			return fmt.Errorf("cqrs: OnReply: %w", err)
		}
	}
	return nil
}

// sendAnswer publishes the reply; ctx's scope is that of the command.
func (p *Processor) sendAnswer(ctx context.Context, env Envelope, a Answer) error {
	if !p.replies(env) {
		return nil
	}
	payload := a.Payload
	if a.Rejection != nil {
		var err error
		if payload, err = json.Marshal(textOf(a.Rejection)); err != nil {
			return fmt.Errorf("cqrs: encode rejection: %w", err)
		}
	}
	out := outgoing{env: Envelope{
		Type: env.Type, Kind: KindReply, Key: env.Key, Token: env.Token, Outcome: a.Outcome,
	}}
	if out.env.Key == "" {
		out.env.Key = env.Token
	}
	if err := p.sender.pub.Publish(env.ReplyTo, p.sender.seal(ctx, out, payload)); err != nil {
		return fmt.Errorf("cqrs: reply to %q: %w", env.ReplyTo, err)
	}
	return nil
}

// replies reports whether somebody waits whom we may answer.
func (p *Processor) replies(env Envelope) bool {
	if env.ReplyTo == "" {
		return false
	}
	if !p.cfg.ReplyTopics(env.ReplyTo) {
		p.log.Error("reply topic is not allowed", "topic", env.ReplyTo, "type", env.Type, "id", env.ID)
		return false
	}
	return true
}

// answers reports whether anybody is to hear of what became of a command. A handler of events, nil, has no answer.
func (h *handler) answers(env *Envelope, answer error) bool {
	return h != nil && (len(h.onReply) > 0 || env.ReplyTo != "") && !errors.Is(answer, ErrDeferred)
}

// reply answers a command in the part that handled it.
func (b *batch) reply(ctx context.Context, h *handler, env Envelope, result any, answer error) error {
	if !h.answers(&env, answer) {
		return nil
	}
	a, err := b.p.answerOf(result, answer)
	if err != nil {
		return err
	}
	if err := runHooks(ctx, h, env, a); err != nil {
		return err
	}
	return b.p.sendAnswer(ctx, env, a)
}

// announce tells a handler's hooks the outcome of an execution. Technical errors are no outcome.
func (p *Processor) announce(ctx context.Context, h *handler, env Envelope, result any, err error) error {
	if err != nil && AsRejection(err) == nil && !errors.Is(err, ErrNotExecuted) {
		return nil
	}
	a, err := p.answerOf(result, err)
	if err != nil {
		return err
	}
	return runHooks(ctx, h, env, a)
}

// executed is the envelope that hooks see of an execution.
func (p *Processor) executed(ctx context.Context, cmd any) Envelope {
	from := scopeOf(ctx).origin()
	env := Envelope{
		ID: from.ID, Kind: KindCommand, Source: p.sender.cfg.Source, Key: p.sender.catalog.KeyOf(cmd),
		Correlation: from.Correlation, Conversation: from.Conversation, OccurredAt: time.Now(),
	}
	if e := p.sender.catalog.entryOf(cmd); e != nil {
		env.Type, env.Version = e.Name, e.Version
	}
	return env
}
