package cqrs

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Names of the envelope's attributes in a Watermill message's metadata, and so in Kafka's headers.
// Where CloudEvents 1.0 has an attribute, the name is that of its Kafka protocol binding in binary mode.
// The message's UUID is ce_id.
const (
	HeaderID           = "ce_id" // written by buses that have no other place for the UUID
	HeaderType         = "ce_type"
	HeaderSource       = "ce_source"
	HeaderTime         = "ce_time"
	HeaderSpecVersion  = "ce_specversion"
	HeaderContentType  = "content-type"
	HeaderKey          = "ce_partitionkey"
	HeaderVersion      = "ce_version"
	HeaderKind         = "ce_kind"
	HeaderCorrelation  = "ce_correlationid"
	HeaderCausation    = "ce_causationid"
	HeaderConversation = "ce_conversationid"
	HeaderDeadline     = "ce_deadline"
	HeaderAttempt      = "ce_attempt"
	HeaderReplyTo      = "ce_replyto"
	HeaderToken        = "ce_token"
	HeaderOutcome      = "ce_outcome"
	HeaderTraceParent  = "traceparent"
	HeaderTraceState   = "tracestate"
	// HeaderDeliverAt asks an outbox to publish no earlier than this time (RFC 3339 with nanoseconds).
	HeaderDeliverAt = "surge-deliver-at"
)

// Kind tells what a message is.
type Kind string

// The kinds of messages.
const (
	KindCommand Kind = "command" // has one owner, may be refused
	KindEvent   Kind = "event"   // is a fact, for whoever listens
	KindReply   Kind = "reply"   // answers a command
)

// Outcome tells what became of a command.
type Outcome string

// The outcomes that a reply can carry.
const (
	OutcomeOK          Outcome = "ok"           // done; the payload is the result
	OutcomeRejected    Outcome = "rejected"     // refused; the payload is {"code","message"}
	OutcomeNotExecuted Outcome = "not_executed" // certainly without effect; no payload
)

// Envelope is what travels beside the payload. Its zero values are left out on the wire.
type Envelope struct {
	ID           string    // unique; made by the sender (UUIDv7), kept through redelivery and replay
	Type         string    // the name in the catalog; for a reply the name of the command
	Version      int       // of the message's schema; from 1
	Kind         Kind      //
	Source       string    // who sent it
	Key          string    // order is kept per topic and key; "" means none
	Correlation  string    // the business transaction: ID of the first message of all
	Causation    string    // ID of the message whose handler sent this one
	Conversation string    // chosen by the first sender, for instance a session; "" if it chose none
	OccurredAt   time.Time // sender's clock; of a message sent with [At], the time from which it is delivered
	Deadline     time.Time // after it nobody waits for the effect
	Attempt      int       // runs before this one that failed
	ReplyTo      string    // topic for the reply; "" means that nobody waits
	Token        string    // the requester's own; echoed in the reply
	Outcome      Outcome   // of a reply
	TraceParent  string    // W3C trace context
	TraceState   string
}

// A Delivery is a message on its way to a handler. It is not safe for concurrent use.
type Delivery struct {
	Envelope Envelope
	Topic    string // it came from
	Payload  []byte
	Metadata message.Metadata // all headers as they came
	Message  any              // decoded and upcast; nil for handlers of raw batches
	Err      error            // set by a batch handler: this message alone failed
}

// Answer is what a command's sender is told.
type Answer struct {
	Outcome   Outcome
	Payload   []byte     // the encoded result when the outcome is ok
	Rejection *Rejection // when the outcome is rejected
}
