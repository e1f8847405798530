package pci

import (
	"encoding/binary"
	"sync"
)

// fakeConfig is the configuration space of a made-up machine.
type fakeConfig struct {
	mu    sync.Mutex
	space int // bytes a function has
	fns   map[Address]*fakeFunction
}

type fakeFunction struct {
	mem [extendedSize]byte
	// mask holds the writable bits of each dword, as a device would wire them.
	mask map[int]uint32
}

func newFake(space int) *fakeConfig {
	return &fakeConfig{space: space, fns: map[Address]*fakeFunction{}}
}

func (c *fakeConfig) add(a Address, vendor, device uint16, class uint32, header uint8) *fakeFunction {
	f := &fakeFunction{mask: map[int]uint32{
		regCommand: 0xffff,
		regIntLine: 0xff,
	}}
	f.set16(regVendor, vendor)
	f.set16(regDevice, device)
	f.set32(regRevision, class<<8|0x03)
	f.mem[regHeaderType] = header
	c.fns[a] = f
	return f
}

func (f *fakeFunction) set16(off int, v uint16) { binary.LittleEndian.PutUint16(f.mem[off:], v) }
func (f *fakeFunction) set32(off int, v uint32) { binary.LittleEndian.PutUint32(f.mem[off:], v) }
func (f *fakeFunction) get32(off int) uint32    { return binary.LittleEndian.Uint32(f.mem[off:]) }

// bar makes a base address register of the given size.
func (f *fakeFunction) bar(i int, address uint64, flags uint32, size uint64) {
	off := regBAR0 + 4*i
	f.set32(off, uint32(address)|flags)
	f.mask[off] = uint32(^(size - 1)) &^ 0xf
	if flags&barIO != 0 {
		f.mask[off] = uint32(^(size - 1)) &^ 3
	} else if flags&barType == barType64 {
		f.set32(off+4, uint32(address>>32))
		f.mask[off+4] = uint32(^(size - 1) >> 32)
	}
}

// capability puts an entry at off that points to next, with its bytes writable.
func (f *fakeFunction) capability(off int, id uint8, next int, body ...byte) {
	f.set16(regStatus, statusCapabilities)
	f.mem[off], f.mem[off+1] = id, byte(next)
	copy(f.mem[off+2:], body)
	f.mask[off] = 0xffff_0000
	for i := off + 4; i < off+24 && i < len(f.mem); i += 4 {
		f.mask[i] = 0xffff_ffff
	}
}

func (c *fakeConfig) Size(Address) int { return c.space }

func (c *fakeConfig) Read(a Address, off, size int) uint32 {
	if !reachable(a, off, size, c.space) {
		return allOnes(size)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fns[a]
	if f == nil {
		return allOnes(size)
	}
	var b [4]byte
	copy(b[:], f.mem[off:off+size])
	return binary.LittleEndian.Uint32(b[:])
}

func (c *fakeConfig) Write(a Address, off, size int, v uint32) {
	if !reachable(a, off, size, c.space) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.fns[a]
	if f == nil {
		return
	}
	dword := off &^ 3
	shift := 8 * (off & 3)
	mask := f.mask[dword] & (allOnes(size) << shift)
	f.set32(dword, f.get32(dword)&^mask|v<<shift&mask)
}
