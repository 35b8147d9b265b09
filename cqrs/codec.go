package cqrs

import "encoding/json"

// Codec encodes messages and results. It must be safe for concurrent use.
type Codec interface {
	// ContentType is written to every message: "application/json".
	ContentType() string
	Encode(v any) ([]byte, error)
	// Decode fills what v, a pointer, points to.
	Decode(data []byte, v any) error
}

// JSON is the default [Codec].
type JSON struct{}

// ContentType is application/json.
func (JSON) ContentType() string { return "application/json" }

// Encode is json.Marshal.
func (JSON) Encode(v any) ([]byte, error) { return json.Marshal(v) }

// Decode is json.Unmarshal: unknown fields are ignored, so that a sender may be newer.
func (JSON) Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

// Returns is embedded in a command to name its handler's result:
//
//	type PlaceOrder struct {
//		cqrs.Returns[Receipt]
//		SKU string
//	}
type Returns[R any] struct{}

// ReplyType exists for type inference.
func (Returns[R]) ReplyType() (r R) { return r }

// Request is a message whose handler returns an R. Embedding [Returns] satisfies it;
// a generated type may write the method by hand.
type Request[R any] interface{ ReplyType() R }
