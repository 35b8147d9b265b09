package cqrs

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
)

// schemas makes JSON schemas of Go types as encoding/json writes them. Named structs are definitions of their own,
// so that types may refer to themselves.
type schemas struct {
	defs  object
	names map[reflect.Type]string
}

func newSchemas() *schemas { return &schemas{defs: object{}, names: map[reflect.Type]string{}} }

var (
	timeType      = reflect.TypeFor[time.Time]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
)

func (s *schemas) of(t reflect.Type) object {
	switch {
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t.Implements(marshalerType):
		return object{} // anything
	case t.Implements(textType):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 && t.Kind() == reflect.Slice {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.structOf(t)
	}
	return object{}
}

func (s *schemas) structOf(t reflect.Type) object {
	if t.Name() == "" {
		return s.fields(t)
	}
	name, ok := s.names[t]
	if !ok {
		name = componentName(t.Name())
		for s.defs[name] != nil {
			name += "_"
		}
		s.names[t] = name
		s.defs[name] = object{} // a type may refer to itself
		s.defs[name] = s.fields(t)
	}
	return ref("components", "schemas", name)
}

func (s *schemas) fields(t reflect.Type) object {
	props := object{}
	var required []string
	s.addFields(t, props, &required)
	o := object{"type": "object", "properties": props}
	if len(required) > 0 {
		slices.Sort(required)
		o["required"] = required
	}
	return o
}

func (s *schemas) addFields(t reflect.Type, props object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct {
			s.addFields(f.Type, props, required)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		props[name] = s.of(f.Type)
		if !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}
