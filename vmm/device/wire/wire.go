// Package wire has what connects devices to interrupt controllers: lines that
// fan out, and lines that several devices share.
package wire

import (
	"fmt"
	"sync"

	"godwit/vmm/device"
	"godwit/vmm/state"
)

// Fan is a line that drives several others.
type Fan []device.Line

// Set implements device.Line.
func (f Fan) Set(level bool) {
	for _, l := range f {
		l.Set(level)
	}
}

// An Or is a line with up to 64 drivers, asserted while any of them asserts it.
// It has state of its own because devices do not set their lines when they load
// theirs: a controller would take that for an edge.
type Or struct {
	name string
	out  device.Line

	mu   sync.Mutex
	n    int
	high uint64
}

// NewOr makes an Or that drives out.
func NewOr(name string, out device.Line) *Or { return &Or{name: name, out: out} }

// Input makes the next input. A machine makes them in the same order always.
func (o *Or) Input() device.Line {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == 64 {
		panic(fmt.Sprintf("wire: more than %d drivers on %s", o.n, o.name))
	}
	o.n++
	return &input{o, 1 << (o.n - 1)}
}

type input struct {
	or  *Or
	bit uint64
}

// Set implements device.Line.
func (i *input) Set(level bool) {
	o := i.or
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.high
	if level {
		o.high |= i.bit
	} else {
		o.high &^= i.bit
	}
	if (old != 0) != (o.high != 0) {
		o.out.Set(o.high != 0)
	}
}

// Reset implements device.Device: the drivers' resets set the inputs.
func (o *Or) Reset() {}

// StateName implements state.Device.
func (o *Or) StateName() string { return "wire/" + o.name }

// StateVersion implements state.Device.
func (o *Or) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (o *Or) SaveState(w *state.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w.U64(o.high)
}

// LoadState implements state.Device.
func (o *Or) LoadState(_ uint16, r *state.Reader) error {
	high := r.U64()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n < 64 && high>>o.n != 0 {
		r.Fail(fmt.Errorf("inputs %#x are asserted of %d", high, o.n))
	}
	if r.Err() == nil {
		o.high = high
	}
	return r.Err()
}
