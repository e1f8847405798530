// Package devicetest has what the tests of all devices share.
package devicetest

import (
	"bytes"
	"testing"

	"godwit/vmm/state"
)

// Save is d's section payload.
func Save(d state.Device) []byte {
	var w state.Writer
	d.SaveState(&w)
	return w.Bytes()
}

// Load gives a payload to d as a state's reader does.
func Load(d state.Device, b []byte) error {
	return state.Section{Name: d.StateName(), Version: d.StateVersion(), Required: true, Payload: b}.Load(d)
}

// RoundTrip moves from's state to another instance of the same device, which must
// then have the same state. Cut states and longer ones must be refused.
func RoundTrip(t testing.TB, from, to state.Device) {
	t.Helper()
	b := Save(from)
	for n := range b {
		if Load(to, b[:n]) == nil {
			t.Errorf("%s: a state cut from %d to %d bytes is taken", from.StateName(), len(b), n)
		}
	}
	if Load(to, append(bytes.Clone(b), 0)) == nil {
		t.Errorf("%s: a state that is too long is taken", from.StateName())
	}
	if err := Load(to, b); err != nil {
		t.Fatal(err)
	}
	if got := Save(to); !bytes.Equal(got, b) {
		t.Errorf("%s: saved\n% x\nand after loading that\n% x", from.StateName(), b, got)
	}
}

// A Line records what it is set to.
type Line struct {
	Level bool
	Edges int // rising ones
}

// Set implements device.Line.
func (l *Line) Set(level bool) {
	if level && !l.Level {
		l.Edges++
	}
	l.Level = level
}

// Refused checks that d refuses b with one byte changed.
func Refused(t testing.TB, d state.Device, b []byte, at int, v byte, why string) {
	t.Helper()
	b = bytes.Clone(b)
	b[at] = v
	if Load(d, b) == nil {
		t.Errorf("%s: byte %d changed to %#x is taken: %s", d.StateName(), at, v, why)
	}
}
