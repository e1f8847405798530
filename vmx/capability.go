package vmx

import (
	"errors"
	"fmt"
	"slices"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// MSRs (SDM vol. 4, table 2-2).
const (
	msrTSC            = 0x010
	msrFeatureControl = 0x03a
	msrSysenterCS     = 0x174
	msrSysenterESP    = 0x175
	msrSysenterEIP    = 0x176
	msrDebugCtl       = 0x1d9
	msrPAT            = 0x277
	msrVMXBasic       = 0x480
	msrVMXMisc        = 0x485
	msrCR0Fixed0      = 0x486
	msrCR0Fixed1      = 0x487
	msrCR4Fixed0      = 0x488
	msrCR4Fixed1      = 0x489
	msrEPTVPIDCap     = 0x48c
	msrXSS            = 0xda0
	msrEFER           = 0xc0000080
	msrSTAR           = 0xc0000081
	msrLSTAR          = 0xc0000082
	msrCSTAR          = 0xc0000083
	msrSFMASK         = 0xc0000084
	msrFSBase         = 0xc0000100
	msrGSBase         = 0xc0000101
	msrKernelGSBase   = 0xc0000102
	msrTSCAux         = 0xc0000103
)

// IA32_FEATURE_CONTROL (SDM vol. 3, 23.7).
const (
	featureLocked  = 1 << 0
	featureOutside = 1 << 2 // VMXON outside SMX operation
)

// IA32_VMX_BASIC (A.1).
const (
	basicAddress32 = 1 << 48 // physical addresses are limited to 32 bits
	basicTrue      = 1 << 55 // the TRUE control MSRs exist
)

// IA32_VMX_MISC (A.6).
const (
	miscSavesLongMode = 1 << 5 // exits write EFER.LMA to the entry controls
	miscZeroLength    = 1 << 30
)

// IA32_VMX_EPT_VPID_CAP (A.10).
const (
	eptWalk4         = 1 << 6
	eptWriteBack     = 1 << 14
	ept2M            = 1 << 16
	ept1G            = 1 << 17
	eptINVEPT        = 1 << 20
	eptAccessedDirty = 1 << 21
	eptINVEPTSingle  = 1 << 25
	eptINVEPTAll     = 1 << 26
	vpidINVVPID      = 1 << 32
	vpidSingle       = 1 << 41
	vpidAll          = 1 << 42
)

// A silicon is what discovery found. It is the same on every CPU; enable makes
// sure of that.
type silicon struct {
	revision   uint32 // of VMCS regions and the VMXON region
	controls   [numControls]uint32
	misc       uint64
	ept        uint64
	cr0Fixed0  uint64
	cr0Fixed1  uint64
	cr4Fixed0  uint64
	cr4Fixed1  uint64
	physBits   uint
	xcr0       uint64 // offered to guests
	zeroLength bool   // software events may have instruction length 0
	barriers   x86.Barriers
	offered    x86.Controls // to guests, against speculation
	says       uint64       // IA32_ARCH_CAPABILITIES
	closed     []x86.Mitigation
	warnings   []string // of the barriers
	smallCode  bool     // large pages of EPT must not be executable
}

// A probe reads what discovery needs; tests have recorded ones.
type probe interface {
	cpuid(leaf, sub uint32) (a, b, c, d uint32)
	rdmsrSafe(msr uint32) (uint64, bool)
}

func (s *silicon) has(k controlKind, bits uint32) bool { return s.controls[k]&bits == bits }

// timerShift: the VMX-preemption timer counts down once in 1<<timerShift TSC
// ticks (A.6).
func (s *silicon) timerShift() uint { return uint(s.misc & 31) }

var errNoVMX = errors.New("vmx: this processor has no VT-x (CPUID.1:ECX.VMX is 0)")

// discover finds out what the CPU it runs on can do, and refuses it if something
// that this package needs is missing.
func discover(p probe) (*silicon, error) {
	if _, _, c, _ := p.cpuid(1, 0); c>>5&1 == 0 {
		return nil, errNoVMX
	}
	if v, ok := p.rdmsrSafe(msrFeatureControl); ok && v&featureLocked != 0 && v&featureOutside == 0 {
		return nil, fmt.Errorf("vmx: the firmware has locked VT-x off (IA32_FEATURE_CONTROL is %#x): switch it on in the firmware's setup", v)
	}
	var err error
	read := func(name string, msr uint32) uint64 {
		v, ok := p.rdmsrSafe(msr)
		if !ok && err == nil {
			err = fmt.Errorf("vmx: this processor lacks the capability MSR %s (%#x)", name, msr)
		}
		return v
	}
	basic := read("IA32_VMX_BASIC", msrVMXBasic)
	s := &silicon{
		revision:  uint32(basic) & 0x7fffffff,
		misc:      read("IA32_VMX_MISC", msrVMXMisc),
		cr0Fixed0: read("IA32_VMX_CR0_FIXED0", msrCR0Fixed0),
		cr0Fixed1: read("IA32_VMX_CR0_FIXED1", msrCR0Fixed1),
		cr4Fixed0: read("IA32_VMX_CR4_FIXED0", msrCR4Fixed0),
		cr4Fixed1: read("IA32_VMX_CR4_FIXED1", msrCR4Fixed1),
	}
	if err != nil {
		return nil, err
	}
	s.zeroLength = s.misc&miscZeroLength != 0
	switch {
	case basic&basicTrue == 0:
		return nil, errors.New("vmx: this processor lacks the TRUE control MSRs (IA32_VMX_BASIC bit 55)")
	case basic&basicAddress32 != 0:
		return nil, errors.New("vmx: this processor takes no VMCS above 4 GiB (IA32_VMX_BASIC bit 48)")
	case basic>>50&15 != 6:
		return nil, fmt.Errorf("vmx: this processor wants VMCS memory of type %d, not write-back", basic>>50&15)
	}
	for k := range rules {
		r := &rules[k]
		msr := r.trueMSR
		c := read(fmt.Sprintf("of the %s controls", r.name), msr)
		if err != nil {
			return nil, err
		}
		if s.controls[k], err = r.fold(allowedBy(c)); err != nil {
			return nil, err
		}
		// Appendix A.2: what the first MSR allows to be 1, the TRUE one does too.
		// Secondary controls may be read only once it is known that they exist.
	}
	if s.ept = read("IA32_VMX_EPT_VPID_CAP", msrEPTVPIDCap); err != nil {
		return nil, err
	}
	for _, need := range []struct {
		bits uint64
		name string
	}{
		{eptWalk4, "EPT with four levels"},
		{eptWriteBack, "EPT tables in write-back memory"},
		{eptINVEPT, "INVEPT"},
	} {
		if s.ept&need.bits == 0 {
			return nil, fmt.Errorf("vmx: this processor lacks %s (IA32_VMX_EPT_VPID_CAP is %#x)", need.name, s.ept)
		}
	}
	if s.ept&(eptINVEPTSingle|eptINVEPTAll) == 0 {
		return nil, errors.New("vmx: this processor's INVEPT has neither the single-context nor the all-context type")
	}
	if s.ept&vpidINVVPID == 0 || s.ept&(vpidSingle|vpidAll) == 0 {
		s.controls[secondaryControls] &^= secVPID // tags that can not be flushed are of no use
	}
	if s.misc&miscSavesLongMode == 0 {
		return nil, errors.New("vmx: this processor's exits do not store EFER.LMA (IA32_VMX_MISC bit 5)")
	}
	if s.ept&eptAccessedDirty == 0 {
		s.controls[secondaryControls] &^= secPML
	}
	s.physBits = 36
	if a, _, _, _ := p.cpuid(0x80000000, 0); a >= 0x80000008 {
		a, _, _, _ := p.cpuid(0x80000008, 0)
		s.physBits = uint(a & 0xff)
	}
	s.xcr0 = offeredXCR0(p)
	s.smallCode = x86.SmallCode(p.cpuid, p.rdmsrSafe)
	return s, nil
}

// protect finds out which barriers guests that are so far trusted need here.
func (s *silicon) protect(p probe, g x86.Guests) {
	asked := x86.Processor{CPUID: p.cpuid, Read: p.rdmsrSafe} // Intel's tells all by itself
	s.barriers = x86.FindBarriers(true, asked, g)
	s.offered = x86.FindControls(p.cpuid)
	s.says = x86.ArchCapabilities(p.cpuid, p.rdmsrSafe)
	s.closed, s.warnings = x86.Mitigations(true, s.barriers, asked), s.barriers.Notes()
}

// tscScaling: the multiplier has 64 bits, of which 48 stand behind the point (SDM
// vol. 3, 24.6.5).
func (s *silicon) tscScaling() vcpu.TSCScaling {
	if !s.has(secondaryControls, secTSCScaling) {
		return vcpu.TSCScaling{}
	}
	return vcpu.TSCScaling{Integer: 16, Fraction: 48}
}

// capabilities puts it into the contract's words.
func (s *silicon) capabilities() vcpu.Capabilities {
	c := vcpu.Capabilities{
		GuestPhysBits: min(s.physBits, 48), // four levels of EPT translate 48 bits
		Page2M:        s.ept&ept2M != 0,
		Page1G:        s.ept&ept1G != 0,
		SmallCode:     s.smallCode,
		AccessedDirty: s.ept&eptAccessedDirty != 0,
		PML:           s.has(secondaryControls, secPML),
		NextRIP:       true,
		Preemption:    s.has(pinControls, pinPreemptionTimer),
		PauseFilter:   s.has(secondaryControls, secPAUSELoop),
		TSCScaling:    s.tscScaling(),
		XCR0:          s.xcr0,
		Controls:      s.offered,

		ArchCapabilities: s.says,

		Mitigations: s.closed,
		Notes:       slices.Clone(s.warnings),
	}
	note := func(missing bool, text string) {
		if missing {
			c.Notes = append(c.Notes, text)
		}
	}
	note(!c.Page2M, "no 2 MiB pages in EPT: guest memory is mapped in 4 KiB pages")
	note(c.SmallCode, "no IF_PSCHANGE_MC_NO: guests' code is mapped in 4 KiB pages")
	note(!c.Preemption, "no VMX-preemption timer: the host's timer bounds every entry")
	note(!c.PauseFilter, "no PAUSE-loop exiting: a guest that spins uses up its time slice")
	note(!s.has(secondaryControls, secVPID), "no VPID: every entry and exit flushes the TLB")
	note(!s.has(secondaryControls, secTSCScaling), "no TSC scaling: a guest from a host whose TSC runs at another rate gets this one's")
	note(!c.AccessedDirty, "no accessed and dirty bits in EPT: writes are tracked by faults")
	note(c.AccessedDirty && !c.PML, "no page-modification log: dirty bits are found by a scan")
	note(c.XCR0 == 0, "no XSAVE: guests get x87 and SSE only")
	return c
}
