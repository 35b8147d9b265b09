package cqrs

import (
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// EnvelopeFrom reads the envelope of a Watermill message. What is missing or malformed keeps its zero value;
// a message of another program may have an ID only.
func EnvelopeFrom(m *message.Message) Envelope { return envelopeFrom(m.UUID, m.Metadata) }

func envelopeFrom(id string, md message.Metadata) Envelope {
	if id == "" {
		id = md[HeaderID]
	}
	return Envelope{
		ID:           id,
		Type:         md[HeaderType],
		Version:      number(md[HeaderVersion]),
		Kind:         Kind(md[HeaderKind]),
		Source:       md[HeaderSource],
		Key:          md[HeaderKey],
		Correlation:  md[HeaderCorrelation],
		Causation:    md[HeaderCausation],
		Conversation: md[HeaderConversation],
		OccurredAt:   moment(md[HeaderTime]),
		Deadline:     moment(md[HeaderDeadline]),
		Attempt:      number(md[HeaderAttempt]),
		ReplyTo:      md[HeaderReplyTo],
		Token:        md[HeaderToken],
		Outcome:      Outcome(md[HeaderOutcome]),
		TraceParent:  md[HeaderTraceParent],
		TraceState:   md[HeaderTraceState],
	}
}

func number(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func moment(s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Metadata returns the envelope as headers, without the ID, which is the message's UUID.
func (e Envelope) Metadata() message.Metadata {
	md := make(message.Metadata, 14) // what fits a map of 16 slots; few messages have more
	set := func(name, value string) {
		if value != "" {
			md[name] = value
		}
	}
	md[HeaderSpecVersion] = "1.0"
	set(HeaderType, e.Type)
	set(HeaderKind, string(e.Kind))
	set(HeaderSource, e.Source)
	set(HeaderKey, e.Key)
	set(HeaderCorrelation, e.Correlation)
	set(HeaderCausation, e.Causation)
	set(HeaderConversation, e.Conversation)
	set(HeaderReplyTo, e.ReplyTo)
	set(HeaderToken, e.Token)
	set(HeaderOutcome, string(e.Outcome))
	set(HeaderTraceParent, e.TraceParent)
	set(HeaderTraceState, e.TraceState)
	if e.Version > 0 {
		md[HeaderVersion] = strconv.Itoa(e.Version)
	}
	if e.Attempt > 0 {
		md[HeaderAttempt] = strconv.Itoa(e.Attempt)
	}
	if !e.OccurredAt.IsZero() {
		md[HeaderTime] = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	if !e.Deadline.IsZero() {
		md[HeaderDeadline] = e.Deadline.UTC().Format(time.RFC3339Nano)
	}
	return md
}
