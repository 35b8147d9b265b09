package cqrs

import (
	"encoding/json"
	"reflect"
	"time"
)

// deepest bounds examples of types that refer to themselves.
const deepest = 4

// exampleOf returns what JSON makes of a value of t that has something in every field, or false if there is no such
// value, because the type refers to itself or refuses.
func exampleOf(t reflect.Type) (payload json.RawMessage, ok bool) {
	defer func() {
		if recover() != nil { // also of a type's own marshaler, which did not make the value
			payload, ok = nil, false
		}
	}()
	v := reflect.New(t).Elem()
	fill(v, 0)
	payload, err := json.Marshal(v.Interface())
	return payload, err == nil
}

// exampleTime is the time of every example.
var exampleTime = time.Date(2026, time.January, 2, 15, 4, 5, 0, time.UTC)

func fill(v reflect.Value, depth int) {
	t := v.Type()
	switch {
	case t == timeType:
		v.Set(reflect.ValueOf(exampleTime))
		return
	case t.Implements(marshalerType), t.Implements(textType):
		return // what it takes is its own
	}
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("string")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1.5)
	default:
		fillParts(v, depth)
	}
}

func fillParts(v reflect.Value, depth int) {
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer:
		if depth > deepest {
			panic("it refers to itself")
		}
		v.Set(reflect.New(t.Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := v.Field(i); f.CanSet() {
				fill(f, depth+1)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), depth+1)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 0, 1)) // empty, not null
		if depth < deepest {
			v.Set(reflect.MakeSlice(t, 1, 1))
			fill(v.Index(0), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		if depth < deepest && t.Key().Kind() == reflect.String {
			key, elem := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
			fill(key, depth+1)
			fill(elem, depth+1)
			v.SetMapIndex(key, elem)
		}
	}
}
