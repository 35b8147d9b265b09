package saga_test

import (
	"strings"
	"testing"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// A reply that is garbage suspends the instance that waits for it, which keeps it. One that nobody waits for, or that
// carries no token of a saga, is left out.
func TestGarbageReplySuspendsItsInstance(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, patient(def.undo("a")), patient(def.pivot("p"))),
		saga.EngineConfig{}, uow.Config{})
	l.consume()
	for id, env := range map[string]cqrs.Envelope{
		"rejection": {Outcome: cqrs.OutcomeRejected},
		"outcome":   {Outcome: "whatever"},
		"payload":   {Outcome: cqrs.OutcomeOK},
	} {
		l.start(id)
		i := l.at(id, saga.Running, "a")
		for _, token := range []string{"nonsense", i.ID + ":2:d:a", "nobody:1:d:a"} {
			env.ID, env.Token = id+token, token
			l.replied(env, "garbage")
		}
		l.at(id, saga.Running, "a")
		env.ID, env.Token = id, i.ID+":1:d:a"
		l.replied(env, "garbage")
		i = l.at(id, saga.Suspended, "a")
		if !strings.Contains(i.Reason, "reply to a") {
			t.Errorf("suspended because of %q", i.Reason)
		}

		// Retrying cannot help. Whatever else an operator does leaves the garbage out.
		v := saga.Intervention{Type: "lab", Key: id, Action: saga.ActRetry, Actor: "ann", Reason: "hope"}
		if l.engine.Intervene(t.Context(), v) == nil {
			t.Error("the garbage was taken")
		}
		v.Action = saga.ActAbort
		must(t, l.engine.Intervene(t.Context(), v))
		l.at(id, saga.Compensating, "a")
	}
}
