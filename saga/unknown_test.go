package saga_test

import (
	"errors"
	"testing"

	"github.com/surge-go/surge/outbox/uow"
	"github.com/surge-go/surge/saga"
)

// An operator who mistypes a type or a key is told that there is no such saga.
func TestInterveneOnNothingIsNotFound(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite", saga.MustDefine("lab", 1, hear("w")), saga.EngineConfig{}, uow.Config{})
	for _, v := range []saga.Intervention{{Type: "labb", Key: "x"}, {Type: "lab", Key: "x"}, {Type: "lab"}, {}} {
		v.Action, v.Actor, v.Reason = saga.ActRetry, "ann", "typo"
		if err := l.engine.Intervene(t.Context(), v); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("%q %q: %v", v.Type, v.Key, err)
		}
	}
}
