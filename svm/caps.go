package svm

import (
	"fmt"
	"slices"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// MSRs of SVM (APM 15.30).
const (
	msrEFER    = 0xc000_0080
	msrTSCAux  = 0xc000_0103
	msrTSCRate = 0xc000_0104 // TSC ratio (APM 15.30.5)
	msrVMCR    = 0xc001_0114
	msrHSavePA = 0xc001_0117

	vmcrDisabled = 1 << 4 // SVMDIS
)

// CR and EFER bits that this package looks at (APM 3.1).
const (
	cr0PE = 1 << 0
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31

	cr4PSE     = 1 << 4
	cr4PAE     = 1 << 5
	cr4MCE     = 1 << 6
	cr4LA57    = 1 << 12
	cr4PCIDE   = 1 << 17
	cr4OSXSAVE = 1 << 18

	eferLME  = 1 << 8
	eferLMA  = 1 << 10
	eferNXE  = 1 << 11
	eferSVME = 1 << 12
)

// CPUID Fn8000_000A_EDX (APM 15.30.1; vol. 3, appendix E.4.9).
const (
	featNested         = 1 << 0
	featLock           = 1 << 2
	featNextRIP        = 1 << 3
	featTSCRate        = 1 << 4
	featClean          = 1 << 5
	featFlushASID      = 1 << 6
	featDecode         = 1 << 7
	featPause          = 1 << 10
	featPauseThreshold = 1 << 12
	featSpecCtrl       = 1 << 20 // the VMCB has the guest's SPEC_CTRL, beside the host's
)

// A silicon is what this host's processors say about themselves. All CPUs of a
// host are taken to be alike but for what enable checks.
type silicon struct {
	features  uint32 // CPUID Fn8000_000A_EDX
	asids     uint32
	physBits  uint
	page1G    bool
	xsaveOpt  bool
	invpcid   bool
	rdpru     bool
	xcr0      uint64 // the host's
	xsaveSize uint32 // of the standard format with all of xcr0
	mxcsrMask uint32
	barriers  x86.Barriers
	offered   x86.Controls // to guests, against speculation
	closed    []x86.Mitigation
	warnings  []string   // of the barriers
	xoffset   [64]uint32 // of each component of xcr0 in the XSAVE area
	xend      [64]uint32
}

// component is where an XSAVE component ends, 0 if it does not exist here.
func (s *silicon) component(i uint) uint32 { return s.xend[i] }

// tcg tells whether the ground is QEMU's TCG: see the package's comment.
func (s *silicon) tcg() bool { return !s.has(featNextRIP) }

func (s *silicon) has(bit uint32) bool { return s.features&bit != 0 }

type cpuidFunc func(leaf, sub uint32) (a, b, c, d uint32)

// discover says what there is, or which feature is missing and who can help.
func discover(cpuid cpuidFunc, rdmsr func(uint32) (uint64, bool), xgetbv func() uint64) (s silicon, err error) {
	if top, _, _, _ := cpuid(0x8000_0000, 0); top < 0x8000_000a {
		return s, fmt.Errorf("svm: this processor has no AMD-V: CPUID ends at leaf %#x, before 8000000Ah", top)
	}
	_, _, c, d := cpuid(0x8000_0001, 0)
	if c&(1<<2) == 0 {
		return s, fmt.Errorf("svm: this processor has no AMD-V (CPUID 80000001h, ECX bit 2)")
	}
	s.page1G = d&(1<<26) != 0
	misaligned := c&(1<<7) != 0
	_, s.asids, _, s.features = cpuid(0x8000_000a, 0)
	if vmcr, ok := rdmsr(msrVMCR); ok && vmcr&vmcrDisabled != 0 {
		if s.has(featLock) {
			return s, fmt.Errorf("svm: the firmware has switched AMD-V off and locked it (VM_CR.SVMDIS): switch SVM on in the firmware's set-up")
		}
		return s, fmt.Errorf("svm: AMD-V is switched off (VM_CR.SVMDIS) and this processor can not unlock it: switch SVM on in the firmware's set-up")
	}
	if !s.has(featNested) {
		return s, fmt.Errorf("svm: this processor has no nested paging (CPUID 8000000Ah, EDX bit 0), without which no guest is run here")
	}
	if s.asids < 2 {
		return s, fmt.Errorf("svm: this processor offers %d address-space identifiers; at least 2 are needed", s.asids)
	}
	a, _, _, _ := cpuid(0x8000_0008, 0)
	s.physBits = uint(a & 0xff)
	if s.physBits < 36 || s.physBits > 52 {
		return s, fmt.Errorf("svm: a physical address of %d bits (CPUID 80000008h) can not be", s.physBits)
	}
	if _, _, c, _ := cpuid(1, 0); c&(1<<27) == 0 {
		return s, fmt.Errorf("svm: XSAVE is missing or the kernel has not switched it on (CPUID 1, ECX bit 27)")
	}
	s.xcr0 = xgetbv() & x86.XOffered
	_, s.xsaveSize, _, _ = cpuid(0xd, 0)
	if s.xsaveSize < xsaveLeast || s.xsaveSize > vcpu.XSAVEMax {
		return s, fmt.Errorf("svm: an XSAVE area of %d bytes (CPUID 0Dh) can not be", s.xsaveSize)
	}
	for i := uint32(2); i < 64; i++ {
		if s.xcr0>>i&1 == 0 {
			continue
		}
		size, off, _, _ := cpuid(0xd, i)
		s.xoffset[i], s.xend[i] = off, off+size
		if size == 0 || off < xsaveLeast || off+size < off || off+size > s.xsaveSize {
			return s, fmt.Errorf("svm: XSAVE component %d at %d+%d (CPUID 0Dh) does not fit the area of %d", i, off, size, s.xsaveSize)
		}
	}
	s.mxcsrMask = 0xffff
	if misaligned {
		s.mxcsrMask |= 1 << 17 // misaligned SSE mode (APM vol. 1, 4.2.2)
	}
	a, _, _, _ = cpuid(0xd, 1)
	s.xsaveOpt = a&1 != 0
	_, b, _, _ := cpuid(7, 0)
	s.invpcid = b&(1<<10) != 0
	_, b, _, _ = cpuid(0x8000_0008, 0)
	s.rdpru = b&(1<<4) != 0
	return s, nil
}

// protect finds out which barriers guests that are so far trusted need here.
func (s *silicon) protect(p x86.Processor, g x86.Guests) {
	if s.barriers = x86.FindBarriers(false, p, g); s.tcg() { // it predicts nothing, and keeps nothing
		s.barriers.Exit, s.barriers.Buffers, s.barriers.Divider, s.barriers.Settings = x86.FenceNone, false, false, nil
	}
	s.closed, s.warnings = x86.Mitigations(false, s.barriers, p), s.barriers.Notes()
	if s.offered = x86.FindControls(p.CPUID); !s.takesControls(&p) {
		s.offered.SpecCtrl = 0
	}
}

// takesControls tells whether SPEC_CTRL takes all the bits that guests are to have: no
// guest's value may fault in the host. It leaves the host's there.
func (s *silicon) takesControls(p *x86.Processor) bool {
	x, host := s.offered.SpecCtrl, s.barriers.SpecCtrl
	return x == 0 || p.Write(x86.MSRSpecCtrl, host|x) && p.Write(x86.MSRSpecCtrl, host)
}

// tscScaling: a ratio has 8 bits before the point and 32 behind it (APM 15.30.5).
func (s *silicon) tscScaling() vcpu.TSCScaling {
	if !s.has(featTSCRate) {
		return vcpu.TSCScaling{}
	}
	return vcpu.TSCScaling{Integer: 8, Fraction: 32}
}

// tscRate is what the MSR holds for a ratio; rateOne is its value at reset.
func tscRate(r vcpu.TSCRatio) uint64 {
	if r == vcpu.Unscaled {
		return rateOne
	}
	return uint64(r) >> 16
}

const rateOne = 1 << 32

func (s *silicon) capabilities() vcpu.Capabilities {
	c := vcpu.Capabilities{
		GuestPhysBits: min(s.physBits, 48), // nested tables have the host's four levels (APM 15.25.3)
		Page2M:        true,
		Page1G:        s.page1G,
		AccessedDirty: true,
		NextRIP:       s.has(featNextRIP),
		DecodeAssist:  s.has(featDecode),
		PauseFilter:   s.has(featPause),
		TSCScaling:    s.tscScaling(),
		XCR0:          s.xcr0,
		Controls:      s.offered,
		Mitigations:   s.closed,
		Notes:         slices.Clone(s.warnings),
	}
	note := func(missing bool, text string) {
		if missing {
			c.Notes = append(c.Notes, text)
		}
	}
	note(!s.has(featNextRIP), "no next-RIP saving: instructions are read from guest memory")
	note(!s.has(featDecode), "no decode assists: instructions are read from guest memory")
	note(!s.has(featFlushASID), "no flush by ASID: a new ASID is taken instead")
	note(!s.has(featClean), "no VMCB clean bits: each entry reloads all")
	note(!s.has(featTSCRate), "no TSC ratio: a guest from a host whose TSC runs at another rate gets this one's")
	note(!s.has(featPause), "no pause filter: spinning guests run until their time is up")
	note(!s.page1G, "no 1 GiB pages")
	return c
}
