package kernel

import (
	"sync/atomic"
	"unsafe"

	"godwit/kernel/internal/timerq"

	"github.com/usbarmory/tamago/amd64/lapic"
)

// newCPU makes CPU i's slot, timer queue and idle thread.
func newCPU(i uint64, apicID uint32) *cpu {
	slot := cpuSlot(i)
	for _, r := range [...][2]uintptr{
		{0, cpuStructEnd},
		{trapStackLow, trapStackTop},
		{nmiStackLow, nmiStackTop},
		{faultStackLow, faultStackTop},
		{mceStackLow, mceStackTop},
	} {
		if !mapNew(slot+r[0], r[1]-r[0], kernelData) {
			return nil
		}
	}
	const entries = maxThreads * unsafe.Sizeof(timerq.Entry{})
	const size = entries + maxThreads*4
	p, ok := ram.Alloc(uint64(pageUp(size)), pageSize)
	if !ok {
		return nil
	}
	kernelPages.Add(uint64(pageUp(size)) / pageSize)
	clear(bytesAt(direct(p), size))
	c := cpuAt(i)
	c.self, c.index, c.apicID = slot, i, apicID
	c.tq.Init(unsafe.Slice((*timerq.Entry)(ptr(direct(p))), maxThreads), unsafe.Slice((*int32)(ptr(direct(p)+entries)), maxThreads))
	t := newThread()
	if t == nil {
		return nil
	}
	t.state = threadIdle
	t.fs = handlerFS()
	// Interrupts use the upper half of the stack, the idle loop the lower one.
	t.startAt(addrIdleEntry(), t.ktop-(threadTop-threadStack)/2)
	c.idle = t.addr()
	return c
}

const _ = uint(cpuStructEnd - unsafe.Sizeof(cpu{}))

// setUp brings this CPU into the state all CPUs are in. GS points at c.
func (c *cpu) setUp() {
	writeCR0(readCR0()&^(cr0EM|cr0TS|cr0NW|cr0CD) | cr0MP | cr0NE | cr0WP)
	cr4 := readCR4() | cr4DE | cr4PGE | cr4MCE | cr4OSFXSR | cr4OSXMMEXCPT
	if haveXSAVE {
		cr4 |= cr4OSXSAVE
	}
	if haveFSGSBASE {
		cr4 |= cr4FSGSBASE
	}
	writeCR4(cr4)
	if haveXSAVE {
		xsetbv0(xcr0)
	}
	c.loadDescriptors()
	// Loading segments cleared the bases.
	WriteMSR(msrGSBase, uint64(c.self))
	WriteMSR(msrFSBase, uint64(handlerFS()))
	WriteMSR(msrEFER, ReadMSR(msrEFER)|eferSCE)
	WriteMSR(msrSTAR, selCode<<32) // SS is CS+8
	WriteMSR(msrLSTAR, uint64(addrSyscallEntry()))
	WriteMSR(msrSFMASK, flagTF|flagIF|flagDF|flagNT|flagAC)
	enableMachineChecks()
	c.setCurrent((*thread)(ptr(c.idle)))
}

// trampoline is an AP's way from 16-bit mode to apEntry, copied to a page below
// 1 MiB, where a start-up IPI can point (SDM vol. 3, 9.4.4). It goes straight
// from real to long mode (APM vol. 2, 14.6.1 shows the steps; PE and PG may be set
// at once). Data begins at trampData.
var trampoline = [...]byte{
	0xfa,       // cli
	0x8c, 0xc8, // mov ax, cs
	0x8e, 0xd8, // mov ds, ax
	0x66, 0x0f, 0x01, 0x16, 0x80, 0x00, // lgdt [gdtr]
	0x66, 0xa1, 0xc4, 0x00, // mov eax, [cr4]
	0x0f, 0x22, 0xe0, // mov cr4, eax
	0x66, 0xa1, 0xc0, 0x00, // mov eax, [cr3]
	0x0f, 0x22, 0xd8, // mov cr3, eax
	0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, // mov ecx, EFER
	0x66, 0xa1, 0xcc, 0x00, // mov eax, [efer]
	0x66, 0x31, 0xd2, // xor edx, edx
	0x0f, 0x30, // wrmsr
	0x66, 0xa1, 0xc8, 0x00, // mov eax, [cr0]
	0x0f, 0x22, 0xc0, // mov cr0, eax
	0x66, 0xea, 0, 0, 0, 0, selCode, 0, // ljmp code:long
	// long:
	0x66, 0xb8, selData, 0x00, // mov ax, data
	0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // mov ds, es, ss, ax
	0x31, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, // mov fs, gs, 0
	0x48, 0x8b, 0x24, 0x25, 0, 0, 0, 0, // mov rsp, [stack]
	0x48, 0x8b, 0x3c, 0x25, 0, 0, 0, 0, // mov rdi, [cpu]
	0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov rax, [entry]
	0xff, 0xe0, // jmp rax
}

// Offsets in the trampoline's page: of the operands to patch, then of its data.
const (
	trampJump  = 49
	trampLong  = 55
	trampStack = 75
	trampCPU   = 83
	trampEntry = 91

	trampGDTR     = 0x80
	trampGDT      = 0x90
	trampCR3      = 0xc0
	trampCR4      = 0xc4
	trampCR0      = 0xc8
	trampEFER     = 0xcc
	trampEntryVal = 0xd0
	trampCPUVal   = 0xd8
	trampStackVal = 0xe0
)

const _ = uint(trampGDTR - len(trampoline))

// lowPage finds RAM for the trampoline: a page between the BIOS data area and the
// EBDA.
func lowPage() uint64 {
	for p := uint64(0x8000); p < 0x9f000; p += pageSize {
		for i := range boot.Mem[:boot.NMem] {
			if r := &boot.Mem[i]; r.Type == 1 && r.Start <= p && p+pageSize <= r.End && !usedByModule(p) {
				return p
			}
		}
	}
	return 0
}

func usedByModule(p uint64) bool {
	for i := range boot.Mod[:boot.NMod] {
		if boot.Mod[i].Start < p+pageSize && p < boot.Mod[i].End {
			return true
		}
	}
	return false
}

// startAPs starts every other CPU the MADT names.
func startAPs() {
	page := lowPage()
	if page == 0 {
		print1("kernel: no RAM below 640 KiB to start other CPUs from\n")
		return
	}
	t := direct(page)
	saved := *(*[pageSize]byte)(ptr(t))
	b := bytesAt(t, pageSize)
	copy(b, trampoline[:])
	st32(t+trampJump, uint32(page)+trampLong)
	st32(t+trampStack, uint32(page)+trampStackVal)
	st32(t+trampCPU, uint32(page)+trampCPUVal)
	st32(t+trampEntry, uint32(page)+trampEntryVal)
	st32(t+trampGDTR, 0)
	b[trampGDTR] = 3*8 - 1
	b[trampGDTR+1] = 0
	for i := range 4 {
		b[trampGDTR+2+i] = byte(uint32(page+trampGDT) >> (8 * i))
	}
	st64(t+trampGDT, 0)
	st64(t+trampGDT+8, descCode64)
	st64(t+trampGDT+16, descData)
	st32(t+trampCR3, uint32(rootPhys()))
	st32(t+trampCR4, uint32(cr4PAE|cr4PGE|cr4OSFXSR|cr4OSXMMEXCPT))
	st32(t+trampCR0, uint32(uint64(cr0PG)|cr0WP|cr0NE|cr0ET|cr0MP|cr0PE))
	st32(t+trampEFER, eferLME|eferNXE|eferSCE)
	st64(t+trampEntryVal, uint64(addrAPEntry()))
	if !mapRange(uintptr(page), page, pageSize, 0, pageSize) {
		print1("kernel: no memory to start other CPUs\n")
		return
	}
	var c *cpu
	for _, id := range madt.CPU[:madt.NCPU] {
		if id == this().apicID || ncpu == maxCPU || id >= apicBroadcast && !x2apic {
			continue
		}
		if c == nil { // else one that did not start has left its own
			if c = newCPU(ncpu, id); c == nil {
				print1("kernel: no memory for another CPU\n")
				break
			}
		}
		c.apicID = id
		st64(t+trampCPUVal, uint64(c.self))
		st64(t+trampStackVal, uint64((*thread)(ptr(c.idle)).ksp))
		if startAP(c, page) {
			ncpu++
			c = nil
		} else {
			print1("kernel: CPU with APIC ID ")
			printUint(uint64(id))
			print1(" does not start\n")
		}
	}
	unmapPage(uintptr(page))
	copy(b, saved[:])
}

// startAP sends INIT and two start-up IPIs (SDM vol. 3, 9.4.4.1) and waits for the
// CPU.
func startAP(c *cpu, page uint64) bool {
	sendICR(c.apicID, icrAssert|lapic.ICR_DLV_INIT)
	delay(200) // the manual's 10 ms are for external APICs
	for range 2 {
		sendICR(c.apicID, icrAssert|lapic.ICR_DLV_SIPI|uint32(page>>12))
		for range 1000 {
			if atomic.LoadUint32(&c.online) != 0 {
				return true
			}
			tscCheck.take()
			delay(10)
		}
	}
	for range 5000 { // an emulated one may have to wait for its turn
		if atomic.LoadUint32(&c.online) != 0 {
			return true
		}
		tscCheck.take()
		delay(1000)
	}
	// It must not be stopped once it schedules, with locks in its hands.
	if !atomic.CompareAndSwapUint32(&c.online, 0, cpuGivenUp) {
		return true
	}
	// Were it to come after all, it would find other code where it starts.
	sendICR(c.apicID, icrAssert|lapic.ICR_DLV_INIT)
	delay(200)
	atomic.StoreUint32(&c.online, 0)
	return false
}

// cpuGivenUp is the value of a CPU's online that keeps it from beginning to schedule.
const cpuGivenUp = 2

// startAP's other side, on the new CPU's idle stack.
func startAPCPU() {
	c := this()
	c.setUp()
	initLAPIC()
	flushTLB(c)
	for range tscRounds {
		tscCheck.take()
	}
	if !atomic.CompareAndSwapUint32(&c.online, 0, 1) {
		haltForever() // startAP's INIT is on its way
	}
	idleLoop()
}
