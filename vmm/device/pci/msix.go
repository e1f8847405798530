package pci

import (
	"encoding/binary"
	"fmt"

	"godwit/vmm/device"
)

// MSI-X (PCI Local Bus Specification 3.0, section 6.8.2). Table and pending bits
// have a BAR of their own.
const (
	msixControl = 2 // in the capability
	msixTable   = 4
	msixPBA     = 8
	msixCapSize = 12

	msixEnable   = 1 << 15
	msixMaskAll  = 1 << 14
	msixBARSize  = 0x1000
	msixPBAStart = 0x800
	entrySize    = 16
	entryMasked  = 1 << 0

	// MaxMSIX is how many vectors fit before the pending bits.
	MaxMSIX = msixPBAStart / entrySize
)

type msix struct {
	f       *Function
	entries []msixEntry
	pending [MaxMSIX / 64]uint64
}

type msixEntry struct {
	address uint64
	data    uint32
	control uint32
}

// AddMSIX gives the function n MSI-X vectors, in its BAR number bar.
func (f *Function) AddMSIX(bar, n int) {
	if n < 1 || n > MaxMSIX {
		panic(fmt.Sprintf("pci: %s: %d MSI-X vectors, not 1 to %d", f.name, n, MaxMSIX))
	}
	f.msix = &msix{f: f, entries: make([]msixEntry, n)}
	f.AddBAR(bar, BAR{Kind: Memory32, Size: msixBARSize, MMIO: f.msix})
	var body, writable [msixCapSize - 2]byte
	le := binary.LittleEndian
	le.PutUint16(body[msixControl-2:], uint16(n-1))
	le.PutUint16(writable[msixControl-2:], msixEnable|msixMaskAll)
	le.PutUint32(body[msixTable-2:], uint32(bar))
	le.PutUint32(body[msixPBA-2:], msixPBAStart|uint32(bar))
	f.msixCap = f.AddCapability(CapMSIX, body[:], writable[:], nil)
	f.msix.reset()
}

func (m *msix) reset() {
	for i := range m.entries {
		m.entries[i] = msixEntry{control: entryMasked}
	}
	m.pending = [len(m.pending)]uint64{}
}

func (f *Function) msixControl() uint16 {
	return binary.LittleEndian.Uint16(f.config[f.msixCap+msixControl:])
}

func (f *Function) msixEnabled() bool { return f.msix != nil && f.msixControl()&msixEnable != 0 }

// Notify interrupts with vector n of MSI-X or of MSI, whichever is enabled, and
// tells whether one was: otherwise the caller uses SetINTx. Callable from
// anywhere; it does not allocate.
func (f *Function) Notify(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.msixEnabled():
		if n >= 0 && n < len(f.msix.entries) {
			f.sendMSIX(n)
		}
	case f.msi != 0 && f.config[f.msi+msiControl]&msiEnable != 0:
		f.sendMSI(n)
	default:
		return false
	}
	return true
}

// sendMSIX sends or, if it is masked, remembers vector n. mu is held.
func (f *Function) sendMSIX(n int) {
	e, w, bit := &f.msix.entries[n], &f.msix.pending[n>>6], uint64(1)<<(n&63)
	if e.control&entryMasked != 0 || f.msixControl()&msixMaskAll != 0 || f.command()&cmdMaster == 0 {
		*w |= bit
		return
	}
	*w &^= bit
	f.host.msi.Message(e.address, e.data)
}

// flushMSIX sends what waited for a mask to be lifted. mu is held.
func (f *Function) flushMSIX() {
	if !f.msixEnabled() || f.host == nil {
		return
	}
	for n := range f.msix.entries {
		if f.msix.pending[n>>6]>>(n&63)&1 != 0 {
			f.sendMSIX(n)
		}
	}
}

// ReadMMIO implements device.MMIODevice: aligned accesses of 4 or 8 bytes.
func (m *msix) ReadMMIO(off uint64, b []byte) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	clear(b)
	for i := 0; i+4 <= len(b); i += 4 {
		binary.LittleEndian.PutUint32(b[i:], m.read(off+uint64(i)))
	}
}

func (m *msix) read(off uint64) uint32 {
	if off&3 != 0 {
		return 0
	}
	if n := off / entrySize; n < uint64(len(m.entries)) {
		e := &m.entries[n]
		switch off % entrySize {
		case 0:
			return uint32(e.address)
		case 4:
			return uint32(e.address >> 32)
		case 8:
			return e.data
		default:
			return e.control
		}
	}
	if off >= msixPBAStart && (off-msixPBAStart)/8 < uint64(len(m.pending)) {
		return uint32(m.pending[(off-msixPBAStart)/8] >> (8 * (off & 4)))
	}
	return 0
}

// WriteMMIO implements device.MMIODevice.
func (m *msix) WriteMMIO(off uint64, b []byte) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	for i := 0; i+4 <= len(b); i += 4 {
		m.write(off+uint64(i), binary.LittleEndian.Uint32(b[i:]))
	}
}

func (m *msix) write(off uint64, v uint32) {
	n := off / entrySize
	if off&3 != 0 || n >= uint64(len(m.entries)) {
		return
	}
	e := &m.entries[n]
	switch off % entrySize {
	case 0:
		e.address = e.address&^0xffffffff | uint64(v&^3)
	case 4:
		e.address = e.address&0xffffffff | uint64(v)<<32
	case 8:
		e.data = v
	default:
		e.control = v & entryMasked
	}
	if m.pending[n>>6]>>(n&63)&1 != 0 && m.f.msixEnabled() {
		m.f.sendMSIX(int(n))
	}
}

var _ device.MMIODevice = (*msix)(nil)
