// Package pvpanic is the port at which a guest's kernel tells that it panicked: QEMU's
// ISA pvpanic device, which Linux finds in ACPI as QEMU0001 (module pvpanic-mmio).
// Reference: QEMU, docs/specs/pvpanic.rst.
package pvpanic

// Base is where QEMU puts it.
const (
	Base  = 0x505
	Ports = 1
)

// Events, as bits: read, which are understood; written, which has occurred.
const (
	panicked    = 1 << 0
	crashLoaded = 1 << 1 // a panic, and a crash kernel takes over
)

// A Port tells of panics. It has no state.
type Port struct{ tell func(crashKernel bool) }

// New makes the port. tell is called from a VCPU's goroutine, as often as the guest
// likes.
func New(tell func(crashKernel bool)) *Port { return &Port{tell} }

// In implements device.PortDevice.
func (p *Port) In(uint16, int) uint32 { return panicked | crashLoaded }

// Out implements device.PortDevice.
func (p *Port) Out(_ uint16, _ int, v uint32) {
	if v&(panicked|crashLoaded) != 0 {
		p.tell(v&panicked == 0)
	}
}
