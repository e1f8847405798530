// Package device holds what a virtual machine and its emulated devices know of
// each other. The devices themselves are in the packages below it.
//
// A machine calls a device's methods from any of its VCPUs' goroutines; a device
// has its own lock and calls Line, MSI and Clock methods with it held. What a Line
// or MSI leads to, an interrupt controller with a lock of its own, never calls back
// into what drives it. What a device asks of the machine, to power off or to reset,
// it asks with no lock held.
package device

import "godwit/vmm/state"

// A PortDevice answers IN and OUT. size is 1, 2 or 4; port is absolute.
type PortDevice interface {
	In(port uint16, size int) uint32
	Out(port uint16, size int, v uint32)
}

// An MMIODevice answers loads and stores. off is from the start of its window;
// len(b) is 1, 2, 4 or 8, and off+len(b) lies inside the window.
type MMIODevice interface {
	ReadMMIO(off uint64, b []byte)
	WriteMMIO(off uint64, b []byte)
}

// A Line is an interrupt line: an input of an interrupt controller.
type Line interface {
	Set(level bool)
}

// LineFunc makes a function a Line.
type LineFunc func(level bool)

func (f LineFunc) Set(level bool) { f(level) }

// MSI takes a message-signalled interrupt: a write of data to address.
type MSI interface {
	Message(address uint64, data uint32)
}

// A Clock is the virtual machine's: it stands still while the machine is
// paused and goes on after a migration.
type Clock interface {
	// Now is the machine's time in nanoseconds since it was first started.
	Now() int64
	// NewTimer makes a stopped timer that calls f, on a goroutine of its own
	// and not holding any device's lock, once each time an Arm expires.
	NewTimer(f func()) Timer
}

// A Timer of a Clock. It stops with the clock while the machine is paused.
type Timer interface {
	// Arm replaces any earlier setting: f is called when Now reaches when.
	Arm(when int64)
	Stop()
}

// A Device is part of a machine's state.
type Device interface {
	state.Device
	Reset()
}
