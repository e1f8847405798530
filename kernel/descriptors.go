package kernel

import "unsafe"

// Selectors. The first two are what the boot stub's GDT has there too.
const (
	selCode = 0x08
	selData = 0x10
	selTSS  = 0x18 // two entries; VT-x demands that TR not be 0

	gdtEntries = 5
)

// Descriptors (SDM vol. 3, 3.4.5), accessed bit set so that loading one does not
// write it.
const (
	descCode64 = 0x00AF9B000000FFFF
	descData   = 0x00CF93000000FFFF
)

// Interrupt stack table entries.
const (
	istInterrupt = 1 // the current thread's kernel stack, empty while it can be interrupted
	istTrap      = 2
	istNMI       = 3
	istDouble    = 4
	istMCE       = 5
)

// tss is the 64-bit task state segment (SDM vol. 3, figure 7-11). Its 64-bit
// fields lie on 4-byte boundaries, so they are pairs here.
type tss struct {
	_     uint32
	rsp   [3][2]uint32
	_     [2]uint32
	ist   [7][2]uint32 // IST1 is ist[0]
	_     [2]uint32
	_     uint16
	iomap uint16
}

const _ = -(unsafe.Sizeof(tss{}) - 104)

func (t *tss) setIST(n int, sp uintptr) {
	t.ist[n-1] = [2]uint32{uint32(sp), uint32(sp >> 32)}
}

// descriptorPointer is LGDT's and LIDT's operand.
type descriptorPointer struct {
	_     [3]uint16 // puts base on an 8-byte boundary
	limit uint16
	base  uintptr
}

// load returns the operand's address.
func (d *descriptorPointer) set(base uintptr, size int) *descriptorPointer {
	d.limit, d.base = uint16(size-1), base
	return (*descriptorPointer)(unsafe.Add(unsafe.Pointer(d), unsafe.Offsetof(d.limit)))
}

var (
	idt        [256][2]uint64
	idtPointer descriptorPointer
)

// setGate points a vector at its stub. The gate turns interrupts off.
func setGate(vector int, ist uint64) {
	a := uint64(addrVectors()) + 16*uint64(vector)
	idt[vector] = [2]uint64{a&0xffff | selCode<<16 | ist<<32 | 0x8e00<<32 | a>>16&0xffff<<48, a >> 32}
}

// loadEarlyIDT makes faults visible while there is only the boot stack.
func loadEarlyIDT() {
	for v := range idt {
		setGate(v, 0)
	}
	lidt(idtPointer.set(uintptr(unsafe.Pointer(&idt)), int(unsafe.Sizeof(idt))))
}

// setStacks gives the vectors their stacks, once every CPU's TSS has them.
func setStacks() {
	for v := range idt {
		switch {
		case v == vecNMI:
			setGate(v, istNMI)
		case v == vecDoubleFault:
			setGate(v, istDouble)
		case v == vecMachineCheck:
			setGate(v, istMCE)
		case v < 32:
			setGate(v, istTrap)
		default:
			setGate(v, istInterrupt)
		}
	}
}

// loadDescriptors makes the CPU's own GDT, TSS and the shared IDT current.
func (c *cpu) loadDescriptors() {
	slot := cpuSlot(c.index)
	c.tss.setIST(istTrap, slot+trapStackTop)
	c.tss.setIST(istNMI, slot+nmiStackTop)
	c.tss.setIST(istDouble, slot+faultStackTop)
	c.tss.setIST(istMCE, slot+mceStackTop)
	c.tss.iomap = uint16(unsafe.Sizeof(tss{}))
	b := uint64(uintptr(unsafe.Pointer(&c.tss)))
	c.gdt = [gdtEntries]uint64{
		0,
		descCode64,
		descData,
		uint64(unsafe.Sizeof(tss{})-1) | b&0xffffff<<16 | 0x89<<40 | b>>24&0xff<<56, // available 64-bit TSS
		b >> 32,
	}
	lgdt(c.dtr.set(uintptr(unsafe.Pointer(&c.gdt)), int(unsafe.Sizeof(c.gdt))))
	reloadSegments()
	ltr(selTSS)
	lidt(idtPointer.set(uintptr(unsafe.Pointer(&idt)), int(unsafe.Sizeof(idt))))
}
