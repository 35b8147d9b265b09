// Package protocodec encodes messages of a cqrs.Catalog as Protobuf:
//
//	catalog := cqrs.NewCatalog(cqrs.Command[*pb.PlaceOrder]{Name: "orders.place"}).WithCodec(protocodec.Codec{})
//
// Entries name pointers to generated structs. A command with a result gets its method by hand, in the generated
// package, as cqrs.Request says:
//
//	func (*PlaceOrder) ReplyType() (r *Receipt) { return r }
//
// It is a package of its own so that programs without it do not link Protobuf.
//
//	failure                          error
//	value is not a proto.Message     ErrNotProto, from Encode and Decode
//	bytes are not of the message     that of proto.Unmarshal; the processor makes a dead letter
package protocodec

import (
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/proto"
)

// ErrNotProto is returned for values that are not Protobuf messages.
var ErrNotProto = errors.New("protocodec: not a Protobuf message")

// Codec is a cqrs.Codec. Its zero value is ready; it is safe for concurrent use.
type Codec struct{}

// ContentType is application/protobuf.
func (Codec) ContentType() string { return "application/protobuf" }

// Encode marshals a proto.Message deterministically, so that equal messages are equal bytes.
func (Codec) Encode(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%w: %T", ErrNotProto, v)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Decode fills v, a proto.Message or a pointer to one, which it allocates.
func (Codec) Decode(data []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(data, m)
	}
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Pointer {
		return fmt.Errorf("%w: %T", ErrNotProto, v)
	}
	fresh := reflect.New(p.Elem().Type().Elem())
	m, ok := fresh.Interface().(proto.Message)
	if !ok {
		return fmt.Errorf("%w: %T", ErrNotProto, v)
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	p.Elem().Set(fresh)
	return nil
}
