package cqrs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/surge-go/surge/cqrs"
)

// picky is a codec that knows its own types only, as that of Protobuf does.
type picky struct{ cqrs.JSON }

func (c picky) Encode(v any) ([]byte, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return nil, fmt.Errorf("picky: %T", raw)
	}
	return c.JSON.Encode(v)
}

// A result that is encoded already is the reply as it is, whatever the codec.
func TestReplyTakesAnEncodedResult(t *testing.T) {
	t.Parallel()
	b := newDB()
	s := newService(t, b, catalog().WithCodec(picky{}), b.config())
	env := cqrs.Envelope{ID: "1", Type: "shop.place", ReplyTo: "saga.replies", Token: "t"}
	const result = "\x0a\x01a" // no JSON
	err := b.Do(t.Context(), func(ctx context.Context) error {
		return cqrs.Reply(ctx, s.p, env, json.RawMessage(result), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.sentTo("saga.replies"); len(got) != 1 || string(got[0].Payload) != result {
		t.Errorf("replies %v", got)
	}
}
