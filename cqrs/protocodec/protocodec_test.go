package protocodec_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/surge-go/surge/cqrs"
	"github.com/surge-go/surge/cqrs/cqrstest"
	"github.com/surge-go/surge/cqrs/protocodec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var catalog = cqrs.NewCatalog(
	cqrs.Event[*wrapperspb.StringValue]{
		Name: "test.said", Key: func(s *wrapperspb.StringValue) string { return s.GetValue() },
	},
	cqrs.Event[*wrapperspb.Int64Value]{Name: "test.counted"},
).WithCodec(protocodec.Codec{})

func TestMessagesGoTheWholeWay(t *testing.T) {
	t.Parallel()
	s := cqrstest.NewScenario(t, catalog, func(p *cqrs.Processor, s *cqrs.Sender) {
		cqrs.On(p, func(ctx context.Context, e *wrapperspb.StringValue) error {
			return s.Publish(ctx, wrapperspb.Int64(int64(len(e.GetValue()))))
		})
	})
	s.When(wrapperspb.String("hello"))
	got := cqrstest.SentOf[*wrapperspb.Int64Value](s.Recorder)
	if len(got) != 1 || !proto.Equal(got[0], wrapperspb.Int64(5)) {
		t.Errorf("sent %v", got)
	}
}

func TestOtherValuesAreRefused(t *testing.T) {
	t.Parallel()
	var c protocodec.Codec
	if _, err := c.Encode("text"); !errors.Is(err, protocodec.ErrNotProto) {
		t.Errorf("Encode = %v", err)
	}
	text := new(string)
	for _, v := range []any{text, &text, (**wrapperspb.StringValue)(nil), nil} {
		if err := c.Decode(nil, v); !errors.Is(err, protocodec.ErrNotProto) {
			t.Errorf("Decode into %T = %v", v, err)
		}
	}
	var s *wrapperspb.StringValue
	if err := c.Decode([]byte{0xff}, &s); err == nil || s != nil {
		t.Errorf("Decode of garbage = %v, %v", s, err)
	}
	direct := new(wrapperspb.StringValue)
	if err := c.Decode([]byte{10, 1, 'x'}, direct); err != nil || direct.GetValue() != "x" {
		t.Errorf("Decode = %v, %v", direct, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{10, 1, 'x'})
	f.Fuzz(func(t *testing.T, data []byte) {
		var s *wrapperspb.StringValue
		if err := (protocodec.Codec{}).Decode(data, &s); (err == nil) != (s != nil) {
			t.Fatalf("%v, %v", s, err)
		}
	})
}

func ExampleCodec() {
	rec := cqrstest.NewRecorder(catalog)
	s, err := cqrs.NewSender(catalog, rec, cqrs.SenderConfig{})
	if err != nil {
		panic(err)
	}
	if err := s.Publish(context.Background(), wrapperspb.String("hello")); err != nil {
		panic(err)
	}
	m := rec.Sent()[0]
	fmt.Println(m.Envelope.Key, len(m.Payload), "bytes")
	// Output: hello 7 bytes
}
