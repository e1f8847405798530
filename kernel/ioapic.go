package kernel

import (
	"sync/atomic"
	"unsafe"
)

// I/O APICs (82093AA datasheet). Their registers are reached through an index and a
// window, so every access takes ioapicLock, which handlers take too.
const (
	ioapicIndex  = 0x00
	ioapicWindow = 0x10

	ioapicVersion = 1
	ioapicTable   = 0x10 // two registers a pin

	redirMode      = 7 << 8
	redirSMI       = 2 << 8
	redirMasked    = 1 << 16
	redirLevel     = 1 << 15
	redirActiveLow = 1 << 13
)

var ioapicLock spinlock

// A pin is one input of an I/O APIC.
type pin struct {
	base uintptr // its controller's registers
	n    uint32
	low  uint32 // the redirection entry's low half, but for the mask
	dest uint32
}

func ioapicRead(base uintptr, reg uint32) uint32 {
	store32(base+ioapicIndex, reg)
	return load32(base + ioapicWindow)
}

func ioapicWrite(base uintptr, reg, v uint32) {
	store32(base+ioapicIndex, reg)
	store32(base+ioapicWindow, v)
}

// findPin finds the input of a global system interrupt. It takes ioapicLock.
func findPin(gsi uint32) (p pin, ok bool) {
	for i := range madt.IOAPIC[:madt.NIOAPIC] {
		a := &madt.IOAPIC[i]
		base := uintptr(a.Address)
		ioapicLock.lock()
		pins := ioapicRead(base, ioapicVersion)>>16&0xff + 1
		ioapicLock.unlock()
		if gsi >= a.GSIBase && gsi-a.GSIBase < pins {
			return pin{base: base, n: gsi - a.GSIBase}, true
		}
	}
	return p, false
}

// set writes the pin's redirection entry. The destination goes first: until the
// low half is written the old entry, masked, holds.
func (p *pin) set(masked bool) {
	low := p.low
	if masked {
		low |= redirMasked
	}
	ioapicLock.lock()
	if !masked {
		ioapicWrite(p.base, ioapicTable+2*p.n+1, p.dest<<24)
	}
	ioapicWrite(p.base, ioapicTable+2*p.n, low)
	ioapicLock.unlock()
}

// mapIOAPICs maps the controllers that the MADT names, and forgets those that can not
// be: writing to what is not one would destroy it.
func mapIOAPICs() {
	n := 0
	for _, a := range madt.IOAPIC[:madt.NIOAPIC] {
		page := uint64(a.Address) &^ (pageSize - 1)
		if page < 1<<20 || physMapped(page) {
			print1("kernel: the MADT names an I/O APIC in memory, at ")
		} else if mapRange(uintptr(page), page, pageSize, deviceData, pageSize); ioapicRead(uintptr(a.Address), ioapicVersion) == 1<<32-1 { // two may share a page
			print1("kernel: the MADT names an I/O APIC where none answers, at ")
		} else {
			madt.IOAPIC[n] = a
			n++
			continue
		}
		printHex(uint64(a.Address), 8)
		print1(": it is not used\n")
	}
	madt.NIOAPIC = n
}

// firmwares tells by an entry's low half whether firmware keeps the pin for itself: an
// SMI is none of ours, and its machine may need it, as for a fan.
func firmwares(low uint32) bool { return low&redirMode == redirSMI }

// maskIOAPICs silences whatever else firmware left enabled.
func maskIOAPICs() {
	for i := range madt.IOAPIC[:madt.NIOAPIC] {
		base := uintptr(madt.IOAPIC[i].Address)
		for n := range ioapicRead(base, ioapicVersion)>>16&0xff + 1 {
			if !firmwares(ioapicRead(base, ioapicTable+2*n)) {
				ioapicWrite(base, ioapicTable+2*n, redirMasked)
			}
		}
	}
}

// An irq is what a device vector leads to. Its count is also the futex that waiters
// sleep on.
type irq struct {
	count  uint32 // interrupts so far, modulo 2^32
	_      uint32
	total  uint64
	level  bool
	viaPin bool
	viaPIC bool
	line   uint8 // of the 8259s
	pin    pin
}

var irqs [256]irq

// mask silences the interrupt at its controller, or lets it through.
func (q *irq) mask(on bool) {
	if q.viaPIC {
		picOn(q.line, on)
	} else {
		q.pin.set(on)
	}
}

// deviceInterrupt runs in the handler, before the local APIC's EOI: a
// level-triggered pin is masked first, or it would fire again at once.
func deviceInterrupt(c *cpu, vector int) {
	q := &irqs[vector]
	if q.level {
		q.pin.set(true)
	}
	atomic.AddUint64(&q.total, 1)
	wakeIRQ(q)
}

func wakeIRQ(q *irq) {
	atomic.AddUint32(&q.count, 1)
	a := uintptr(unsafe.Pointer(&q.count))
	futexQueue(a).wake(a, maxThreads)
}
