package cqrs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surge-go/surge/cqrs"
)

type money struct {
	Cents    int64
	Currency string `json:"currency,omitempty"`
}

type bigLine struct {
	SKU   string           `json:"sku"`
	Units uint16           `json:"units"`
	Price *money           `json:"price"`
	Tags  map[string]bool  `json:"tags"`
	Sizes []float64        `json:"sizes"`
	Notes map[string][]any `json:"notes"`
}

type (
	bigOrder struct {
		cqrs.Returns[bigReceipt]
		ID    string
		Lines []bigLine
		At    time.Time
		Raw   []byte
		Fixed [2]bool
	}
	bigReceipt struct{ Total money }
	bigPlaced  struct {
		ID string
	}
	chainLink struct {
		Next *chainLink
	}
)

func bigCatalog() *cqrs.Catalog {
	return cqrs.NewCatalog(
		cqrs.Command[bigOrder]{Name: "big.order", Key: func(o bigOrder) string { return o.ID }},
		cqrs.Event[bigPlaced]{Name: "big.placed", Topic: "big/events", Version: 3},
		cqrs.Event[chainLink]{Name: "big.chain", Topic: "big/events"},
	)
}

// asyncDocument is a rendered document, and what is wrong with it.
type asyncDocument struct {
	*testing.T
	root map[string]any
}

func render(t *testing.T, c *cqrs.Catalog) *asyncDocument {
	t.Helper()
	text, err := c.AsyncAPI("Big", "1.0")
	if err != nil {
		t.Fatal(err)
	}
	d := &asyncDocument{T: t}
	if err := json.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// at follows a path of keys.
func (d *asyncDocument) at(path ...string) any {
	var v any = d.root
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func (d *asyncDocument) object(path ...string) map[string]any {
	d.Helper()
	m, ok := d.at(path...).(map[string]any)
	if !ok {
		d.Fatalf("%v is no object: %v", path, d.at(path...))
	}
	return m
}

// resolve follows a reference; it may lead to another one.
func (d *asyncDocument) resolve(ref string) any {
	d.Helper()
	v := d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	if v == nil || !strings.HasPrefix(ref, "#/") {
		d.Fatalf("the reference %q leads nowhere", ref)
	}
	if m, ok := v.(map[string]any); ok && m["$ref"] != nil {
		return d.resolve(m["$ref"].(string))
	}
	return v
}

func (d *asyncDocument) only(what string, m map[string]any, allowed ...string) {
	d.Helper()
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !strings.HasPrefix(k, "x-") && !slices.Contains(allowed, k) {
			d.Errorf("%s has %q, which AsyncAPI 3.0 does not know there", what, k)
		}
	}
}

// The structure is that of the specification, version 3.0.0: fields of each object, required ones, and references.
func TestAsyncAPIKeepsToTheSpecification(t *testing.T) {
	t.Parallel()
	d := render(t, bigCatalog())
	d.only("the document", d.root, "asyncapi", "id", "info", "servers", "defaultContentType", "channels",
		"operations", "components")
	d.only("info", d.object("info"), "title", "version", "description", "tags")
	if d.at("asyncapi") != "3.0.0" || d.at("info", "title") != "Big" || d.at("info", "version") != "1.0" {
		t.Errorf("head: %v %v", d.at("asyncapi"), d.at("info"))
	}
	d.walk(d.root)
	for id := range d.object("channels") {
		c := d.object("channels", id)
		d.only("channel "+id, c, "address", "messages", "title", "summary", "description", "servers",
			"parameters", "tags", "bindings")
		if _, has := c["address"]; !has || len(d.object("channels", id, "messages")) == 0 {
			t.Errorf("channel %s has no address, which may be null, or no messages", id)
		}
	}
	for id := range d.object("operations") {
		d.operation(id)
	}
	for id := range d.object("components", "messages") {
		d.message(id)
	}
	if a := d.at("channels", "big_events", "address"); a != "big/events" {
		t.Errorf("the address of a topic with a slash is %v", a)
	}
}

func (d *asyncDocument) walk(v any) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			d.resolve(ref)
		}
		for _, e := range v {
			d.walk(e)
		}
	case []any:
		for _, e := range v {
			d.walk(e)
		}
	}
}

func (d *asyncDocument) operation(id string) {
	o := d.object("operations", id)
	d.only("operation "+id, o, "action", "channel", "title", "summary", "description", "security", "tags", "bindings",
		"traits", "messages", "reply")
	if a := o["action"]; a != "send" && a != "receive" {
		d.Errorf("operation %s has action %v", id, a)
	}
	d.messagesOf("operation "+id, o)
	if o["action"] == "receive" {
		reply := d.object("operations", id, "reply")
		d.only("reply of "+id, reply, "address", "channel", "messages")
		if l := d.at("operations", id, "reply", "address", "location"); l != "$message.header#/ce_replyto" {
			d.Errorf("the reply of %s goes to %v", id, l)
		}
		d.messagesOf("reply of "+id, reply)
	}
}

// messagesOf: the messages of an operation are those of its channel, referred to there.
func (d *asyncDocument) messagesOf(what string, o map[string]any) {
	channel, _ := o["channel"].(map[string]any)["$ref"].(string)
	for _, m := range o["messages"].([]any) {
		if ref := m.(map[string]any)["$ref"].(string); !strings.HasPrefix(ref, channel+"/messages/") {
			d.Errorf("%s has a message %s, which is not of its channel %s", what, ref, channel)
		}
	}
}

func (d *asyncDocument) message(id string) {
	m := d.object("components", "messages", id)
	d.only("message "+id, m, "headers", "payload", "correlationId", "contentType", "name", "title", "summary",
		"description", "tags", "bindings", "examples", "traits")
	headers := d.object("components", "messages", id, "headers")
	if headers["type"] != "object" {
		d.Errorf("headers of %s are %v", id, headers["type"])
	}
	props, _ := headers["properties"].(map[string]any)
	for _, r := range headers["required"].([]any) {
		if props[r.(string)] == nil {
			d.Errorf("message %s requires a header %s that it does not describe", id, r)
		}
	}
	examples, _ := m["examples"].([]any)
	for _, e := range examples {
		if why := d.fits(e.(map[string]any)["payload"], m["payload"].(map[string]any)); why != "" {
			d.Errorf("the example of %s does not fit its schema: %s", id, why)
		}
	}
}

// fits says why a value is not what a schema says, "" if it is.
func (d *asyncDocument) fits(v any, schema map[string]any) string {
	if ref, ok := schema["$ref"].(string); ok {
		schema = d.resolve(ref).(map[string]any)
	}
	kinds, nullable := schema["type"].([]any)
	if _, alternatives := schema["anyOf"]; v == nil && (nullable || alternatives) {
		return ""
	}
	if nullable {
		schema = maps.Clone(schema)
		schema["type"] = kinds[0]
	}
	switch schema["type"] {
	case nil:
		return ""
	case "string", "boolean", "number", "integer":
		kind := map[string]string{"string": "string", "boolean": "bool", "number": "float64", "integer": "float64"}
		if got := fmt.Sprintf("%T", v); got != kind[schema["type"].(string)] {
			return fmt.Sprintf("%v is no %s", v, schema["type"])
		}
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v.(string)); err != nil {
				return err.Error()
			}
		}
		return ""
	case "array":
		return d.fitsArray(v, schema)
	}
	return d.fitsObject(v, schema)
}

func (d *asyncDocument) fitsArray(v any, schema map[string]any) string {
	all, ok := v.([]any)
	if !ok {
		return fmt.Sprintf("%v is no array", v)
	}
	for _, e := range all {
		if why := d.fits(e, schema["items"].(map[string]any)); why != "" {
			return why
		}
	}
	return ""
}

func (d *asyncDocument) fitsObject(v any, schema map[string]any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Sprintf("%v is no object", v)
	}
	required, _ := schema["required"].([]any)
	for _, r := range required {
		if _, has := m[r.(string)]; !has {
			return fmt.Sprintf("%s is missing", r)
		}
	}
	props, _ := schema["properties"].(map[string]any)
	for k, e := range m {
		p, known := props[k].(map[string]any)
		if !known {
			if p, known = schema["additionalProperties"].(map[string]any); !known {
				return k + " is not described"
			}
		}
		if why := d.fits(e, p); why != "" {
			return k + ": " + why
		}
	}
	return ""
}

func TestAsyncAPIShowsKeysVersionsRepliesAndExamples(t *testing.T) {
	t.Parallel()
	d := render(t, bigCatalog())
	if k := d.at("components", "messages", "big.order", "bindings", "kafka", "key", "type"); k != "string" {
		t.Errorf("the key of a command is %v", k)
	}
	if d.at("components", "messages", "big.placed", "bindings") != nil {
		t.Error("an event without key has one")
	}
	required, _ := d.at("components", "messages", "big.order", "headers", "required").([]any)
	if !slices.Contains(required, any("ce_partitionkey")) {
		t.Errorf("the key is not among the required headers: %v", required)
	}
	if v := d.at("components", "messages", "big.placed", "x-version"); v != 3.0 {
		t.Errorf("the version is %v", v)
	}
	if v := d.at("components", "messages", "big.placed", "headers", "properties", "ce_version", "maximum"); v != 3.0 {
		t.Errorf("the newest version in the header is %v", v)
	}
	if p := d.at("components", "messages", "big.order.reply", "payload", "$ref"); p != "#/components/schemas/bigReceipt" {
		t.Errorf("the reply's payload is %v", p)
	}
	if a, has := d.object("channels", "_replies")["address"]; !has || a != nil {
		t.Errorf("the address of replies is %v", a)
	}
	examples, _ := d.at("components", "messages", "big.order", "examples").([]any)
	if len(examples) != 1 {
		t.Fatalf("examples %v", examples)
	}
	line := examples[0].(map[string]any)["payload"].(map[string]any)["Lines"].([]any)[0].(map[string]any)
	if line["sku"] != "string" || line["price"].(map[string]any)["Cents"] != 1.0 {
		t.Errorf("the example has a line %v", line)
	}
	if d.at("components", "messages", "big.chain", "examples") != nil {
		t.Error("a type that goes on for ever has an example")
	}
}

// Names that differ only in what a component's name must not have are components of their own, and so are topics.
func TestAsyncAPIKeepsNamesApart(t *testing.T) {
	t.Parallel()
	doc, err := cqrs.NewCatalog(
		cqrs.Event[placed]{Name: "a/b", Topic: "x/y"}, cqrs.Event[shipped]{Name: "a_b", Topic: "x_y"},
		cqrs.Event[note]{Name: "c.d.reply", Topic: "x_y"}, cqrs.Command[place]{Name: "c.d", Topic: "_replies"},
	).AsyncAPI("T", "1")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Channels   map[string]struct{ Messages map[string]any }
		Operations map[string]any
		Components struct {
			Messages map[string]struct{ Name string }
		}
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	names := map[string]int{}
	for _, m := range d.Components.Messages {
		names[m.Name]++
	}
	if want := map[string]int{"a/b": 1, "a_b": 1, "c.d": 2, "c.d.reply": 1}; !maps.Equal(names, want) {
		t.Errorf("messages %v, want %v", names, want)
	}
	sizes := map[string]int{}
	for name, c := range d.Channels {
		sizes[name] = len(c.Messages)
	}
	if want := map[string]int{"x_y": 1, "x_y_": 2, "_replies": 1, "_replies_": 1}; !maps.Equal(sizes, want) {
		t.Errorf("channels %v, want %v", sizes, want)
	}
	if len(d.Operations) != 4 {
		t.Errorf("operations %v, want 4", slices.Collect(maps.Keys(d.Operations)))
	}
}

type (
	lists []lists
	dirs  map[string][]dirs
)

// A list of lists of itself has a schema that ends.
func TestAsyncAPISchemasEnd(t *testing.T) {
	t.Parallel()
	doc, err := cqrs.NewCatalog(cqrs.Event[struct {
		Lists, More lists
		Dirs        dirs
	}]{Name: "t.grown"}).AsyncAPI("T", "1")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Components struct {
			Messages map[string]struct {
				Payload struct{ Properties map[string]any }
			}
		}
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(d.Components.Messages["t.grown"].Payload.Properties)
	want := "map[Dirs:map[additionalProperties:map[items:map[] type:[array null]] type:[object null]] " +
		"Lists:map[items:map[] type:[array null]] More:map[items:map[] type:[array null]]]"
	if got != want {
		t.Errorf("schema %s\nwant   %s", got, want)
	}
}
