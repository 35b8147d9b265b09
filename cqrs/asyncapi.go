package cqrs

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

type object = map[string]any

// AsyncAPI renders the catalog as an AsyncAPI 3.0 document: a channel per topic, a message per type with the JSON
// schema of its payload, the headers of the envelope, the key as Kafka's binding, its version as x-version and, for
// JSON, an example. Commands are operations that their owner receives, with the reply they name; events are operations
// that their owner sends. Errors: the catalog's faults, a title or version that is empty.
func (c *Catalog) AsyncAPI(title, version string) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if title == "" || version == "" {
		return nil, errors.New("cqrs: AsyncAPI needs a title and a version")
	}
	d := &document{
		c: c, channels: object{}, operations: object{}, messages: object{},
		ofTopic: map[string]string{}, schemas: newSchemas(),
	}
	for _, t := range c.Types() {
		d.add(t)
	}
	return json.MarshalIndent(object{
		"asyncapi": "3.0.0",
		"info":     object{"title": title, "version": version},
		"channels": d.channels, "operations": d.operations,
		"defaultContentType": c.codec.ContentType(),
		"components":         object{"messages": d.messages, "schemas": d.schemas.defs},
	}, "", "  ")
}

type document struct {
	c                              *Catalog
	channels, operations, messages object
	ofTopic                        map[string]string // the names of channels
	schemas                        *schemas
}

// replies is the channel of all replies, which has no address: it is the requester's.
const replies = "_replies"

// channelOf names the channel of a topic.
func (d *document) channelOf(topic string) string {
	name, ok := d.ofTopic[topic]
	if !ok {
		name = componentName(topic)
		for d.channels[name] != nil || name == replies {
			name += "_"
		}
		d.ofTopic[topic] = name
	}
	return name
}

// messageName returns a name that no other message has.
func (d *document) messageName(s string) string {
	name := componentName(s)
	for d.messages[name] != nil {
		name += "_"
	}
	return name
}

func (d *document) add(t TypeInfo) {
	name, channel := d.messageName(t.Name), d.channelOf(t.Topic)
	d.messages[name] = d.describe(t)
	d.carry(channel, t.Topic, name)
	op := object{
		"action":   "send",
		"title":    t.Name,
		"channel":  ref("channels", channel),
		"messages": []any{ref("channels", channel, "messages", name)},
	}
	if t.Kind == KindCommand {
		op["action"] = "receive"
		op["reply"] = d.reply(t, name)
	}
	d.operations[name] = op
}

// carry says that a channel has a message.
func (d *document) carry(channel string, address any, message string) {
	if d.channels[channel] == nil {
		d.channels[channel] = object{"address": address, "messages": object{}}
	}
	d.channels[channel].(object)["messages"].(object)[message] = ref("components", "messages", message)
}

func (d *document) reply(t TypeInfo, command string) object {
	name := d.messageName(command + ".reply")
	m := object{
		"name":          t.Name,
		"title":         "Reply to " + t.Name,
		"contentType":   d.c.codec.ContentType(),
		"headers":       replySchema(t),
		"correlationId": correlation,
	}
	if t.Reply != nil {
		m["payload"] = d.schemas.of(t.Reply)
	}
	d.messages[name] = m
	d.carry(replies, nil, name)
	return object{
		"address": object{
			"location":    "$message.header#/" + HeaderReplyTo,
			"description": "Where the reply goes, if one is wanted; it carries " + HeaderToken + " and " + HeaderOutcome + ".",
		},
		"channel":  ref("channels", replies),
		"messages": []any{ref("channels", replies, "messages", name)},
	}
}

var correlation = object{
	"location":    "$message.header#/" + HeaderCorrelation,
	"description": "The ID of the first message of all that belong together.",
}

func (d *document) describe(t TypeInfo) object {
	m := object{
		"name":          t.Name,
		"title":         t.Go.Name(),
		"contentType":   d.c.codec.ContentType(),
		"payload":       d.schemas.of(t.Go),
		"headers":       envelopeSchema(t, d.c.byName[t.Name].key != nil),
		"correlationId": correlation,
		"x-version":     t.Version,
	}
	if d.c.byName[t.Name].key != nil {
		m["bindings"] = object{"kafka": object{
			"key": object{"type": "string", "description": "Order is kept per key."}, "bindingVersion": "0.5.0",
		}}
	}
	if payload, ok := exampleOf(t.Go); ok && d.c.codec.ContentType() == (JSON{}).ContentType() {
		m["examples"] = []any{object{"name": "example", "payload": payload}}
	}
	return m
}

func envelopeSchema(t TypeInfo, keyed bool) object {
	str, moment := object{"type": "string"}, object{"type": "string", "format": "date-time"}
	props := object{
		HeaderID:           str,
		HeaderType:         object{"const": t.Name},
		HeaderSource:       str,
		HeaderSpecVersion:  object{"const": "1.0"},
		HeaderTime:         moment,
		HeaderContentType:  str,
		HeaderVersion:      object{"type": "integer", "minimum": 1, "maximum": t.Version},
		HeaderKind:         object{"const": string(t.Kind)},
		HeaderKey:          str,
		HeaderCorrelation:  str,
		HeaderCausation:    str,
		HeaderConversation: str,
		HeaderTraceParent:  str,
		HeaderTraceState:   str,
	}
	required := []string{HeaderID, HeaderKind, HeaderSource, HeaderSpecVersion, HeaderType}
	if keyed {
		required = append(required, HeaderKey)
		slices.Sort(required)
	}
	if t.Kind == KindCommand {
		props[HeaderReplyTo], props[HeaderToken], props[HeaderDeadline] = str, str, moment
	}
	return object{"type": "object", "properties": props, "required": required}
}

func replySchema(t TypeInfo) object {
	return object{
		"type": "object",
		"properties": object{
			HeaderID: object{"type": "string"}, HeaderType: object{"const": t.Name},
			HeaderKind: object{"const": string(KindReply)}, HeaderToken: object{"type": "string"},
			HeaderOutcome: object{
				"enum":        []string{string(OutcomeOK), string(OutcomeRejected), string(OutcomeNotExecuted)},
				"description": "The payload is the result if it is ok, code and message if it is rejected, else empty.",
			},
			HeaderCorrelation: object{"type": "string"},
		},
		"required": []string{HeaderID, HeaderKind, HeaderOutcome, HeaderType},
	}
}

func ref(path ...string) object { return object{"$ref": "#/" + strings.Join(path, "/")} }

// componentName is a name with the characters that AsyncAPI allows in keys.
func componentName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, s)
}
