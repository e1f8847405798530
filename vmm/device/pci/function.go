package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"godwit/vmm/device"
)

// A Kind of base address register.
type Kind uint8

const (
	None     Kind = iota
	IO            // I/O ports
	Memory32      // memory below 4 GiB
	Memory64      // memory anywhere; takes the next register too
)

// A BAR is a window of a function. Its size is a power of two: at least 4 for
// ports, 16 for memory. The handler is called without any lock of this package;
// ports are numbered, and offsets counted, from the window's start.
type BAR struct {
	Kind     Kind
	Size     uint64
	Prefetch bool
	MMIO     device.MMIODevice
	Ports    device.PortDevice
}

// Identity is what a function tells of itself.
type Identity struct {
	Vendor, Device             uint16
	SubsystemVendor, Subsystem uint16
	Class                      uint32 // 24 bits: class, subclass, interface
	Revision                   uint8
}

// A ConfigHook is a capability whose content is not plain memory. off counts
// from the capability's start; both are called with no lock held.
type ConfigHook interface {
	ReadConfig(off int, b []byte)
	WriteConfig(off int, b []byte)
}

// A Function is one PCI function. It is built with NewFunction and the Add
// methods, then put into a Host.
type Function struct {
	name string
	host *Host
	slot uint8 // device<<3 | function
	bars [6]BAR
	caps int // where the next capability goes
	last int // where the last one's next pointer is
	hook []hookAt

	mu       sync.Mutex
	config   [256]byte
	writable [256]byte
	intx     bool        // the function asserts its pin
	line     device.Line // what the pin drives
	driven   bool        // what line was last set to
	msi      int         // offset of the MSI capability, 0 if none
	msix     *msix
	msixCap  int
}

type hookAt struct {
	start, end int
	h          ConfigHook
}

// NewFunction makes a function that has only an identity. name is its state's.
func NewFunction(name string, id Identity) *Function {
	f := &Function{name: name, caps: firstCapability, last: regCapabilities}
	le := binary.LittleEndian
	le.PutUint16(f.config[regVendor:], id.Vendor)
	le.PutUint16(f.config[regDevice:], id.Device)
	le.PutUint16(f.config[regSubVendor:], id.SubsystemVendor)
	le.PutUint16(f.config[regSubsystem:], id.Subsystem)
	f.config[regRevision] = id.Revision
	f.config[regClass] = byte(id.Class)
	le.PutUint16(f.config[regClass+1:], uint16(id.Class>>8))
	le.PutUint16(f.writable[regCommand:], cmdWritable)
	f.writable[regLine] = 0xff
	return f
}

// AddBAR makes register n a window. It panics if a device's author asks for what
// there can not be.
func (f *Function) AddBAR(n int, b BAR) {
	least := uint64(16)
	if b.Kind == IO {
		least = 4
	}
	last := n
	if b.Kind == Memory64 {
		last++
	}
	if n < 0 || last > 5 || bits.OnesCount64(b.Size) != 1 || b.Size < least || b.Kind == None || b.Kind > Memory64 ||
		(b.Kind == IO) != (b.Ports != nil) || b.Kind != Memory64 && b.Size > 1<<31 || f.bars[n].Kind != None {
		panic(fmt.Sprintf("pci: %s: BAR %d can not be %+v", f.name, n, b))
	}
	f.bars[n] = b
	var flags uint32
	switch {
	case b.Kind == IO:
		flags = barIO
	case b.Kind == Memory64:
		flags = bar64
	}
	if b.Prefetch && b.Kind != IO {
		flags |= barPrefetch
	}
	le := binary.LittleEndian
	at := regBAR + 4*n
	le.PutUint32(f.config[at:], flags)
	mask := ^(b.Size - 1)
	le.PutUint32(f.writable[at:], uint32(mask))
	if b.Kind == Memory64 {
		le.PutUint32(f.writable[at+4:], uint32(mask>>32))
	}
}

// AddCapability appends a capability: its ID, the next pointer, then body.
// writable says which bits of body software can change; it may be shorter, or
// nil. hook, if not nil, is asked for everything behind the pointer instead. It
// returns where the capability is.
func (f *Function) AddCapability(id uint8, body, writable []byte, hook ConfigHook) int {
	at := f.caps
	size := (2 + len(body) + 3) &^ 3
	if at+size > len(f.config) || len(writable) > len(body) {
		panic(fmt.Sprintf("pci: %s: no room for capability %#x", f.name, id))
	}
	f.config[at] = id
	copy(f.config[at+2:], body)
	copy(f.writable[at+2:], writable)
	f.config[f.last] = uint8(at)
	f.config[regStatus] |= statusCapabilities
	f.last, f.caps = at+1, at+size
	if hook != nil {
		f.hook = append(f.hook, hookAt{at, at + size, hook})
	}
	return at
}

// AddPin gives the function an interrupt pin, 1 (INTA) to 4.
func (f *Function) AddPin(pin uint8) { f.config[regPin] = pin }

// SetINTx drives the function's interrupt pin. Callable from anywhere.
func (f *Function) SetINTx(level bool) {
	f.mu.Lock()
	f.intx = level
	f.drive()
	f.mu.Unlock()
}

// drive sets the line as pin and command register say. mu is held.
func (f *Function) drive() {
	f.config[regStatus] &^= statusINTx
	if f.intx {
		f.config[regStatus] |= statusINTx
	}
	level := f.intx && f.command()&cmdINTxDisable == 0 && !f.messages()
	if level != f.driven && f.line != nil {
		f.driven = level
		f.line.Set(level)
	}
}

func (f *Function) command() uint16 { return binary.LittleEndian.Uint16(f.config[regCommand:]) }

// messages tells whether MSI or MSI-X is enabled, which silences the pin.
func (f *Function) messages() bool {
	return f.msi != 0 && f.config[f.msi+2]&1 != 0 || f.msixEnabled()
}

// BusMaster tells whether the guest lets the function access memory.
func (f *Function) BusMaster() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.command()&cmdMaster != 0
}

// address is what BAR n decodes; false if it is switched off. mu is held.
func (f *Function) address(n int) (uint64, bool) {
	b := &f.bars[n]
	at := regBAR + 4*n
	v := uint64(binary.LittleEndian.Uint32(f.config[at:]))
	switch b.Kind {
	case IO:
		return v &^ 3, f.command()&cmdIO != 0
	case Memory32:
		return v &^ 15, f.command()&cmdMemory != 0
	case Memory64:
		return v&^15 | uint64(binary.LittleEndian.Uint32(f.config[at+4:]))<<32, f.command()&cmdMemory != 0
	}
	return 0, false
}

func (f *Function) setAddress(n int, a uint64) {
	at := regBAR + 4*n
	low := f.config[at] & 15
	binary.LittleEndian.PutUint32(f.config[at:], uint32(a)|uint32(low))
	if f.bars[n].Kind == Memory64 {
		binary.LittleEndian.PutUint32(f.config[at+4:], uint32(a>>32))
	}
}

// readConfig reads len(b) bytes, 1, 2 or 4, which lie in one aligned dword.
func (f *Function) readConfig(off int, b []byte) {
	for _, h := range f.hook {
		if off >= h.start && off < h.end && off-h.start >= 2 {
			clear(b)
			h.h.ReadConfig(off-h.start, b)
			return
		}
	}
	f.mu.Lock()
	copy(b, f.config[off:])
	f.mu.Unlock()
}

// writeConfig is readConfig's counterpart; it tells whether windows may have moved.
func (f *Function) writeConfig(off int, b []byte) (moved bool) {
	for _, h := range f.hook {
		if off >= h.start && off < h.end && off-h.start >= 2 {
			h.h.WriteConfig(off-h.start, b)
			return false
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, v := range b {
		w := f.writable[off+i]
		f.config[off+i] = f.config[off+i]&^w | v&w
	}
	f.configChanged()
	return off < regBAR+24 && off+len(b) > regCommand
}

// configChanged acts on new values of command and MSI registers. mu is held.
func (f *Function) configChanged() {
	f.drive()
	f.flushMSI()
	f.flushMSIX()
}

// reset is RST#: all that software can write becomes zero.
func (f *Function) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, w := range f.writable {
		f.config[i] &^= w
	}
	if f.msi != 0 {
		f.clearMSI()
	}
	if f.msix != nil {
		f.msix.reset()
	}
	f.intx = false
	f.drive()
}
