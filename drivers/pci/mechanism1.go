package pci

import (
	"errors"
	"sync"
)

// Ports is access to the machine's I/O ports.
type Ports interface {
	In8(port uint16) uint8
	In16(port uint16) uint16
	In32(port uint16) uint32
	Out8(port uint16, v uint8)
	Out16(port uint16, v uint16)
	Out32(port uint16, v uint32)
}

// Configuration mechanism #1, PCI 3.2.2.3.2.
const (
	configAddress = 0xcf8
	configData    = 0xcfc
	configEnable  = 1 << 31
)

// mechanism1 reaches the first 256 bytes of every function of segment 0 through
// an index and a data port.
type mechanism1 struct {
	mu    sync.Mutex // one index register for the whole machine
	ports Ports
}

// Mechanism1 returns access through the two ports every PC has.
func Mechanism1(p Ports) (Config, error) {
	p.Out32(configAddress, configEnable)
	if p.In32(configAddress) != configEnable {
		return nil, errors.New("pci: no configuration mechanism #1 at port 0xcf8: this machine has no PCI")
	}
	return &mechanism1{ports: p}, nil
}

func (m *mechanism1) Size(Address) int { return legacySize }

// sel points the index at a register and returns the data port for it.
func (m *mechanism1) sel(a Address, off int) uint16 {
	m.ports.Out32(configAddress, configEnable|
		uint32(a.Bus)<<16|uint32(a.Device&31)<<11|uint32(a.Function&7)<<8|uint32(off&0xfc))
	return configData + uint16(off&3)
}

func (m *mechanism1) Read(a Address, off, size int) uint32 {
	if !reachable(a, off, size, legacySize) || a.Segment != 0 {
		return allOnes(size)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	port := m.sel(a, off)
	switch size {
	case 1:
		return uint32(m.ports.In8(port))
	case 2:
		return uint32(m.ports.In16(port))
	}
	return m.ports.In32(port)
}

func (m *mechanism1) Write(a Address, off, size int, v uint32) {
	if !reachable(a, off, size, legacySize) || a.Segment != 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	port := m.sel(a, off)
	switch size {
	case 1:
		m.ports.Out8(port, uint8(v))
	case 2:
		m.ports.Out16(port, uint16(v))
	default:
		m.ports.Out32(port, v)
	}
}

// reachable tells whether an access lies inside a function's space. The size
// and alignment are the caller's own and must be right.
func reachable(a Address, off, size, space int) bool {
	if size != 1 && size != 2 && size != 4 || off&(size-1) != 0 {
		panic("pci: configuration access of a wrong size or alignment")
	}
	return a.Device < 32 && a.Function < 8 && off >= 0 && off+size <= space
}

func allOnes(size int) uint32 { return uint32(1<<(8*size) - 1) }
