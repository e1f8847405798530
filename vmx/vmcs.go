package vmx

import (
	"godwit/vmm/vcpu"
)

// setUp writes what never changes. The VMCS is current.
func (v *VCPU) setUp() {
	s, sp := v.b.s, v.s
	secondary := s.controls[secondaryControls]
	for _, opt := range []struct {
		bit uint32
		on  bool
	}{
		{secRDTSCP, sp.cfg.CPUID.RDTSCP},
		{secINVPCID, sp.cfg.CPUID.INVPCID},
		{secXSAVES, sp.cfg.CPUID.XSAVES},
		{secPML, sp.log != nil},
		{secTSCScaling, v.tscRatio != vcpu.Unscaled},
	} {
		if !opt.on {
			secondary &^= opt.bit
		}
	}
	v.primary = s.controls[primaryControls] | procMOVDR
	v.entryCtl = s.controls[entryControls]
	v.secondary = secondary

	v.write(fPinControls, uint64(s.controls[pinControls]))
	v.write(fPrimaryControls, uint64(v.primary))
	v.write(fSecondaryControls, uint64(secondary))
	v.write(fExitControls, uint64(s.controls[exitControls]))
	v.write(fEntryControls, uint64(v.entryCtl))

	v.write(fExceptionBitmap, exceptions)
	v.write(fPFErrorMask, 0)
	v.write(fPFErrorMatch, 0)
	v.write(fCR3TargetCount, 0)
	v.write(fExitMSRStoreCount, 0)
	v.write(fExitMSRLoadCount, 0)
	v.write(fEntryMSRLoadCount, 0)
	v.write(fEntryEvent, 0)
	v.write(fTPRThreshold, 0)
	v.threshold = 0

	v.write(fIOBitmapA, sp.ioA.Phys)
	v.write(fIOBitmapB, sp.ioB.Phys)
	v.write(fMSRBitmap, sp.msr.Phys)
	v.write(fVirtualAPICPage, v.apic.Phys)
	v.write(fEPTPointer, sp.eptp)
	v.write(fLinkPointer, ^uint64(0))
	if v.vpid != 0 {
		v.write(fVPID, uint64(v.vpid))
	}
	if secondary&secPAUSELoop != 0 {
		v.write(fPLEGap, pauseGap)
		v.write(fPLEWindow, pauseWindow)
	}
	if secondary&secPML != 0 {
		v.write(fPMLAddress, v.pml.Phys)
		v.write(fPMLIndex, 511)
	}
	if secondary&secXSAVES != 0 {
		v.write(fXSSExitBitmap, 0)
	}
	v.write(fCR0Mask, cr0Shadowed)
	v.write(fCR4Mask, ^cr4Own(&sp.cfg.CPUID))
	v.write(fGuestActivity, 0) // other states are kept in software

	v.write(fHostRIP, v.m.exitAddress())
	v.frame.hostRSP = 0
	v.write(fHostSysenterCS, 0)
	v.write(fHostSysenterESP, 0)
	v.write(fHostSysenterEIP, 0)
	v.lastCPU = nowhere
	v.offsetStale, v.shadowsStale, v.blockedChanged = true, true, true
	v.loaded.rip, v.loaded.rsp, v.loaded.rflags = ^v.frame.regs.RIP, ^v.frame.regs.GPR[vcpu.RSP], ^v.frame.regs.RFLAGS
}

// A spin loop is PAUSEs that are at most pauseGap TSC ticks apart, for pauseWindow
// ticks (SDM vol. 3, 25.1.3).
const (
	pauseGap    = 128
	pauseWindow = 4096
)

// exceptions exit: machine checks are the host's business; #DB and #AC can be made
// to occur endlessly while they are delivered, without a boundary at which an
// interrupt could end the guest's run (CVE-2015-8104, CVE-2015-5307).
const exceptions = 1<<vcpu.VecDB | 1<<vcpu.VecAC | 1<<vcpu.VecMC

func (v *VCPU) writeHost(cpu int) {
	h := v.m.hostState(cpu)
	v.write(fHostCR0, h.CR0)
	v.write(fHostCR3, h.CR3)
	v.write(fHostCR4, h.CR4)
	v.write(fHostEFER, h.EFER)
	v.write(fHostPAT, h.PAT)
	v.write(fHostES, uint64(h.ES))
	v.write(fHostCS, uint64(h.CS))
	v.write(fHostSS, uint64(h.SS))
	v.write(fHostDS, uint64(h.DS))
	v.write(fHostFS, uint64(h.FS))
	v.write(fHostGS, uint64(h.GS))
	v.write(fHostTR, uint64(h.TR))
	v.write(fHostFSBase, h.FSBase)
	v.write(fHostGSBase, h.GSBase)
	v.write(fHostTRBase, h.TRBase)
	v.write(fHostGDTRBase, h.GDTBase)
	v.write(fHostIDTRBase, h.IDTBase)
	v.frame.xhost = v.m.hostXCR0()
	v.frame.fence = uint64(v.b.s.barriers.Exit)
	if v.b.s.barriers.Buffers {
		v.frame.verw = 1
	}
}

// fetch fills groups of the cache from the current VMCS.
func (v *VCPU) fetch(g group) {
	g &^= v.have
	v.have |= g
	if g&gControl != 0 {
		v.reg[vcpu.CR0] = v.read(fGuestCR0)&cr0Own | v.cr0Host | cr0ET
		v.reg[vcpu.CR3] = v.read(fGuestCR3)
		v.reg[vcpu.CR4] = v.read(fGuestCR4)&cr4Own(&v.s.cfg.CPUID) | v.cr4Host
		v.reg[vcpu.EFER] = v.read(fGuestEFER)
	}
	if g&gSegments != 0 {
		for i := range v.seg {
			d := field(2 * i)
			v.seg[i] = vcpu.Segment{
				Selector: uint16(v.read(fGuestES + d)),
				Attr:     uint32(v.read(fGuestESAttr + d)),
				Limit:    uint32(v.read(fGuestESLimit + d)),
				Base:     v.read(fGuestESBase + d),
			}
		}
		v.reg[vcpu.GDTBase] = v.read(fGuestGDTRBase)
		v.reg[vcpu.GDTLimit] = v.read(fGuestGDTRLimit)
		v.reg[vcpu.IDTBase] = v.read(fGuestIDTRBase)
		v.reg[vcpu.IDTLimit] = v.read(fGuestIDTRLimit)
	}
	if g&gSystem != 0 {
		v.reg[vcpu.SysenterCS] = v.read(fGuestSysenterCS)
		v.reg[vcpu.SysenterESP] = v.read(fGuestSysenterESP)
		v.reg[vcpu.SysenterEIP] = v.read(fGuestSysenterEIP)
		v.reg[vcpu.DR7] = v.read(fGuestDR7)
		v.reg[vcpu.PAT] = v.read(fGuestPAT)
		v.reg[vcpu.DebugCtl] = v.read(fGuestDebugCtl)
		v.pendingDebug = v.read(fGuestPendingDebug)
	}
	if g&gPDPTE != 0 {
		for i := range v.pdpte {
			v.pdpte[i] = v.read(fGuestPDPTE0 + field(2*i))
		}
	}
}

// The order of the segment registers in vcpu is the VMCS's.
const (
	_ = uint(vcpu.ES)
	_ = -(uint(fGuestCS-fGuestES)/2 - uint(vcpu.CS))
	_ = -(uint(fGuestTR-fGuestES)/2 - uint(vcpu.TR))
)

// flush writes changed groups to the current VMCS.
func (v *VCPU) flush() {
	r := &v.frame.regs
	g := v.changed
	v.changed = 0
	if g&gControl != 0 {
		cr0, cr4 := v.reg[vcpu.CR0], v.reg[vcpu.CR4]
		v.cr0Host, v.cr4Host = cr0&cr0Shadowed, cr4&^cr4Own(&v.s.cfg.CPUID)
		v.shadowsStale = true
		v.write(fGuestCR0, v.hardwareCR0(cr0))
		v.write(fGuestCR3, v.reg[vcpu.CR3])
		v.write(fGuestCR4, v.hardwareCR4(cr4))
		v.write(fGuestEFER, v.reg[vcpu.EFER])
		ctl := v.b.s.controls[entryControls]
		if v.reg[vcpu.EFER]&eferLMA != 0 {
			ctl |= entryLongMode
		}
		v.write(fEntryControls, uint64(ctl)) // exits change it
	}
	if v.shadowsStale {
		v.shadowsStale = false
		v.write(fCR0Shadow, v.cr0Host)
		v.write(fCR4Shadow, v.cr4Host)
	}
	if g&gSegments != 0 {
		for i := range v.seg {
			d := field(2 * i)
			v.write(fGuestES+d, uint64(v.seg[i].Selector))
			v.write(fGuestESAttr+d, uint64(v.seg[i].Attr))
			v.write(fGuestESLimit+d, uint64(v.seg[i].Limit))
			v.write(fGuestESBase+d, v.seg[i].Base)
		}
		v.write(fGuestGDTRBase, v.reg[vcpu.GDTBase])
		v.write(fGuestGDTRLimit, v.reg[vcpu.GDTLimit])
		v.write(fGuestIDTRBase, v.reg[vcpu.IDTBase])
		v.write(fGuestIDTRLimit, v.reg[vcpu.IDTLimit])
	}
	if g&gSystem != 0 {
		v.write(fGuestSysenterCS, v.reg[vcpu.SysenterCS])
		v.write(fGuestSysenterESP, v.reg[vcpu.SysenterESP])
		v.write(fGuestSysenterEIP, v.reg[vcpu.SysenterEIP])
		v.write(fGuestDR7, v.reg[vcpu.DR7])
		v.write(fGuestPAT, v.reg[vcpu.PAT])
		v.write(fGuestDebugCtl, v.reg[vcpu.DebugCtl])
	}
	if g&gPDPTE != 0 {
		for i := range v.pdpte {
			v.write(fGuestPDPTE0+field(2*i), v.pdpte[i])
		}
	}
	if v.offsetStale {
		v.offsetStale = false
		v.writeTSC()
	}
	if r.RIP != v.loaded.rip {
		v.writeRIP()
	}
	if x := r.GPR[vcpu.RSP]; x != v.loaded.rsp {
		v.loaded.rsp = x
		v.write(fGuestRSP, x)
	}
	if r.RFLAGS != v.loaded.rflags {
		r.RFLAGS = r.RFLAGS&^flagReserved | flagOnes
		v.loaded.rflags = r.RFLAGS
		v.write(fGuestRFLAGS, r.RFLAGS)
	}
	if v.pendingStale {
		v.pendingStale = false
		v.write(fGuestPendingDebug, v.pendingDebug)
	}
	if v.blockedChanged {
		v.blockedChanged = false
		v.write(fGuestInterruptibility, v.blocked)
	}
	if v.blocked&(blockSTI|blockMovSS) != 0 {
		v.matchSingleStep()
	}
}

// writeTSC writes what makes the guest's TSC of the host's.
func (v *VCPU) writeTSC() {
	v.write(fTSCOffset, v.tscOffset)
	if (v.tscRatio != vcpu.Unscaled) != (v.secondary&secTSCScaling != 0) {
		v.secondary ^= secTSCScaling
		v.write(fSecondaryControls, uint64(v.secondary))
	}
	if v.tscRatio != vcpu.Unscaled {
		v.write(fTSCMultiplier, uint64(v.tscRatio))
	}
}

// writeRIP cuts RIP to 32 bits outside 64-bit mode, where the caller may have
// counted beyond them.
func (v *VCPU) writeRIP() {
	r := &v.frame.regs
	if r.RIP>>32 != 0 {
		v.fetch(gControl | gSegments)
		switch {
		case v.reg[vcpu.EFER]&eferLMA == 0 || v.seg[vcpu.CS].Attr&vcpu.AttrL == 0:
			r.RIP &= 0xffffffff
		case !ripFits(r.RIP):
			v.blame(troubleRIP, fGuestRIP, r.RIP)
			return
		}
	}
	v.loaded.rip = r.RIP
	v.write(fGuestRIP, r.RIP)
}

// ripFits: the entry check allows one address more than canonical ones, where
// code at the top of the lower half runs into (SDM vol. 3, 26.3.1.4).
func ripFits(rip uint64) bool { return rip>>48 == 0 || rip>>48 == 0xffff }

// matchSingleStep: in the shadow of STI or MOV SS a pending single step must be
// recorded exactly if TF is set and BTF is not (SDM vol. 3, 26.3.1.5).
func (v *VCPU) matchSingleStep() {
	pending := v.read(fGuestPendingDebug)
	want := pending &^ pendingBS
	if v.frame.regs.RFLAGS&flagTF != 0 && v.read(fGuestDebugCtl)&debugBTF == 0 {
		want |= pendingBS
	}
	if want != pending {
		v.write(fGuestPendingDebug, want)
	}
}

// Pending debug exceptions (SDM vol. 3, table 24-4).
const (
	pendingPoints  = 0xf
	pendingEnabled = 1 << 12
	pendingBS      = 1 << 14
)
