package cqrs

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
)

// A Type is one entry of a [Catalog]: a [Command], an [Event] or an [Upcast].
// Contract packages export a []Type for the services that use them.
type Type interface{ entry() any }

// Command describes a message that exactly one service owns and may refuse.
// A command that is only executed in process needs no entry.
type Command[T any] struct {
	Name     string         // on the wire, for ever; required: "orders.place"
	Version  int            // of the schema; 0 means 1
	Topic    string         // "" means the name's first part + ".commands"
	Key      func(T) string // order is kept per topic and key; nil means no order
	Validate func(T) error  // called before encoding and after decoding; an error is a [Rejection] with code "invalid"
}

// Event describes a fact that any number of services may hear of.
type Event[T any] struct {
	Name    string         // on the wire, for ever; required: "orders.placed"
	Version int            // of the schema; 0 means 1
	Topic   string         // "" means the name's first part + ".events"
	Key     func(T) string // order is kept per topic and key; nil means no order
}

// TypeInfo is what a catalog knows of a type.
type TypeInfo struct {
	Name    string
	Kind    Kind
	Version int
	Topic   string
	Go      reflect.Type // T of the entry
	Reply   reflect.Type // R of a command that embeds Returns[R]; else nil
}

// A Catalog is the one place that names message types. It is immutable and safe for concurrent use.
type Catalog struct {
	codec  Codec
	byName map[string]*typeEntry
	byType map[reflect.Type]*typeEntry
	faults []error
}

type typeEntry struct {
	TypeInfo
	key      func(any) string
	validate func(any) error
	decode   func(Codec, []byte) (any, error)
	upcasts  map[int]*upcast
}

func (c Command[T]) entry() any {
	e := newEntry[T](TypeInfo{Name: c.Name, Kind: KindCommand, Version: c.Version, Topic: c.Topic}, ".commands", c.Key)
	if c.Validate != nil {
		e.validate = func(v any) error { return c.Validate(valueOf[T](v)) }
	}
	return e
}

func (e Event[T]) entry() any {
	return newEntry[T](TypeInfo{Name: e.Name, Kind: KindEvent, Version: e.Version, Topic: e.Topic}, ".events", e.Key)
}

func newEntry[T any](info TypeInfo, suffix string, key func(T) string) *typeEntry {
	if info.Version == 0 {
		info.Version = 1
	}
	if info.Topic == "" {
		first, _, _ := strings.Cut(info.Name, ".")
		info.Topic = first + suffix
	}
	info.Go = reflect.TypeFor[T]()
	info.Reply = replyOf(info.Go)
	e := &typeEntry{TypeInfo: info, decode: decodeAs[T], upcasts: map[int]*upcast{}}
	if key != nil {
		e.key = func(v any) string { return key(valueOf[T](v)) }
	}
	return e
}

func decodeAs[T any](c Codec, data []byte) (any, error) {
	var v T
	if err := c.Decode(data, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// valueOf takes a T or a *T.
func valueOf[T any](v any) T {
	if t, ok := v.(T); ok {
		return t
	}
	return *v.(*T)
}

// replyOf finds R by the method that [Returns] gives a command.
func replyOf(t reflect.Type) reflect.Type {
	m, ok := t.MethodByName("ReplyType")
	if !ok || m.Type.NumIn() != 1 || m.Type.NumOut() != 1 {
		return nil
	}
	return m.Type.Out(0)
}

// NewCatalog makes a catalog that encodes as JSON. It keeps the faults it finds; [NewSender] returns them, all at
// once. So a catalog can be a package variable without a panic.
func NewCatalog(types ...Type) *Catalog {
	c := &Catalog{
		codec:  JSON{},
		byName: make(map[string]*typeEntry, len(types)),
		byType: make(map[reflect.Type]*typeEntry, len(types)),
	}
	var casts []*upcast
	for i, t := range types {
		if t == nil {
			c.fault("entry %d is nil", i+1)
			continue
		}
		switch e := t.entry().(type) {
		case *typeEntry:
			c.add(e)
		case *upcast:
			casts = append(casts, e)
		}
	}
	c.addUpcasts(casts)
	return c
}

func (c *Catalog) fault(format string, a ...any) {
	c.faults = append(c.faults, fmt.Errorf("cqrs: catalog: "+format, a...))
}

func (c *Catalog) add(e *typeEntry) {
	switch {
	case e.Name == "":
		c.fault("%s has no name", e.Go)
		return
	case e.Version < 0:
		c.fault("%q has version %d; the first is 1", e.Name, e.Version)
	case c.byName[e.Name] != nil:
		c.fault("name %q is used twice", e.Name)
		return
	case c.byType[e.Go] != nil:
		c.fault("%s is listed as %q and as %q", e.Go, c.byType[e.Go].Name, e.Name)
		return
	}
	c.byName[e.Name] = e
	c.byType[e.Go] = e
}

// WithCodec returns the catalog with another encoding; the default is [JSON].
func (c *Catalog) WithCodec(codec Codec) *Catalog {
	n := *c
	if codec == nil {
		n.faults = append(slices.Clone(c.faults), errors.New("cqrs: catalog: the codec is nil"))
		return &n
	}
	n.codec = codec
	return &n
}

// Validate joins every fault: a missing or doubled name, a gap between upcasts, what is nil.
func (c *Catalog) Validate() error { return errors.Join(c.faults...) }

// Codec returns the encoding, for payloads that are no messages of the catalog, such as results.
func (c *Catalog) Codec() Codec { return c.codec }

// Lookup returns what the catalog knows of the type of v, a message or a pointer to one.
func (c *Catalog) Lookup(v any) (TypeInfo, bool) {
	e := c.entryOf(v)
	if e == nil {
		return TypeInfo{}, false
	}
	return e.TypeInfo, true
}

// LookupType is Lookup for callers that have no value.
func (c *Catalog) LookupType(t reflect.Type) (TypeInfo, bool) {
	e := c.byType[t]
	if e == nil {
		return TypeInfo{}, false
	}
	return e.TypeInfo, true
}

// LookupName returns what the catalog knows of a name on the wire.
func (c *Catalog) LookupName(name string) (TypeInfo, bool) {
	e := c.byName[name]
	if e == nil {
		return TypeInfo{}, false
	}
	return e.TypeInfo, true
}

// Types returns all types, sorted by name.
func (c *Catalog) Types() []TypeInfo {
	all := make([]TypeInfo, 0, len(c.byName))
	for _, e := range c.byName {
		all = append(all, e.TypeInfo)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

// KeyOf returns the message's key, "" if its type has none.
func (c *Catalog) KeyOf(v any) string {
	if e := c.entryOf(v); e != nil && e.key != nil {
		return e.key(v)
	}
	return ""
}

// Decode returns the message in d, upcast to the catalog's version and validated. Errors: [ErrUnknownType],
// [ErrNewerVersion], a [Rejection] by the type's Validate, or the codec's.
func (c *Catalog) Decode(d *Delivery) (any, error) {
	e := c.byName[d.Envelope.Type]
	if e == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknownType, d.Envelope.Type)
	}
	v, err := e.read(c.codec, d.Envelope.Version, d.Payload)
	if err != nil {
		return nil, err
	}
	return v, e.check(v)
}

func (c *Catalog) entryOf(v any) *typeEntry {
	t := reflect.TypeOf(v)
	if t == nil {
		return nil
	}
	if e := c.byType[t]; e != nil {
		return e
	}
	if t.Kind() == reflect.Pointer {
		return c.byType[t.Elem()]
	}
	return nil
}

func (e *typeEntry) check(v any) error {
	if e.validate == nil {
		return nil
	}
	err := e.validate(v)
	if err == nil || AsRejection(err) != nil {
		return err
	}
	return Reject("invalid", err)
}
