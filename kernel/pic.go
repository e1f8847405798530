package kernel

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// The two 8259As serve machines whose firmware names no I/O APIC (Intel 8259A
// datasheet; 82371 datasheet, ELCR). Their interrupts reach the boot CPU through
// LINT0 as ExtINT, which leaves nothing in service in the local APIC (SDM vol. 3,
// 11.5.1): they want no EOI there, but one here.
const (
	picMaster  = 0x20
	picSlave   = 0xa0
	picELCR    = 0x4d0 // one bit a line: level-triggered
	picCascade = 2

	picSpecificEOI = 0x60 // OCW2, with the line
	picReadISR     = 0x0b // OCW3
)

var (
	picLock spinlock
	picMask uint16 = 0xffff
)

// maskPIC moves the 8259s' vectors away from the exceptions and masks them all.
func maskPIC() {
	for _, w := range [...]struct {
		port uint16
		v    uint8
	}{
		{picMaster, 0x11}, {picSlave, 0x11}, // ICW1: edge, cascade, ICW4 follows
		{picMaster + 1, vecPIC}, {picSlave + 1, vecPIC + 8},
		{picMaster + 1, 1 << picCascade}, {picSlave + 1, picCascade}, // ICW3
		{picMaster + 1, 1}, {picSlave + 1, 1}, // ICW4: 8086 mode
		{picMaster + 1, 0xff}, {picSlave + 1, 0xff},
	} {
		Out8(w.port, w.v)
	}
}

// picOn masks or unmasks a line. Interrupts are off.
func picOn(line uint8, masked bool) {
	picLock.lock()
	picMask = picNewMask(picMask, line, masked)
	Out8(picMaster+1, uint8(picMask))
	Out8(picSlave+1, uint8(picMask>>8))
	picLock.unlock()
}

// picNewMask also keeps the cascade open exactly while the slave has an open line.
func picNewMask(old uint16, line uint8, masked bool) uint16 {
	m := old &^ (1 << line)
	if masked {
		m |= 1 << line
	}
	m |= 1 << picCascade
	if m>>8 != 0xff {
		m &^= 1 << picCascade
	}
	return m
}

// picInterrupt is a vector of the 8259s. A request that was gone when the processor
// asked for its vector shows as line 7 with nothing in service (datasheet, "Interrupt
// Sequence"); from the slave it has left the cascade in service.
func picInterrupt(vector uintptr) {
	line := uint8(vector - vecPIC)
	if line&7 == 7 {
		port := uint16(picMaster)
		if line == 15 {
			port = picSlave
		}
		Out8(port, picReadISR)
		if In8(port)&0x80 == 0 {
			if line == 15 {
				Out8(picMaster, picSpecificEOI|picCascade)
			}
			return
		}
	}
	q := &irqs[vector]
	if q.level {
		picOn(line, true)
	}
	if line >= 8 {
		Out8(picSlave, picSpecificEOI|line&7)
		line = picCascade
	}
	Out8(picMaster, picSpecificEOI|line)
	atomic.AddUint64(&q.total, 1)
	wakeIRQ(q)
}

// picClaim is ISAInterrupt where there is no I/O APIC.
func picClaim(line int) (*Interrupt, error) {
	name := fmt.Sprintf("interrupt line %d", line)
	v := vecPIC + line
	if line == picCascade {
		return nil, fmt.Errorf("kernel: %s joins the two interrupt controllers and is no device's", name)
	}
	vectorOwners.Lock()
	defer vectorOwners.Unlock()
	if vectorOwners.owner[v] != "" {
		return nil, fmt.Errorf("kernel: %s is in use already", name)
	}
	vectorOwners.owner[v] = name
	critical(picOpen, unsafe.Pointer(&irqs[v]))
	return &Interrupt{vector: v, name: name, seen: atomic.LoadUint32(&irqs[v].count)}, nil
}

func picOpen(arg unsafe.Pointer) {
	q := (*irq)(arg)
	v := (uintptr(arg) - uintptr(unsafe.Pointer(&irqs))) / unsafe.Sizeof(irq{})
	line := uint8(v - vecPIC)
	elcr := uint16(In8(picELCR)) | uint16(In8(picELCR+1))<<8
	q.viaPIC, q.line = true, line
	q.level = elcr != 0xffff && elcr>>line&1 != 0 // all ones: a machine without the register
	picOn(line, false)
}
