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
	open  map[reflect.Type]bool // named slices and the like that are being described
}

func newSchemas() *schemas {
	return &schemas{defs: object{}, names: map[reflect.Type]string{}, open: map[reflect.Type]bool{}}
}

var (
	timeType      = reflect.TypeFor[time.Time]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()
)

// of describes what is written for a value: for nil, that is null.
func (s *schemas) of(t reflect.Type) object {
	o := s.filled(t)
	switch {
	case t.Kind() == reflect.Pointer:
	case t.Kind() != reflect.Slice && t.Kind() != reflect.Map, t.Implements(marshalerType), t.Implements(textType):
		return o
	}
	switch kind := o["type"].(type) {
	case string:
		o["type"] = []string{kind, "null"}
	case nil:
		if len(o) > 0 {
			return object{"anyOf": []object{o, {"type": "null"}}}
		}
	}
	return o
}

// filled describes what is written for a value that is not nil.
func (s *schemas) filled(t reflect.Type) object {
	switch {
	case t == timeType:
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer && writesItself(t.Elem()):
		return s.filled(t.Elem())
	case t.Implements(marshalerType):
		return object{} // anything
	case t.Implements(textType):
		return object{"type": "string"}
	}
	if t.Name() != "" && t.Kind() != reflect.Struct {
		if s.open[t] {
			return object{} // a list of lists of itself, say: what is inside is not described again
		}
		s.open[t] = true
		defer delete(s.open, t)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.filled(t.Elem())
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

func writesItself(t reflect.Type) bool { return t.Implements(marshalerType) || t.Implements(textType) }

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
	s.addFields(t, props, &required, map[reflect.Type]bool{})
	o := object{"type": "object", "properties": props}
	if len(required) > 0 {
		slices.Sort(required)
		o["required"] = required
	}
	return o
}

// addFields adds a struct's fields, then those of embedded structs that they do not hide. Fields of an embedded pointer
// are there only if it is not nil: required is nil then.
func (s *schemas) addFields(t reflect.Type, props object, required *[]string, seen map[reflect.Type]bool) {
	seen[t] = true
	var embedded []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && name == "" && pointed(f.Type).Kind() == reflect.Struct:
			embedded = append(embedded, f)
			continue
		case !f.IsExported() || tag == "-":
			continue
		case name == "":
			name = f.Name
		}
		if props[name] != nil {
			continue
		}
		omits := strings.Contains(options, "omit")
		props[name] = s.field(f.Type, omits, slices.Contains(strings.Split(options, ","), "string"))
		if !omits && required != nil {
			*required = append(*required, name)
		}
	}
	for _, f := range embedded {
		inner := pointed(f.Type)
		if seen[inner] {
			continue
		}
		if f.Type != inner {
			s.addFields(inner, props, nil, seen)
		} else {
			s.addFields(inner, props, required, seen)
		}
	}
}

// field describes a struct's field. One that is omitted when it is empty is never null, and one that is quoted is the
// text of a scalar.
func (s *schemas) field(t reflect.Type, omits, quoted bool) object {
	if quoted {
		switch k := pointed(t).Kind(); {
		case k == reflect.String, k >= reflect.Bool && k <= reflect.Float64 && k != reflect.Uintptr:
			t = replaced(t)
		}
	}
	if omits {
		return s.filled(t)
	}
	return s.of(t)
}

// pointed returns what t points to, or t.
func pointed(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

// replaced returns string, or a pointer to it if t is a pointer.
func replaced(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return reflect.TypeFor[*string]()
	}
	return reflect.TypeFor[string]()
}
