package vmx

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// A VCPU is one processor of a guest.
//
// Its state is in four places. The general registers and CR2 are in frame, where
// the world switch reads and writes them. What VT-x does not switch (debug
// registers, XCR0, some MSRs) is in fields of this struct. The rest is in the
// VMCS, which can only be reached inside privileged on the CPU where it is
// active; groups of its fields are fetched when somebody asks for one, and
// written back before the next entry if they were changed.
//
// Code that runs inside privileged stores no pointers here.
type VCPU struct {
	b      *backend
	m      machine
	s      *space
	index  int
	serial uint64 // never used again for another VCPU, nor for other MSRs of this one

	identity uint64 // never another VCPU's

	word       word
	generation atomic.Uint64 // of the tables, as of the last entry

	frame frame
	brief bool // the next entry is one for privilegedBriefly
	stats vcpu.Stats
	exit  *vcpu.Exit // Run's argument
	dead  error      // why no Run is possible any more

	vmcs, apic, xarea, pml mem.Block
	vpid                   uint16

	home    int // the CPU on which the VMCS is active, or nowhere
	lastCPU int // the CPU for which host state was written and the tag flushed
	ready   bool
	outcome outcome
	trouble trouble

	// The cache of the VMCS.
	have             group // groups whose cached values are the guest's
	wanted           group // need's argument
	changed          group // groups to be written back
	touched          bool  // changed by Set or SetSegment: check the whole before entry
	reg              [vcpu.NumRegs]uint64
	seg              [vcpu.NumSegs]vcpu.Segment
	pdpte            [4]uint64
	loaded           struct{ rip, rsp, rflags uint64 } // as the VMCS has them
	blocked          uint64                            // guest interruptibility state
	blockedChanged   bool
	cr0Host, cr4Host uint64 // the guest's view of the bits that are not its own

	// Controls as the VMCS has them.
	primary      uint32
	secondary    uint32
	entryCtl     uint32
	threshold    uint32
	specCtrl     uint64 // what the CPU's SPEC_CTRL holds from attach to detach
	tscOffset    uint64
	tscRatio     vcpu.TSCRatio
	offsetStale  bool // or the ratio
	shadowsStale bool

	event        vcpu.Event
	pendingDebug uint64 // pending debug exceptions, as far as fetched
	pendingStale bool
	wantClass    uint8
	wantNMI      bool
	deadline     uint64
	sliceEnd     uint64
	activity     vcpu.Activity

	dr       debugRegs
	drLoaded bool // the CPU holds the guest's
	drActive bool // DR7 enables a breakpoint
}

const nowhere = -1

// A group of VMCS fields that are fetched and written together.
type group uint8

const (
	gControl  group = 1 << iota // CR0 CR3 CR4 EFER
	gSegments                   // segment registers, GDTR, IDTR
	gSystem                     // SYSENTER, DR7, PAT, DEBUGCTL
	gPDPTE
	gAll = gControl | gSegments | gSystem | gPDPTE
)

var groupOf = [vcpu.NumRegs]group{
	vcpu.CR0: gControl, vcpu.CR3: gControl, vcpu.CR4: gControl, vcpu.EFER: gControl,
	vcpu.DR7: gSystem, vcpu.PAT: gSystem, vcpu.DebugCtl: gSystem,
	vcpu.SysenterCS: gSystem, vcpu.SysenterESP: gSystem, vcpu.SysenterEIP: gSystem,
	vcpu.GDTBase: gSegments, vcpu.GDTLimit: gSegments, vcpu.IDTBase: gSegments, vcpu.IDTLimit: gSegments,
}

// Interruptibility (SDM vol. 3, table 24-3).
const (
	blockSTI   = 1 << 0
	blockMovSS = 1 << 1
	blockNMI   = 1 << 3
)

var serials atomic.Uint64

func (s *space) NewVCPU(index int) (vcpu.VCPU, error) {
	if index < 0 {
		return nil, fmt.Errorf("vmx: VM %q: no VCPU can have index %d", s.cfg.Name, index)
	}
	v := &VCPU{b: s.b, m: s.b.m, s: s, index: index, serial: serials.Add(1), home: nowhere, lastCPU: nowhere}
	if err := v.alloc(); err != nil {
		v.free()
		return nil, fmt.Errorf("vmx: VM %q: VCPU %d: %w", s.cfg.Name, index, err)
	}
	v.identity = v.serial
	var st vcpu.State
	st.Reset(true)
	if err := v.Load(&st); err != nil {
		v.free()
		return nil, fmt.Errorf("vmx: VM %q: VCPU %d: reset state: %w", s.cfg.Name, index, err)
	}
	if err := s.add(v); err != nil {
		v.free()
		return nil, err
	}
	return v, nil
}

func (v *VCPU) alloc() (err error) {
	for _, a := range []struct {
		b    *mem.Block
		size uint64
		what string
	}{
		{&v.vmcs, 4096, "VMCS"},
		{&v.apic, 4096, "virtual-APIC page"},
		{&v.xarea, uint64(v.s.layout.size+4095) &^ 4095, "XSAVE area"},
		{&v.pml, 4096, "page-modification log"},
	} {
		if a.b == &v.pml && v.s.log == nil {
			continue
		}
		if *a.b, err = v.m.Alloc(a.size, 4096); err != nil {
			return fmt.Errorf("no memory for its %s: %w", a.what, err)
		}
	}
	putRevision(v.vmcs, v.b.s.revision)
	v.frame.xarea = uintptr(unsafe.Pointer(&v.xarea.Data[0]))
	v.frame.xmask = v.s.layout.mask
	if v.s.ownSpec {
		v.frame.keep = 1
	}
	if v.b.s.has(secondaryControls, secVPID) {
		v.vpid, err = v.b.tags.take()
	}
	return err
}

func (v *VCPU) free() {
	for _, b := range []*mem.Block{&v.vmcs, &v.apic, &v.xarea, &v.pml} {
		if b.Data != nil {
			v.m.Free(*b)
			*b = mem.Block{}
		}
	}
	if v.vpid != 0 {
		v.b.tags.give(v.vpid)
		v.vpid = 0
	}
}

// Close gives everything back. The VMCS must not be active anywhere then: a CPU
// may write an active one's cached parts to memory at any time.
func (v *VCPU) Close() error {
	if v.dead == errClosed {
		return errClosed
	}
	v.word.close()
	v.release()
	v.dead = errClosed
	v.s.remove(v)
	v.free()
	return nil
}

var errClosed = errors.New("vmx: the VCPU is closed")

func (v *VCPU) Kick() {
	if cpu, send := v.word.kick(); send {
		v.m.kick(cpu)
	}
}

func (v *VCPU) Regs() *vcpu.Regs     { return &v.frame.regs }
func (v *VCPU) Stats() *vcpu.Stats   { return &v.stats }
func (v *VCPU) TSCOffset() uint64    { return v.tscOffset }
func (v *VCPU) SetDeadline(t uint64) { v.deadline = t }

// SetTSCRatio sets the rate of the guest's TSC.
func (v *VCPU) SetTSCRatio(r vcpu.TSCRatio) error {
	if !v.b.s.tscScaling().Has(r) {
		return fmt.Errorf("vmx: VCPU %d: this processor can not scale a TSC by %#x/2^48", v.index, uint64(r))
	}
	v.tscRatio, v.offsetStale = r, true
	return nil
}

func (v *VCPU) SetTSCOffset(off uint64) {
	v.tscOffset, v.offsetStale = off, true
}

// Skip ends an instruction that was carried out for the guest.
func (v *VCPU) Skip(n uint8) {
	v.frame.regs.RIP += uint64(n) // what does not fit is cut off before entry
	v.frame.regs.RFLAGS &^= flagRF
	v.unblock(blockSTI | blockMovSS)
}

func (v *VCPU) unblock(bits uint64) {
	if v.blocked&bits != 0 {
		v.blocked &^= bits
		v.blockedChanged = true
	}
}

// need makes sure that groups of the cache are filled. It runs between Runs.
func (v *VCPU) need(g group) {
	if v.have&g == g || v.dead != nil {
		return
	}
	for {
		v.wanted = g
		v.m.privilegedBriefly(fetchHere, unsafe.Pointer(v))
		if v.outcome != elsewhere {
			break
		}
		v.release()
	}
	if v.outcome != left {
		v.dead = v.failure()
	}
}

func fetchHere(arg unsafe.Pointer) {
	v := (*VCPU)(arg)
	if v.outcome = v.claim(v.m.thisCPU()); v.outcome == left {
		v.fetch(v.wanted)
		v.check()
	}
}

// Get returns a register.
func (v *VCPU) Get(r vcpu.Reg) uint64 {
	switch r {
	case vcpu.CR2:
		return v.frame.cr2
	case vcpu.DR0:
		return v.dr.dr0
	case vcpu.DR1:
		return v.dr.dr1
	case vcpu.DR2:
		return v.dr.dr2
	case vcpu.DR3:
		return v.dr.dr3
	case vcpu.DR6:
		return v.dr.dr6
	}
	v.need(groupOf[r])
	return v.reg[r]
}

// Segment returns a segment register.
func (v *VCPU) Segment(s vcpu.SegReg) vcpu.Segment {
	v.need(gSegments)
	return v.seg[s]
}

// SetSegment changes one. What depends on other registers is checked by Run.
func (v *VCPU) SetSegment(s vcpu.SegReg, g vcpu.Segment) error {
	if s >= vcpu.NumSegs {
		return fmt.Errorf("vmx: there is no segment register %d", s)
	}
	g = normalSegment(s, g)
	if err := checkHidden(s, &g); err != nil {
		return fmt.Errorf("vmx: %w", err)
	}
	v.need(gSegments)
	v.seg[s] = g
	v.changed |= gSegments
	v.touched = true
	return nil
}

// Set changes a register as an instruction of the guest would.
func (v *VCPU) Set(r vcpu.Reg, x uint64) error {
	if r >= vcpu.NumRegs {
		return fmt.Errorf("vmx: there is no register %d", r)
	}
	g := groupOf[r]
	v.need(g | gControl)
	if r == vcpu.CR0 {
		v.need(gSegments) // whether the code is 64-bit matters
	}
	if err := v.set(r, x); err != nil {
		return fmt.Errorf("vmx: %w", err)
	}
	v.changed |= g
	v.touched = v.touched || g != 0
	if g == gControl {
		v.lastCPU = nowhere // what the instruction would have flushed, the next entry flushes
	}
	return nil
}

func (v *VCPU) set(r vcpu.Reg, x uint64) error {
	p := &v.s.cfg.CPUID
	if f := checkPlain(r, x, p); f != fine {
		return f.err(r, x)
	}
	cr0, cr4, efer := v.reg[vcpu.CR0], v.reg[vcpu.CR4], v.reg[vcpu.EFER]
	switch r {
	case vcpu.CR0:
		x |= cr0ET
		code64 := efer&eferLMA != 0 && v.seg[vcpu.CS].Attr&vcpu.AttrL != 0
		if f := checkCR0Write(x, cr0, cr4, efer, code64); f != fine {
			return f.err(r, x)
		}
		if x&cr0PG == 0 {
			v.reg[vcpu.EFER] &^= eferLMA
		} else if efer&eferLME != 0 {
			v.reg[vcpu.EFER] |= eferLMA
		} else if (x^cr0)&cr0PG != 0 && cr4&cr4PAE != 0 {
			return fmt.Errorf("CR0 = %#x: PAE paging begins, and the PDPTEs with it; use Load", x)
		}
	case vcpu.CR2:
		v.frame.cr2 = x
	case vcpu.CR3:
		if x>>p.PhysBits != 0 {
			return fmt.Errorf("CR3 = %#x: it does not fit %d physical-address bits", x, p.PhysBits)
		}
		if paePaging(cr0, cr4, efer) {
			return fmt.Errorf("CR3 = %#x: with PAE paging the PDPTEs change too; use Load", x)
		}
	case vcpu.CR4:
		if f := checkCR4Write(x, cr4, v.reg[vcpu.CR3], efer, p); f != fine {
			return f.err(r, x)
		}
		if paePaging(cr0, x, efer) && !paePaging(cr0, cr4, efer) {
			return fmt.Errorf("CR4 = %#x: PAE paging begins, and the PDPTEs with it; use Load", x)
		}
	case vcpu.EFER:
		n, f := checkEFERWrite(x, efer, cr0, p)
		if f != fine {
			return f.err(r, x)
		}
		v.setEFER(n)
		return nil
	case vcpu.XCR0:
		v.setXCR0(x)
	case vcpu.DR0:
		v.dr.dr0 = x
	case vcpu.DR1:
		v.dr.dr1 = x
	case vcpu.DR2:
		v.dr.dr2 = x
	case vcpu.DR3:
		v.dr.dr3 = x
	case vcpu.DR6:
		v.dr.dr6 = x&dr6Writable | dr6Ones
	case vcpu.DR7:
		x = x&dr7Writable | dr7Ones
		v.drActive = x&dr7Enables != 0
	case vcpu.SpecCtrl:
		v.setSpecCtrl(x)
	case vcpu.STAR, vcpu.LSTAR, vcpu.CSTAR, vcpu.SFMASK, vcpu.KernelGSBase, vcpu.TSCAux:
		v.reloadMSRs()
	}
	v.reg[r] = x
	return nil
}

// setEFER is what Set and the guest's WRMSR share.
func (v *VCPU) setEFER(x uint64) {
	v.reg[vcpu.EFER] = x
	v.changed |= gControl
}

// setXCR0: without XSAVE in the model the guest can not see XCR0, and nothing
// needs switching.
func (v *VCPU) setXCR0(x uint64) {
	v.reg[vcpu.XCR0] = x
	v.frame.xguest = x
	if v.s.cfg.CPUID.XCR0 == 0 {
		v.frame.xguest = v.frame.xmask
	}
}

// reloadMSRs makes the next attach write those the host does not use, too.
func (v *VCPU) reloadMSRs() { v.serial = serials.Add(1) }
