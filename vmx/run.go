package vmx

import (
	"fmt"
	"unsafe"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// bochsNS bounds one stay in the guest where the machine may be Bochs; doc.go says why.
const bochsNS = 2_000_000

// mayBeBochs goes by the firmware's maker. Bochs's and QEMU's say the same.
func mayBeBochs(oem string) bool { return oem == "BOCHS" || oem == "" }

// A guest that leaves by itself will probably do so again soon. Then the Go runtime
// need not be told that the thread is away: its next stay is brief, bounded by
// briefNS. One that was interrupted gets a whole slice, in which the runtime may give
// the P to others.
const briefNS = 200_000

// An outcome is how a stay inside privileged ended.
type outcome uint8

const (
	undecided outcome = iota
	left              // Run's Exit is filled in
	kicked            // before entering
	elsewhere         // the VMCS is active on another CPU: release, and again
	broken            // trouble says why
)

// trouble is what went wrong inside privileged, where no error can be made.
type trouble struct {
	what  troubleKind
	field field
	value uint64
	code  uint32 // VM-instruction error
}

type troubleKind uint8

const (
	noTrouble troubleKind = iota
	troubleRead
	troubleWrite
	troubleClear
	troubleLoad
	troubleFlush
	troubleEnter      // VMLAUNCH or VMRESUME failed
	troubleEntryState // the entry checks failed: value is the qualification
	troubleEntryMSR
	troubleMachineCheck // during entry
	troubleRIP          // value is not canonical
)

func (v *VCPU) blame(k troubleKind, f field, x uint64) {
	if v.trouble.what == noTrouble {
		v.trouble = trouble{what: k, field: f, value: x}
		if n, ok := v.m.vmread(fInstructionError); ok {
			v.trouble.code = uint32(n)
		}
	}
}

func (v *VCPU) read(f field) uint64 {
	x, ok := v.m.vmread(f)
	if !ok {
		v.blame(troubleRead, f, 0)
	}
	return x
}

func (v *VCPU) write(f field, x uint64) {
	if !v.m.vmwrite(f, x) {
		v.blame(troubleWrite, f, x)
	}
}

// check turns trouble into an outcome.
func (v *VCPU) check() {
	if v.trouble.what != noTrouble {
		v.outcome = broken
	}
}

// Run enters the guest.
func (v *VCPU) Run(e *vcpu.Exit) error {
	e.Reason = vcpu.ExitNone
	if v.dead != nil {
		return v.dead
	}
	if v.word.takeKick() {
		return v.report(e, vcpu.ExitKicked)
	}
	switch v.activity {
	case vcpu.Running:
	case vcpu.Halted:
		if !v.event.Valid {
			e.Len = 0 // RIP is behind HLT already
			v.activity = vcpu.Running
			return v.report(e, vcpu.ExitHLT)
		}
		v.activity = vcpu.Running
	case vcpu.Shutdown:
		return v.report(e, vcpu.ExitShutdown)
	case vcpu.WaitSIPI:
		return fmt.Errorf("vmx: VCPU %d waits for a start-up interrupt: Load the state that it gives", v.index)
	default:
		panic(fmt.Sprintf("vmx: VCPU %d in activity state %d", v.index, v.activity))
	}
	if v.touched {
		if err := v.checkWhole(); err != nil {
			return fmt.Errorf("vmx: VCPU %d: entry check: %w", v.index, err)
		}
		v.touched = false
	}
	v.exit = e
	for {
		if v.brief {
			v.m.privilegedBriefly(runHere, unsafe.Pointer(v))
		} else {
			v.m.privileged(runHere, unsafe.Pointer(v))
		}
		switch v.outcome {
		case left:
			v.brief = e.Reason != vcpu.ExitHost
			v.stats.Exits[e.Reason]++
			if e.Reason != vcpu.ExitHost {
				return nil
			}
			// The host has taken its interrupt when privileged returned.
			if v.word.takeKick() {
				return v.report(e, vcpu.ExitKicked)
			}
		case kicked:
			if v.word.takeKick() {
				return v.report(e, vcpu.ExitKicked)
			}
			return fmt.Errorf("vmx: VCPU %d: two Runs at the same time", v.index)
		case elsewhere:
			v.release()
		case broken:
			v.dead = v.failure()
			return v.dead
		default:
			panic(fmt.Sprintf("vmx: VCPU %d: outcome %d", v.index, v.outcome))
		}
	}
}

func (v *VCPU) report(e *vcpu.Exit, r vcpu.Reason) error {
	e.Reason = r
	v.stats.Exits[r]++
	return nil
}

func runHere(arg unsafe.Pointer) {
	v := (*VCPU)(arg)
	cpu := v.m.thisCPU()
	if v.outcome = v.claim(cpu); v.outcome != left {
		return
	}
	if !v.word.enter(cpu) {
		v.outcome = kicked
		return
	}
	v.attach(cpu)
	v.exit.Reason = vcpu.ExitNone
	for v.trouble.what == noTrouble && v.prepare(cpu) {
		v.stats.Entries++
		if !v.enter() || !v.handle() {
			break
		}
		v.stats.Exits[vcpu.ExitNone]++
	}
	v.detach(cpu)
	v.word.leave()
	v.check()
}

// claim makes the VMCS this CPU's current one. It gives left if that worked.
func (v *VCPU) claim(cpu int) outcome {
	c := &v.b.cpus[cpu]
	phys := v.vmcs.Phys
	switch {
	case v.home == cpu && c.current == phys:
		return left
	case v.home != cpu && v.home != nowhere:
		return elsewhere
	case v.home == nowhere:
		// VMCLEAR also prepares a region for its first use (SDM vol. 3, 24.11.3).
		if !v.ready && !v.m.vmclear(phys) {
			v.blame(troubleClear, 0, phys)
			return broken
		}
		v.frame.launched = 0
	}
	if !v.m.vmptrld(phys) {
		v.blame(troubleLoad, 0, phys)
		return broken
	}
	c.current = phys
	v.home = cpu
	if !v.ready {
		v.setUp()
		v.ready = true
	}
	return left
}

// attach puts into the CPU what the VMCS does not.
func (v *VCPU) attach(cpu int) {
	c := &v.b.cpus[cpu]
	if v.lastCPU != cpu {
		v.writeHost(cpu)
		// Since this VCPU last ran here, if it ever did, it may have changed its
		// page tables on another CPU; or the tag was another VCPU's.
		v.flushOwn()
		v.lastCPU = cpu
		c.guest = 0 // SWAPGS has changed the base on another CPU since
	}
	if c.guest != v.serial {
		v.m.wrmsr(msrCSTAR, v.reg[vcpu.CSTAR])
		v.m.wrmsr(msrKernelGSBase, v.reg[vcpu.KernelGSBase])
		if v.s.cfg.CPUID.RDTSCP {
			v.m.wrmsr(msrTSCAux, v.reg[vcpu.TSCAux])
		}
		c.guest = v.serial
	}
	v.separate(c)
	v.swapMSR(msrSTAR, v.reg[vcpu.STAR], c.star)
	v.swapMSR(msrLSTAR, v.reg[vcpu.LSTAR], c.lstar)
	v.swapMSR(msrSFMASK, v.reg[vcpu.SFMASK], c.sfmask)
	v.swapMSR(x86.MSRSpecCtrl, v.specCtrl, v.b.s.barriers.SpecCtrl)
	if v.drActive {
		v.loadDebug()
	}
	now := v.m.tsc()
	v.sliceEnd = now + v.b.slice
	if v.brief {
		v.sliceEnd = now + v.b.brief
	}
}

// separate parts this VCPU from the one before it on this CPU, and from what the host
// did since. Exits that are handled inside privileged touch no secrets of others, so
// once a stay is enough.
func (v *VCPU) separate(c *cpu) {
	b := &v.b.s.barriers
	if c.last != v.identity {
		c.last = v.identity
		if b.Prediction {
			v.m.wrmsr(x86.MSRPredCmd, x86.PredIBPB)
		}
	}
	if b.L1D {
		v.m.wrmsr(x86.MSRFlushCmd, x86.FlushL1D)
	}
}

// flushOwn drops what this CPU has cached of the guest's own translations. Without
// a tag every entry does.
func (v *VCPU) flushOwn() {
	if v.vpid != 0 && !v.b.flushTag(v.vpid, false) {
		v.blame(troubleFlush, fVPID, uint64(v.vpid))
	}
}

func (v *VCPU) swapMSR(msr uint32, want, have uint64) {
	if want != have {
		v.m.wrmsr(msr, want)
	}
}

// detach undoes attach.
func (v *VCPU) detach(cpu int) {
	c := &v.b.cpus[cpu]
	v.reg[vcpu.KernelGSBase] = v.m.rdmsr(msrKernelGSBase) // SWAPGS changes it
	v.swapMSR(msrSTAR, c.star, v.reg[vcpu.STAR])
	v.swapMSR(msrLSTAR, c.lstar, v.reg[vcpu.LSTAR])
	v.swapMSR(msrSFMASK, c.sfmask, v.reg[vcpu.SFMASK])
	v.swapMSR(x86.MSRSpecCtrl, v.b.s.barriers.SpecCtrl, v.specCtrl)
	if v.s.ownSpec {
		v.reg[vcpu.SpecCtrl] = v.frame.spec & v.s.cfg.CPUID.Controls.SpecCtrl
	}
	if v.drLoaded {
		v.m.getDR(&v.dr)
		v.drLoaded = false
		v.drActive = v.read(fGuestDR7)&dr7Enables != 0
		v.setPrimary(v.primary | procMOVDR)
	}
	if v.s.log != nil {
		v.drainLog()
	}
	if !v.b.s.has(pinControls, pinPreemptionTimer) {
		v.m.setTimer(0)
	}
	switch v.exit.Reason {
	case vcpu.ExitHLT, vcpu.ExitHost, vcpu.ExitDeadline, vcpu.ExitKicked:
		// The goroutine will probably sleep, and may wake on another CPU. It is
		// cheaper to clear the VMCS here now than from there then.
		v.letGo(cpu)
	}
}

// letGo makes the VMCS inactive on this CPU.
func (v *VCPU) letGo(cpu int) {
	if !v.m.vmclear(v.vmcs.Phys) {
		v.blame(troubleClear, 0, v.vmcs.Phys)
	}
	if c := &v.b.cpus[cpu]; c.current == v.vmcs.Phys {
		c.current = 0
	}
	v.home = nowhere
}

// release makes the VMCS inactive wherever it is. It runs between Runs.
func (v *VCPU) release() {
	home := v.home
	if home == nowhere {
		return
	}
	v.m.onEachCPU(func(cpu int) {
		if cpu == home {
			v.m.privileged(releaseHere, unsafe.Pointer(v))
		}
	})
	if v.home != nowhere {
		panic(fmt.Sprintf("vmx: VCPU %d: its VMCS is active on CPU %d, which is not there", v.index, v.home))
	}
}

func releaseHere(arg unsafe.Pointer) {
	v := (*VCPU)(arg)
	if cpu := v.m.thisCPU(); cpu == v.home {
		v.letGo(cpu)
	}
}

// prepare brings the VMCS up to date and tells whether to enter; if not, the exit
// is filled in.
func (v *VCPU) prepare(cpu int) bool {
	e := v.exit
	now := v.m.tsc()
	switch {
	case v.deadline != 0 && now >= v.deadline:
		e.Reason = vcpu.ExitDeadline
		return false
	case v.windowOpen():
		e.Reason = vcpu.ExitInterruptWindow
		return false
	}

	// The state word says "in" already: whoever makes the generation grow after
	// it is read here will see that, and send an interrupt.
	g := v.s.cfg.Tables.Generation()
	if v.s.flushed[cpu] != g {
		if !v.b.flushEPT(v.s.eptp, false) {
			v.blame(troubleFlush, fEPTPointer, v.s.eptp)
		}
		v.s.flushed[cpu] = g
	}
	if v.generation.Load() != g {
		if v.s.log != nil {
			v.drainLog()
		}
		v.generation.Store(g)
	}

	v.flush()
	v.writeEvent()
	v.writeWindows()

	end := v.sliceEnd
	if v.deadline != 0 && v.deadline < end {
		end = v.deadline
	}
	if v.b.s.has(pinControls, pinPreemptionTimer) {
		// It counts transitions of a TSC bit, the first of which may be near.
		ticks := uint64(0)
		if end > now {
			ticks = (end-now)>>v.b.s.timerShift() + 1
		}
		v.write(fPreemptionTimer, min(ticks, 0xffffffff))
	} else {
		v.m.setTimer(end)
	}
	v.check()
	return v.trouble.what == noTrouble
}

// enter runs the guest up to its next exit.
func (v *VCPU) enter() bool {
	switch v.m.enter(&v.frame) {
	case entered:
	case failInvalid, failValid:
		v.blame(troubleEnter, 0, 0)
		return false
	default:
		v.blame(troubleEnter, 0, ^uint64(0))
		return false
	}
	v.frame.launched = 1
	return true
}

// drainLog hands the page-modification log over (SDM vol. 3, 28.3.6). The
// processor fills it from the end and counts down; an index outside it says full.
func (v *VCPU) drainLog() {
	const entries = 512
	i := v.read(fPMLIndex) & 0xffff
	if i == entries-1 {
		return
	}
	first := i + 1
	if i >= entries {
		first = 0
	}
	v.s.log.Log(logEntries(v.pml.Data)[first:])
	v.write(fPMLIndex, entries-1)
}
