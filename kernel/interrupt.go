package kernel

import (
	"fmt"
	"sync"
	"sync/atomic"
	gosyscall "syscall"
	"time"
	"unsafe"
)

// An Interrupt is one interrupt line or message whose arrivals a goroutine can
// wait for. At most one goroutine waits at a time.
type Interrupt struct {
	vector int
	name   string
	seen   uint32
	closed atomic.Bool
}

var vectorOwners struct {
	sync.Mutex
	owner [256]string // whose a vector is; "" is free
}

// claimVector takes a free device vector. Neighbours share a priority class (SDM
// vol. 3, 11.8.3), which does not matter: handlers only count and wake.
func claimVector(name string) (int, error) {
	vectorOwners.Lock()
	defer vectorOwners.Unlock()
	for _, n := range vectorOwners.owner {
		if n == name {
			return 0, fmt.Errorf("kernel: %s is in use already", name)
		}
	}
	for v := vecDevice; v < vecDeviceEnd; v++ {
		if vectorOwners.owner[v] == "" {
			vectorOwners.owner[v] = name
			return v, nil
		}
	}
	return 0, fmt.Errorf("kernel: %s: all %d interrupt vectors are in use", name, vecDeviceEnd-vecDevice)
}

func releaseVector(v int) {
	vectorOwners.Lock()
	vectorOwners.owner[v] = ""
	vectorOwners.Unlock()
}

// ISAInterrupt claims a legacy interrupt, through the I/O APIC with ACPI's overrides,
// or through the 8259s where there is none.
func ISAInterrupt(irq int) (*Interrupt, error) {
	if !Running() {
		return nil, errNotRunning
	}
	if irq < 0 || irq > 15 {
		return nil, fmt.Errorf("kernel: there is no ISA interrupt %d", irq)
	}
	if madt.NIOAPIC == 0 {
		return picClaim(irq)
	}
	gsi, level, low := madt.Route(uint8(irq))
	return GSIInterrupt(int(gsi), level, low)
}

// GSIInterrupt claims an I/O APIC input by its global system interrupt number.
func GSIInterrupt(gsi int, level, activeLow bool) (*Interrupt, error) {
	if !Running() {
		return nil, errNotRunning
	}
	name := fmt.Sprintf("interrupt line %d", gsi)
	if madt.NIOAPIC == 0 {
		return nil, fmt.Errorf("kernel: %s: this machine's ACPI tables name no I/O APIC; a device with MSI needs none", name)
	}
	v, err := claimVector(name)
	if err != nil {
		return nil, err
	}
	c := pinCallIRQ{gsi: uint32(gsi), vector: v, level: level, activeLow: activeLow}
	critical(claimPin, unsafe.Pointer(&c))
	if !c.ok {
		releaseVector(v)
		return nil, fmt.Errorf("kernel: %s: no I/O APIC has it", name)
	}
	return &Interrupt{vector: v, name: name, seen: atomic.LoadUint32(&irqs[v].count)}, nil
}

type pinCallIRQ struct {
	gsi              uint32
	vector           int
	level, activeLow bool
	ok               bool
}

func claimPin(arg unsafe.Pointer) {
	c := (*pinCallIRQ)(arg)
	p, ok := findPin(c.gsi)
	if !ok {
		return
	}
	p.low, p.dest = uint32(c.vector), cpuAt(0).apicID
	if c.level {
		p.low |= redirLevel
	}
	if c.activeLow {
		p.low |= redirActiveLow
	}
	q := &irqs[c.vector]
	q.pin, q.viaPin, q.level = p, true, c.level
	p.set(false)
	c.ok = true
}

// MSIInterrupt allocates a vector on a CPU for an MSI or one MSI-X entry, which
// the caller programs with address and data (SDM vol. 3, 11.11).
func MSIInterrupt(cpu int) (i *Interrupt, address uint64, data uint32, err error) {
	if !Running() {
		return nil, 0, 0, errNotRunning
	}
	if cpu < 0 || uint64(cpu) >= ncpu {
		return nil, 0, 0, fmt.Errorf("kernel: an MSI for CPU %d; there are %d", cpu, ncpu)
	}
	id := cpuAt(uint64(cpu)).apicID
	if id >= apicBroadcast {
		return nil, 0, 0, fmt.Errorf("kernel: an MSI can not reach CPU %d, whose APIC ID is %d: that takes an interrupt-remapping unit", cpu, id)
	}
	v, err := claimVector(fmt.Sprintf("MSI %d", msiCount.Add(1)))
	if err != nil {
		return nil, 0, 0, err
	}
	irqs[v].viaPin, irqs[v].level = false, false
	i = &Interrupt{vector: v, name: "MSI", seen: atomic.LoadUint32(&irqs[v].count)}
	return i, 0xfee00000 | uint64(id)<<12, uint32(v), nil
}

var msiCount atomic.Uint64

// Wait blocks the goroutine until at least one more interrupt came since the last
// Wait, or timeout passed (negative: never), and reports which. Level-triggered
// interrupts are masked on delivery and unmasked by Ack.
func (i *Interrupt) Wait(timeout time.Duration) bool {
	q := &irqs[i.vector]
	var ts *gosyscall.Timespec
	var end time.Time
	if timeout >= 0 {
		ts = new(gosyscall.Timespec)
		end = time.Now().Add(timeout)
	}
	for {
		if i.closed.Load() {
			return false
		}
		if n := atomic.LoadUint32(&q.count); n != i.seen {
			i.seen = n
			return true
		}
		if ts != nil {
			left := time.Until(end)
			if left <= 0 {
				return false
			}
			*ts = gosyscall.NsecToTimespec(int64(left))
		}
		// The counter is the futex: an interrupt between the load above and the
		// call makes it return at once.
		gosyscall.Syscall6(gosyscall.SYS_FUTEX, uintptr(unsafe.Pointer(&q.count)), futexWait, uintptr(i.seen), uintptr(unsafe.Pointer(ts)), 0, 0)
	}
}

// Ack unmasks a level-triggered interrupt; the device must have been served.
func (i *Interrupt) Ack() {
	if q := &irqs[i.vector]; q.level && !i.closed.Load() {
		critical(unmaskPin, unsafe.Pointer(q))
	}
}

func unmaskPin(arg unsafe.Pointer)  { (*irq)(arg).mask(false) }
func maskPin(arg unsafe.Pointer)    { (*irq)(arg).mask(true) }
func wakeWaiter(arg unsafe.Pointer) { wakeIRQ((*irq)(arg)) }

// Close masks the interrupt, wakes its waiter and releases the vector. An MSI must
// have been switched off at its device before.
func (i *Interrupt) Close() {
	if i.closed.Swap(true) {
		return
	}
	q := &irqs[i.vector]
	if q.viaPin || q.viaPIC {
		critical(maskPin, unsafe.Pointer(q))
	}
	critical(wakeWaiter, unsafe.Pointer(q))
	releaseVector(i.vector)
}

// Count is how many times the interrupt came since the vector was first used.
func (i *Interrupt) Count() uint64 { return atomic.LoadUint64(&irqs[i.vector].total) }
