package sagatest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga/internal/flow"
)

// epoch is where virtual time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const instanceID = "saga"

// A stage applies inputs to an encoded instance, as the engine does.
type stage struct {
	g      *flow.Graph
	locals map[string]func(context.Context, any) error
}

// apply returns the instance after input and what leaves it.
func (s *stage) apply(state, cursor []byte, in flow.Input, now time.Time) (*flow.Instance, flow.Result, error) {
	env := flow.Env{Now: now, Decode: json.Unmarshal, Local: s.local}
	for range 100 {
		inst, err := s.g.Decode(instanceID, state, cursor)
		if err != nil {
			return nil, flow.Result{}, err
		}
		res, err := s.g.Apply(inst, in, env)
		var local *flow.LocalError
		if !errors.As(err, &local) {
			return inst, res, err
		}
		if env.Failed == nil {
			env.Failed = map[string]error{}
		}
		env.Failed[local.Node] = local.Err
	}
	return nil, flow.Result{}, errors.New("locals never stop failing")
}

// local runs a local. One that wants a database is taken to have succeeded.
func (s *stage) local(n *flow.Node, state any) error {
	run := func(ctx context.Context) error { return n.Run(ctx, state) }
	if f := s.locals[n.Name]; f != nil {
		run = func(ctx context.Context) error { return f(ctx, state) }
	}
	if err := run(context.Background()); !errors.Is(err, uow.ErrNoTransaction) {
		return err
	}
	return nil
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sagatest: %T cannot be encoded: %v", v, err))
	}
	return data
}
