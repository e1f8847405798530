// Package pci is a machine's PCI bus: the host bridge with configuration
// mechanism 1 and, for who wants it, ECAM, and what a device needs to be a PCI
// function: windows, capabilities, and interrupts by pin, MSI and MSI-X.
// Reference: PCI Local Bus Specification 3.0; for ECAM, PCI Firmware
// Specification 3.0, chapter 4.
//
// There is one bus. Its windows are fixed, and the machine routes them to the Host,
// which finds the function: a guest can move a function anywhere within them.
package pci

import (
	"fmt"
	"sync"
	"sync/atomic"

	"godwit/vmm/device"
)

// Ports of configuration mechanism 1 (section 3.2.2.3.2), with the reset control
// register of Intel's bridges in between.
const (
	Base         = 0xcf8
	Ports        = 8
	portAddress  = 0xcf8
	portReset    = 0xcf9
	portData     = 0xcfc
	addressValid = 1 << 31
)

// Reset control register (PIIX3 datasheet, 290550-002, "RC").
const resetCPU = 1 << 2

// ECAMSize is the window of the one bus.
const ECAMSize = 1 << 20

// A Window is an address range that functions can be in.
type Window struct{ Base, Size uint64 }

func (w Window) holds(a, size uint64) bool {
	return a >= w.Base && size <= w.Size && a-w.Base <= w.Size-size
}

// Config of the bus. The windows are at least as aligned as the largest BAR.
type Config struct {
	IO       Window
	Memory32 Window
	Memory64 Window        // may be empty
	MSI      device.MSI    // takes message-signalled interrupts
	Lines    []device.Line // interrupt inputs that pins are spread over, see Line
	Reset    func()        // resets the machine; called without a lock
}

// A Host is the bridge and the bus behind it.
type Host struct {
	cfg   Config
	msi   device.MSI
	slots [256]*Function

	routes atomic.Pointer[routes]

	mu      sync.Mutex
	address uint32
	control uint8
}

// routes is a snapshot of what the windows decode.
type routes struct{ io, mem []route }

type route struct {
	start, size uint64
	bar         *BAR
}

// NewHost makes a bus with the bridge at 0:0.0.
func NewHost(cfg Config) *Host {
	h := &Host{cfg: cfg, msi: cfg.MSI}
	h.routes.Store(&routes{})
	h.Add(0, 0, NewFunction("pci/00.0", Identity{
		// The bridge of QEMU's generic PCI host: a bridge and nothing else,
		// of which no system believes to know quirks.
		Vendor: 0x1b36, Device: 0x0008, Class: 0x060000,
	}))
	return h
}

// Line is the index into Config.Lines that a slot's pin (1 to 4) drives: the usual
// swizzle, which the _PRT describes.
func Line(slot int, pin uint8, lines int) int { return (slot + int(pin) - 1) % lines }

// Add puts f at 0:slot.function. All come before the machine runs, and before
// Reset, which assigns addresses.
func (h *Host) Add(slot, function int, f *Function) {
	i := slot<<3 | function
	if slot < 0 || slot > 31 || function < 0 || function > 7 || h.slots[i] != nil {
		panic(fmt.Sprintf("pci: %s can not be at 0:%d.%d", f.name, slot, function))
	}
	f.host, f.slot = h, uint8(i)
	if pin := f.config[regPin]; pin != 0 && len(h.cfg.Lines) > 0 {
		f.line = h.cfg.Lines[Line(slot, pin, len(h.cfg.Lines))]
	}
	h.slots[i] = f
	if function != 0 && h.slots[slot<<3] != nil {
		h.slots[slot<<3].config[regHeaderType] = 0x80
	}
}

// Functions are all functions, for saving and loading.
func (h *Host) Functions() (fs []*Function) {
	for _, f := range h.slots {
		if f != nil {
			fs = append(fs, f)
		}
	}
	return fs
}

// Reset implements device.Device, for the bridge and all functions, and gives every
// window an address, as firmware would.
func (h *Host) Reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.address, h.control = 0, 0
	next := map[Kind]uint64{IO: h.cfg.IO.Base, Memory32: h.cfg.Memory32.Base, Memory64: h.cfg.Memory64.Base}
	for _, f := range h.slots {
		if f == nil {
			continue
		}
		f.reset()
		f.mu.Lock()
		h.assign(f, next)
		f.mu.Unlock()
	}
	h.reroute()
}

// assign gives f's windows addresses. f.mu is held.
func (h *Host) assign(f *Function, next map[Kind]uint64) {
	if f.config[regPin] != 0 {
		f.config[regLine] = noLine
	}
	for n := range f.bars {
		b := &f.bars[n]
		if b.Kind == None {
			continue
		}
		kind, w := b.Kind, h.window(b.Kind)
		if kind == Memory64 && w.Size == 0 {
			kind, w = Memory32, h.cfg.Memory32
		}
		a := (next[kind] + b.Size - 1) &^ (b.Size - 1)
		if !w.holds(a, b.Size) {
			continue // stays at zero, which decodes nothing
		}
		next[kind] = a + b.Size
		f.setAddress(n, a)
		if b.Kind == IO {
			f.config[regCommand] |= cmdIO
		} else {
			f.config[regCommand] |= cmdMemory
		}
	}
}

func (h *Host) window(k Kind) Window {
	switch k {
	case IO:
		return h.cfg.IO
	case Memory64:
		return h.cfg.Memory64
	}
	return h.cfg.Memory32
}

// reroute takes a new snapshot of the windows. mu is held.
func (h *Host) reroute() {
	r := &routes{}
	for _, f := range h.slots {
		if f == nil {
			continue
		}
		f.mu.Lock()
		for n := range f.bars {
			b := &f.bars[n]
			a, on := f.address(n)
			switch {
			case !on:
			case b.Kind == IO && h.cfg.IO.holds(a, b.Size):
				r.io = append(r.io, route{a, b.Size, b})
			case b.Kind != IO && (h.cfg.Memory32.holds(a, b.Size) || h.cfg.Memory64.holds(a, b.Size)):
				r.mem = append(r.mem, route{a, b.Size, b})
			}
		}
		f.mu.Unlock()
	}
	h.routes.Store(r)
}

func find(rs []route, a, size uint64) (*BAR, uint64) {
	for i := range rs {
		if r := &rs[i]; a >= r.start && a-r.start < r.size && size <= r.size-(a-r.start) {
			return r.bar, a - r.start
		}
	}
	return nil, 0
}

// In implements device.PortDevice for the configuration ports.
func (h *Host) In(port uint16, size int) uint32 {
	h.mu.Lock()
	address, control := h.address, h.control
	h.mu.Unlock()
	switch {
	case port == portAddress && size == 4:
		return address
	case port == portReset && size == 1:
		return uint32(control)
	}
	f, off := h.target(address, port, size)
	if f == nil {
		return all(size)
	}
	var b [4]byte
	f.readConfig(off, b[:size])
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// Out implements device.PortDevice for the configuration ports.
func (h *Host) Out(port uint16, size int, v uint32) {
	h.mu.Lock()
	address, reset := h.address, false
	switch {
	case port == portAddress && size == 4:
		h.address = v
	case port == portReset && size == 1:
		reset = uint8(v)&^h.control&resetCPU != 0 // a rising edge resets
		h.control = uint8(v) & 0x0e
	}
	h.mu.Unlock()
	if reset {
		h.cfg.Reset()
		return
	}
	if f, off := h.target(address, port, size); f != nil {
		b := [4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
		h.writeConfig(f, off, b[:size])
	}
}

// writeConfig writes to f and takes notice of windows that moved.
func (h *Host) writeConfig(f *Function, off int, b []byte) {
	if f.writeConfig(off, b) {
		h.mu.Lock()
		h.reroute()
		h.mu.Unlock()
	}
}

// all is what a read that nobody answers gives.
func all(size int) uint32 { return uint32(1<<(8*size) - 1) }

// target is the function and register that the address latch and a data port select.
func (h *Host) target(address uint32, port uint16, size int) (*Function, int) {
	off := int(port & 3)
	if port < portData || address&addressValid == 0 || address>>16&0xff != 0 || off+size > 4 {
		return nil, 0
	}
	return h.slots[address>>8&0xff], int(address&0xfc) + off
}

// ECAM is the memory-mapped configuration space of the bus, ECAMSize long.
func (h *Host) ECAM() device.MMIODevice { return (*ecam)(h) }

type ecam Host

func (e *ecam) ReadMMIO(off uint64, b []byte) {
	f, reg := e.target(off, len(b))
	switch {
	case f == nil:
		for i := range b {
			b[i] = 0xff
		}
	case reg >= 256: // no extended capabilities
		clear(b)
	default:
		f.readConfig(reg, b)
	}
}

func (e *ecam) WriteMMIO(off uint64, b []byte) {
	f, reg := e.target(off, len(b))
	if f == nil || reg >= 256 {
		return
	}
	(*Host)(e).writeConfig(f, reg, b)
}

// target takes naturally aligned accesses up to four bytes.
func (e *ecam) target(off uint64, size int) (*Function, int) {
	if size > 4 || off&uint64(size-1) != 0 || off >= ECAMSize {
		return nil, 0
	}
	return e.slots[off>>12], int(off & 0xfff)
}

// Memory is a memory window's content, for the machine to route to.
func (h *Host) Memory(w Window) device.MMIODevice { return &memory{h, w.Base} }

type memory struct {
	h    *Host
	base uint64
}

func (m *memory) ReadMMIO(off uint64, b []byte) {
	if bar, o := find(m.h.routes.Load().mem, m.base+off, uint64(len(b))); bar != nil {
		bar.MMIO.ReadMMIO(o, b)
		return
	}
	for i := range b {
		b[i] = 0xff
	}
}

func (m *memory) WriteMMIO(off uint64, b []byte) {
	if bar, o := find(m.h.routes.Load().mem, m.base+off, uint64(len(b))); bar != nil {
		bar.MMIO.WriteMMIO(o, b)
	}
}

// IO is the port window's content, for the machine to route to.
func (h *Host) IO() device.PortDevice { return (*ports)(h) }

type ports Host

func (p *ports) In(port uint16, size int) uint32 {
	if bar, o := find(p.routes.Load().io, uint64(port), uint64(size)); bar != nil {
		return bar.Ports.In(uint16(o), size)
	}
	return all(size)
}

func (p *ports) Out(port uint16, size int, v uint32) {
	if bar, o := find(p.routes.Load().io, uint64(port), uint64(size)); bar != nil {
		bar.Ports.Out(uint16(o), size, v)
	}
}
