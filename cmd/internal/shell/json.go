package shell

import (
	"encoding/json"
	"reflect"
)

// All results have one form as JSON, which docs/console.md tells operators: keys are words joined by underscores, and a list
// or a table without entries is [] or {}, never null. The keys are in the types; JSON sees to the rest.

// JSON is v as every command shows it.
func JSON(v any) ([]byte, error) {
	if v != nil {
		v = filled(reflect.ValueOf(v)).Interface()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// filled is a copy of v with empty lists and tables instead of nil ones.
func filled(v reflect.Value) reflect.Value {
	t := v.Type()
	if t.Implements(marshaler) {
		return v
	}
	switch t.Kind() {
	case reflect.Slice:
		s := reflect.MakeSlice(t, v.Len(), v.Len())
		for i := range v.Len() {
			s.Index(i).Set(filled(v.Index(i)))
		}
		return s
	case reflect.Map:
		m := reflect.MakeMapWithSize(t, v.Len())
		for i := v.MapRange(); i.Next(); {
			m.SetMapIndex(i.Key(), filled(i.Value()))
		}
		return m
	case reflect.Struct:
		s := reflect.New(t).Elem()
		s.Set(v)
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() {
				s.Field(i).Set(filled(v.Field(i)))
			}
		}
		return s
	case reflect.Pointer:
		if v.IsNil() {
			return v
		}
		p := reflect.New(t.Elem())
		p.Elem().Set(filled(v.Elem()))
		return p
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		i := reflect.New(t).Elem()
		i.Set(filled(v.Elem()))
		return i
	}
	return v
}
