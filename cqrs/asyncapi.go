package cqrs

import (
	"encoding/json"
	"errors"
	"strings"
)

type object = map[string]any

// AsyncAPI renders the catalog as an AsyncAPI 3.0 document: a channel per topic, a message per type with the JSON
// schema of its payload and the headers of the envelope. Commands are operations that their owner receives, with the
// reply they name; events are operations that their owner sends. Errors: the catalog's faults.
func (c *Catalog) AsyncAPI(title, version string) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if title == "" || version == "" {
		return nil, errors.New("cqrs: AsyncAPI needs a title and a version")
	}
	channels, operations, messages := object{}, object{}, object{}
	schemas := newSchemas()
	for _, t := range c.Types() {
		name := componentName(t.Name)
		messages[name] = c.describe(t, schemas)
		channel := channelOf(channels, t.Topic)
		channel["messages"].(object)[name] = ref("components", "messages", name)
		op := object{
			"action":   "send",
			"channel":  ref("channels", componentName(t.Topic)),
			"messages": []any{ref("channels", componentName(t.Topic), "messages", name)},
		}
		if t.Kind == KindCommand {
			op["action"] = "receive"
			op["reply"] = object{"address": object{
				"location":    "$message.header#/" + HeaderReplyTo,
				"description": "Where the reply goes, if one is wanted; it carries " + HeaderToken + " and " + HeaderOutcome + ".",
			}}
		}
		operations[name] = op
	}
	return json.MarshalIndent(object{
		"asyncapi": "3.0.0",
		"info":     object{"title": title, "version": version},
		"channels": channels, "operations": operations,
		"defaultContentType": c.codec.ContentType(),
		"components":         object{"messages": messages, "schemas": schemas.defs},
	}, "", "  ")
}

func channelOf(channels object, topic string) object {
	id := componentName(topic)
	if channels[id] == nil {
		channels[id] = object{"address": topic, "messages": object{}}
	}
	return channels[id].(object)
}

func (c *Catalog) describe(t TypeInfo, s *schemas) object {
	m := object{
		"name":        t.Name,
		"title":       t.Go.Name(),
		"contentType": c.codec.ContentType(),
		"payload":     s.of(t.Go),
		"headers":     envelopeSchema(t),
	}
	if t.Reply != nil {
		m["x-reply"] = s.of(t.Reply)
	}
	return m
}

func envelopeSchema(t TypeInfo) object {
	str := object{"type": "string"}
	props := object{
		HeaderID:          str,
		HeaderType:        object{"const": t.Name},
		HeaderSource:      str,
		HeaderSpecVersion: object{"const": "1.0"},
		HeaderTime:        object{"type": "string", "format": "date-time"},
		HeaderVersion:     object{"type": "integer", "maximum": t.Version},
		HeaderKind:        object{"const": string(t.Kind)},
		HeaderKey:         str,
		HeaderCorrelation: str,
		HeaderCausation:   str,
		HeaderTraceParent: str,
	}
	if t.Kind == KindCommand {
		props[HeaderReplyTo], props[HeaderToken] = str, str
		props[HeaderDeadline] = object{"type": "string", "format": "date-time"}
	}
	required := []string{HeaderID, HeaderKind, HeaderSource, HeaderSpecVersion, HeaderType}
	return object{"type": "object", "properties": props, "required": required}
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
