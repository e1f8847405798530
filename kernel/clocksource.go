package kernel

import (
	"math/bits"
	"sync/atomic"
	"unsafe"

	"godwit/kernel/internal/acpi"

	"github.com/usbarmory/tamago/soc/intel/uart"
)

// The TSC's rate. What the processor or the hypervisor declares is exact and comes
// first; it is used if a clock that can be counted against agrees within one part in
// a hundred. Else the measurement counts, and a line says so.

// A refClock is a counter of known rate to measure the TSC against.
type refClock struct {
	name string
	hz   uint64
	mask uint64
	kind uint8
	at   uintptr // port or address
}

const (
	refPIT = iota
	refPMTimer
	refHPET
)

// The 8254's channel 2, whose gate is at port 61h (Intel 8254 datasheet; ISA system
// control port B).
const (
	pitHz       = 1193182
	pitChannel2 = 0x42
	pitCommand  = 0x43
	pitCount2   = 0xb0 // channel 2, low then high byte, mode 0: counts down from what is written
	pitLatch2   = 0x80
	portB       = 0x61
	portBGate2  = 1 << 0
	portBSpeak  = 1 << 1

	pmTimerHz = 3579545 // ACPI 6.5, 4.8.2.1

	hpetPeriod  = 4           // femtoseconds a tick, high half of the capabilities (IA-PC HPET 1.0a, 2.3.4)
	hpetSlowest = 100_000_000 // and what it says at most
	hpetFastest = 1_000_000   // the clock must not go round in the milliseconds of a measurement
	hpetConfig  = 0x10
	hpetEnable  = 1
	hpetCounter = 0xf0
	hpetWindow  = mmioEnd // above MapMMIO's windows
)

func (r *refClock) read() uint64 {
	switch r.kind {
	case refHPET:
		return uint64(load32(r.at + hpetCounter))
	case refPMTimer:
		return uint64(In32(uint16(r.at)))
	}
	Out8(pitCommand, pitLatch2)
	lo := uint64(In8(pitChannel2))
	return -(uint64(In8(pitChannel2))<<8 | lo) // it counts down
}

// findRefClock chooses the best counter: HPET, ACPI timer, PIT. One that stands
// still is passed over.
func findRefClock() refClock {
	if t := acpi.Table(tableMemory{}, rsdp, "HPET", 0); t != nil {
		// Switching on what is none would write into memory.
		if base, ok := acpi.HPETBase(t); ok && !physMapped(base) && mapRange(hpetWindow, base&^(pageSize-1), pageSize, deviceData, pageSize) {
			r := refClock{"HPET", 0, 1<<32 - 1, refHPET, hpetWindow + uintptr(base%pageSize)}
			if period := load32(r.at + hpetPeriod); period >= hpetFastest && period <= hpetSlowest {
				r.hz = 1_000_000_000_000_000 / uint64(period)
				store32(r.at+hpetConfig, load32(r.at+hpetConfig)|hpetEnable)
				if r.counts() {
					return r
				}
			}
		}
	}
	if t := acpi.Table(tableMemory{}, rsdp, "FACP", 0); t != nil {
		if port, _ := acpi.PMTimer(t); port != 0 {
			r := refClock{"ACPI timer", pmTimerHz, 1<<24 - 1, refPMTimer, uintptr(port)}
			if r.counts() {
				return r
			}
		}
	}
	r := refClock{"PIT", pitHz, 1<<16 - 1, refPIT, 0}
	Out8(portB, In8(portB)&^portBSpeak|portBGate2)
	Out8(pitCommand, pitCount2)
	Out8(pitChannel2, 0xff)
	Out8(pitChannel2, 0xff)
	if !r.counts() {
		fatal("neither HPET nor ACPI timer nor PIT counts: no clock to measure the TSC with")
	}
	return r
}

// counts reports whether the counter moves. Reading ports takes microseconds.
func (r *refClock) counts() bool {
	start := r.read()
	for range 2000 {
		if (r.read()-start)&r.mask > 2 {
			return true
		}
		In8(com1.Base + uart.LSR)
	}
	return false
}

// pair reads the counter and the TSC at one moment. Whoever runs this machine may
// stop it between two instructions, so the tightest of several tries counts.
func (r *refClock) pair() (ref, tsc uint64) {
	width := ^uint64(0)
	for range 8 {
		before := TSC()
		v := r.read()
		if w := TSC() - before; w < width {
			width, ref, tsc = w, v, before+w/2
		}
	}
	return ref, tsc
}

// refine is where a measurement over a longer time began.
var refine struct {
	clock    refClock
	ref, tsc uint64
	hz       atomic.Uint64
}

// RefineTSC measures the TSC's rate over the time since boot, which is far more
// exact than what could be waited for then. It is to be called once, a second after
// boot: until the reference counter wraps. TSCFrequency tells the new rate from then
// on; the host's own clock keeps the first one, which it may not leave in steps.
func RefineTSC() {
	n := &clockNote
	if !Running() || n.declared != 0 && !n.disagree || refine.clock.kind == refPIT {
		return
	}
	critical(refineTSC, nil)
}

func refineTSC(unsafe.Pointer) {
	r := &refine.clock
	ref, tsc := r.pair()
	n := (ref - refine.ref) & r.mask
	if n < r.hz/4 { // too early, or wrapped
		return
	}
	hz := scale(tsc-refine.tsc, r.hz, n)
	if diff := max(hz, tscHz) - min(hz, tscHz); diff < tscHz/4 {
		refine.hz.Store(hz)
	}
}

// A sample is what the three counters show at one moment.
type sample struct{ ref, tsc, lapic, lapicTSC uint64 }

func (r *refClock) sample() (s sample) {
	s.ref, s.tsc = r.pair()
	s.lapic, s.lapicTSC = uint64(lapicRead(lapicCurCount)), TSC()
	return s
}

// rates are those between two samples.
func (r *refClock) rates(a, b sample) (hz, lapicHz uint64) {
	hz = scale(b.tsc-a.tsc, r.hz, (b.ref-a.ref)&r.mask)
	return hz, scale(a.lapic-b.lapic, hz, b.lapicTSC-a.lapicTSC) // it counts down
}

// measure takes some 4 ms, in two halves. If these do not agree, something came between, and it begins again: the
// third time the median of all counts.
func (r *refClock) measure() (hz, lapicHz uint64) {
	var h, l [3]uint64
	for i := range h {
		if r.kind == refPIT { // 16 bits last 55 ms: begin anew
			Out8(pitCommand, pitCount2)
			Out8(pitChannel2, 0xff)
			Out8(pitChannel2, 0xff)
		}
		lapicWrite(lapicInitCount, 1<<32-1)
		var s [3]sample
		for j := range s {
			if j > 0 {
				for (r.read()-s[j-1].ref)&r.mask < r.hz/512 {
				}
			}
			s[j] = r.sample()
		}
		lapicWrite(lapicInitCount, 0)
		h[i], l[i] = r.rates(s[0], s[2])
		h1, l1 := r.rates(s[0], s[1])
		h2, l2 := r.rates(s[1], s[2])
		if near(h1, h2) && near(l1, l2) {
			return h[i], l[i]
		}
	}
	return median(h), median(l)
}

// near is within one part in 2,000.
func near(a, b uint64) bool { return max(a, b)-min(a, b) <= min(a, b)/2000 }

// scale is v*hz/n.
func scale(v, hz, n uint64) uint64 {
	hi, lo := bits.Mul64(v, hz)
	q, _ := bits.Div64(hi, lo, max(n, hi+1))
	return q
}

// declaredTSC returns the rate that CPUID or the hypervisor names, 0 if none does.
func declaredTSC() (hz uint64, by string) {
	if _, _, c, _ := CPUID(1, 0); c>>31&1 != 0 { // a hypervisor's leaves
		top, _, _, _ := CPUID(0x40000000, 0)
		if top >= 0x40000010 && top < 0x40010000 {
			if khz, _, _, _ := CPUID(0x40000010, 0); khz != 0 {
				return uint64(khz) * 1000, "the hypervisor's CPUID leaf"
			}
		}
		if hz := kvmClockTSC(top); hz != 0 {
			return hz, "kvmclock"
		}
	}
	if hz := leafTSC(CPUID); hz != 0 {
		return hz, "CPUID leaf 15h"
	}
	return 0, ""
}

// leafTSC is the rate that the processor names (SDM vol. 3, 19.7.3). Many leave out the
// crystal's part of it, and name a base frequency in leaf 16h. That is for display only
// (SDM vol. 2, CPUID): Skylake's says 3500 MHz where the TSC counts 3504, a minute and a
// half a day. What the crystal should have there cannot be relied on either, since servers
// detune it. A measurement over a second is better: see RefineTSC.
func leafTSC(cpuid func(leaf, sub uint32) (a, b, c, d uint32)) (hz uint64) {
	if top, _, _, _ := cpuid(0, 0); top < 0x15 {
		return 0
	}
	den, num, crystal, _ := cpuid(0x15, 0)
	if den == 0 || num == 0 {
		return 0
	}
	return uint64(crystal) * uint64(num) / uint64(den)
}

// KVM's clock (docs.kernel.org/virt/kvm/x86/msr.html, MSR_KVM_SYSTEM_TIME_NEW). TamaGo's
// kvm/clock makes the clock-pairing call instead, which tells the time of day, not the
// TSC's rate, and keeps its answer in read-only memory.
const (
	msrKVMSystemTime = 0x4b564d01
	kvmFeatureClock2 = 1 << 3
	kvmMul           = 24
	kvmShift         = 28
)

func kvmClockTSC(top uint32) uint64 {
	_, b, c, d := CPUID(0x40000000, 0)
	if b != 0x4b4d564b || c != 0x564b4d56 || d != 0x4d { // "KVMKVMKVM"
		return 0
	}
	if f, _, _, _ := CPUID(0x40000001, 0); f&kvmFeatureClock2 == 0 {
		return 0
	}
	p, ok := allocFrame()
	if !ok {
		return 0
	}
	WriteMSR(msrKVMSystemTime, p|1)
	mul, shift := uint64(ld32(direct(p)+kvmMul)), int8(ld8(direct(p)+kvmShift))
	WriteMSR(msrKVMSystemTime, 0)
	freeFrame(p)
	if mul == 0 {
		return 0
	}
	// ns = (tsc << shift) * mul >> 32
	hz := scale(1_000_000_000, 1<<32, mul)
	if shift < 0 {
		return hz << uint(-shift)
	}
	return hz >> uint(shift)
}

// clockNote says where the TSC's rate came from, for the log.
var clockNote struct {
	by, against        string
	declared, measured uint64
	disagree           bool
}

// initClock finds the TSC's rate and reads the wall clock.
func initClock() {
	r := findRefClock()
	measured, lapicHz := r.measure()
	refine.clock = r
	refine.ref, refine.tsc = r.pair()
	n := &clockNote
	n.declared, n.by = declaredTSC()
	n.against, n.measured = r.name, measured
	rate := measured
	if n.declared != 0 {
		if diff := max(n.declared, measured) - min(n.declared, measured); diff <= measured/100 {
			rate = n.declared
		} else {
			n.disagree = true
		}
	}
	if rate < 1_000_000 {
		fatal("the TSC does not count, or far too slowly")
	}
	setTSC(rate)
	tscBoot = TSC()
	if tscFirst < tscBoot && tscBoot-tscFirst < 60*rate { // else the stub's is no time of this boot
		tscBoot = tscFirst
	}
	timerTicks, _ = bits.Div64(lapicHz>>32, lapicHz<<32, max(rate, lapicHz>>32+1))
	wall := readRTC()
	wallAt0 = wall - Nanotime()
}

func median(v [3]uint64) uint64 {
	return max(min(v[0], v[1]), min(max(v[0], v[1]), v[2]))
}

// logClock says in the log how time is kept.
func logClock() {
	n := &clockNote
	logString("kernel: TSC ")
	logUint(tscHz / 1000)
	logString(" kHz by ")
	switch {
	case n.disagree:
		logString(n.against)
		logString(", against ")
		logUint(n.declared / 1000)
		logString(" kHz declared by ")
		logString(n.by)
	case n.declared != 0:
		logString(n.by)
		logString(", checked against ")
		logString(n.against)
	default:
		logString(n.against)
	}
	logString("\n")
}
