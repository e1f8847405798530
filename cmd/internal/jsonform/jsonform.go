// Package jsonform holds what commands show with -json to the form that docs/console.md promises, for tests.
package jsonform

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
)

var key = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// Check tells what is wrong with b: it is one value, its keys are lower-case words joined by underscores, nothing is null.
func Check(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	var v any
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("no JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("more than one value")
	}
	return check("", v)
}

func check(at string, v any) error {
	switch v := v.(type) {
	case nil:
		return fmt.Errorf("%s is null", at)
	case []any:
		for i, x := range v {
			if err := check(fmt.Sprintf("%s[%d]", at, i), x); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, x := range v {
			if !key.MatchString(k) {
				return fmt.Errorf("%s.%s: the key is not made of lower-case words joined by underscores", at, k)
			}
			if err := check(at+"."+k, x); err != nil {
				return err
			}
		}
	}
	return nil
}
