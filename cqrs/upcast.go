package cqrs

import (
	"errors"
	"fmt"
	"reflect"
)

type upcast struct {
	name     string
	from     int
	old, new reflect.Type
	decode   func(Codec, []byte) (any, error)
	apply    func(any) (any, error)
	missing  bool // there is no function
}

func (u *upcast) entry() any { return u }

// Upcast is an entry that turns version from of the named message into the next one. Old is that version's
// shape, New the next one's. Upcasts of a type form a chain that ends at the catalog's version. What is older than the
// chain cannot be decoded; of a type without upcasts every older version is read as the catalog's.
func Upcast[Old, New any](name string, from int, f func(Old) (New, error)) Type {
	return &upcast{
		name: name, from: from,
		old: reflect.TypeFor[Old](), new: reflect.TypeFor[New](),
		decode: decodeAs[Old],
		apply:  func(v any) (any, error) { return f(v.(Old)) }, missing: f == nil,
	}
}

func (c *Catalog) addUpcasts(casts []*upcast) {
	for _, u := range casts {
		e := c.byName[u.name]
		switch {
		case u.missing:
			c.fault("upcast of %q from version %d has no function", u.name, u.from)
		case e == nil:
			c.fault("upcast of %q, which is not listed", u.name)
		case u.from < 1 || u.from >= e.Version:
			c.fault("upcast of %q from version %d; the catalog has version %d", u.name, u.from, e.Version)
		case e.upcasts[u.from] != nil:
			c.fault("two upcasts of %q from version %d", u.name, u.from)
		default:
			e.upcasts[u.from] = u
		}
	}
	for _, t := range c.Types() {
		c.checkChain(c.byName[t.Name])
	}
}

func (c *Catalog) checkChain(e *typeEntry) {
	want, broken := e.Go, false
	for v, left := e.Version-1, len(e.upcasts); left > 0 && v > 0; v-- {
		u := e.upcasts[v]
		if u == nil {
			if !broken {
				c.fault("no upcast of %q from version %d", e.Name, v)
			}
			broken = true
			continue
		}
		if left--; !broken && u.new != want {
			c.fault("upcast of %q from version %d makes %s, not %s", e.Name, v, u.new, want)
		}
		want, broken = u.old, false
	}
}

// read decodes what was written at some version.
func (e *typeEntry) read(c Codec, version int, data []byte) (any, error) {
	if version == 0 {
		version = 1
	}
	if version > e.Version {
		return nil, fmt.Errorf("%w: %q has version %d, known is %d", ErrNewerVersion, e.Name, version, e.Version)
	}
	u := e.upcasts[version]
	if u == nil && version < e.Version && len(e.upcasts) > 0 {
		return nil, wrapDecode(e.Name, fmt.Errorf("no upcast from version %d", version))
	}
	if u == nil {
		v, err := e.decode(c, data)
		return v, wrapDecode(e.Name, err)
	}
	v, err := u.decode(c, data)
	for ; err == nil && u != nil; version++ {
		v, err = u.apply(v)
		u = e.upcasts[version+1]
	}
	return v, wrapDecode(e.Name, err)
}

// wrapDecode says what cannot be decoded. It looks into the error, so that one which panics at that, as a nil pointer
// may, does so here: in a processor a panic here is one message's failure.
func wrapDecode(name string, err error) error {
	if err == nil || errors.Is(err, ErrUndecodable) {
		return err
	}
	return fmt.Errorf("%w %q: %w", ErrUndecodable, name, err)
}
