package vmm

import (
	"godwit/vmm/device/apic"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// MSRs a guest may touch. SDM vol. 4 and APM vol. 2, appendix A.
const (
	msrTSC          = 0x10
	msrKVMWallClock = 0x4b564d00 // Linux, Documentation/virt/kvm/x86/msr.rst
	msrKVMSystem    = 0x4b564d01
)

// msrKind says what a register does.
type msrKind uint8

const (
	constant msrKind = iota // reads as value; writes of anything else are dropped
	stored                  // one for each processor, holds what is written to its mask
	register                // of the VCPU
)

type msrDef struct {
	msr   uint32
	name  string
	kind  msrKind
	value uint64 // at reset
	mask  uint64 // bits that can be written; others give #GP
	reg   vcpu.Reg
}

const all = ^uint64(0)

// mtrrFixedMask is what a fixed-range MTRR can hold: a memory type in each byte.
const mtrrFixedMask = 0x0707070707070707

// msrs are those that are more than constants of the CPU model, in the order of
// their state's encoding: append only.
var msrs = [...]msrDef{
	{msr: 0x17, name: "PLATFORM_ID", kind: constant},
	{msr: 0x8b, name: "PATCH_LEVEL", kind: constant, value: 0x01000065},
	{msr: 0xfe, name: "MTRRcap", kind: constant, value: 0x508}, // 8 variable ranges, fixed ranges, write combining
	{msr: 0x174, name: "SYSENTER_CS", kind: register, reg: vcpu.SysenterCS},
	{msr: 0x175, name: "SYSENTER_ESP", kind: register, reg: vcpu.SysenterESP},
	{msr: 0x176, name: "SYSENTER_EIP", kind: register, reg: vcpu.SysenterEIP},
	{msr: 0x179, name: "MCG_CAP", kind: constant}, // no banks
	{msr: 0x17a, name: "MCG_STATUS", kind: stored, mask: 7},
	{msr: 0x17b, name: "MCG_CTL", kind: stored, mask: all},
	{msr: 0x1a0, name: "MISC_ENABLE", kind: constant, value: 1}, // fast strings
	{msr: 0x1d9, name: "DEBUGCTL", kind: register, reg: vcpu.DebugCtl},
	{msr: 0x277, name: "PAT", kind: register, reg: vcpu.PAT},
	{msr: 0x200, name: "MTRRphysBase0", kind: stored, mask: all}, {msr: 0x201, name: "MTRRphysMask0", kind: stored, mask: all},
	{msr: 0x202, name: "MTRRphysBase1", kind: stored, mask: all}, {msr: 0x203, name: "MTRRphysMask1", kind: stored, mask: all},
	{msr: 0x204, name: "MTRRphysBase2", kind: stored, mask: all}, {msr: 0x205, name: "MTRRphysMask2", kind: stored, mask: all},
	{msr: 0x206, name: "MTRRphysBase3", kind: stored, mask: all}, {msr: 0x207, name: "MTRRphysMask3", kind: stored, mask: all},
	{msr: 0x208, name: "MTRRphysBase4", kind: stored, mask: all}, {msr: 0x209, name: "MTRRphysMask4", kind: stored, mask: all},
	{msr: 0x20a, name: "MTRRphysBase5", kind: stored, mask: all}, {msr: 0x20b, name: "MTRRphysMask5", kind: stored, mask: all},
	{msr: 0x20c, name: "MTRRphysBase6", kind: stored, mask: all}, {msr: 0x20d, name: "MTRRphysMask6", kind: stored, mask: all},
	{msr: 0x20e, name: "MTRRphysBase7", kind: stored, mask: all}, {msr: 0x20f, name: "MTRRphysMask7", kind: stored, mask: all},
	// As firmware leaves them: all memory is write-back.
	{msr: 0x250, name: "MTRRfix64K_00000", kind: stored, mask: mtrrFixedMask, value: 0x0606060606060606},
	{msr: 0x258, name: "MTRRfix16K_80000", kind: stored, mask: mtrrFixedMask, value: 0x0606060606060606},
	{msr: 0x259, name: "MTRRfix16K_A0000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x268, name: "MTRRfix4K_C0000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x269, name: "MTRRfix4K_C8000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26a, name: "MTRRfix4K_D0000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26b, name: "MTRRfix4K_D8000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26c, name: "MTRRfix4K_E0000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26d, name: "MTRRfix4K_E8000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26e, name: "MTRRfix4K_F0000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x26f, name: "MTRRfix4K_F8000", kind: stored, mask: mtrrFixedMask},
	{msr: 0x2ff, name: "MTRRdefType", kind: stored, mask: 0xcff, value: 0xc06},
	{msr: 0xc0000080, name: "EFER", kind: register, reg: vcpu.EFER},
	{msr: 0xc0000081, name: "STAR", kind: register, reg: vcpu.STAR},
	{msr: 0xc0000082, name: "LSTAR", kind: register, reg: vcpu.LSTAR},
	{msr: 0xc0000083, name: "CSTAR", kind: register, reg: vcpu.CSTAR},
	{msr: 0xc0000084, name: "SFMASK", kind: register, reg: vcpu.SFMASK},
	{msr: 0xc0000102, name: "KERNEL_GS_BASE", kind: register, reg: vcpu.KernelGSBase},
	{msr: 0xc0000103, name: "TSC_AUX", kind: register, reg: vcpu.TSCAux},
	// AMD's, which Linux looks at because the models are AuthenticAMD.
	{msr: 0xc0010010, name: "SYSCFG", kind: constant},
	{msr: 0xc0010015, name: "HWCR", kind: stored, mask: all, value: 1 << 24}, // TscFreqSel: the TSC counts at the P0 rate
	{msr: 0xc001001a, name: "TOP_MEM", kind: constant},
	{msr: 0xc001001d, name: "TOP_MEM2", kind: constant},
	{msr: 0xc001001f, name: "NB_CFG", kind: constant},
	{msr: 0xc0010055, name: "INT_PENDING", kind: constant}, // no C1E
	{msr: 0xc0010112, name: "SMM_ADDR", kind: constant},
	{msr: 0xc0010113, name: "SMM_MASK", kind: constant},
	{msr: 0xc0010140, name: "OSVW_ID_LENGTH", kind: constant},
	{msr: 0xc0010141, name: "OSVW_STATUS", kind: constant},
	{msr: 0xc0011022, name: "DC_CFG", kind: constant},
	{msr: 0xc0011023, name: "BU_CFG", kind: constant},
	// No CPUID bit tells of these, so every kernel for AMD's processors may touch them: Xen
	// clears them without care. They count nothing.
	{msr: 0xc0010000, name: "PERF_CTL0", kind: constant}, {msr: 0xc0010001, name: "PERF_CTL1", kind: constant},
	{msr: 0xc0010002, name: "PERF_CTL2", kind: constant}, {msr: 0xc0010003, name: "PERF_CTL3", kind: constant},
	{msr: 0xc0010004, name: "PERF_CTR0", kind: constant}, {msr: 0xc0010005, name: "PERF_CTR1", kind: constant},
	{msr: 0xc0010006, name: "PERF_CTR2", kind: constant}, {msr: 0xc0010007, name: "PERF_CTR3", kind: constant},
	{msr: 0xc0011029, name: "DE_CFG", kind: stored, mask: all, value: 1 << 1}, // LFENCE serialises
}

// msrIndex finds an entry of msrs.
var msrIndex = func() map[uint32]int {
	m := make(map[uint32]int, len(msrs))
	for i := range msrs {
		if _, dup := m[msrs[i].msr]; dup {
			panic("vmm: MSR " + msrs[i].name + " is in the table twice")
		}
		m[msrs[i].msr] = i
	}
	return m
}()

// msrBank is one processor's stored registers, by index in msrs.
type msrBank [len(msrs)]uint64

func (b *msrBank) reset() {
	for i := range msrs {
		b[i] = msrs[i].value
	}
}

// readMSR answers RDMSR; false means #GP.
func (c *cpu) readMSR(msr uint32) (uint64, bool) {
	switch {
	case msr >= apic.MSRX2First && msr <= apic.MSRX2Last, msr == apic.MSRBase, msr == apic.MSRTSCDeadline:
		return c.lapic.ReadMSR(msr)
	case msr == msrTSC:
		return c.vm.counter() + c.tscOffset, true
	case msr == msrKVMWallClock:
		return c.wallClock, true
	case msr == msrKVMSystem:
		return c.systemTime, true
	}
	i, ok := msrIndex[msr]
	if !ok {
		if c.hasSpecCtrl(msr) {
			return c.v.Get(vcpu.SpecCtrl), true
		}
		if msr == x86.MSRArchCapabilities && c.vm.archCapabilities != 0 {
			return c.vm.archCapabilities, true
		}
		c.vm.unknownMSR(c, msr, false)
		return 0, false
	}
	if d := &msrs[i]; d.kind == register {
		return c.v.Get(d.reg), true
	}
	return c.msrs[i], true
}

// writeMSR carries out WRMSR; false means #GP.
func (c *cpu) writeMSR(msr uint32, v uint64) bool {
	switch {
	case msr >= apic.MSRX2First && msr <= apic.MSRX2Last, msr == apic.MSRBase, msr == apic.MSRTSCDeadline:
		c.look = true
		return c.lapic.WriteMSR(msr, v)
	case msr == msrTSC:
		c.setTSC(v)
		return true
	case msr == msrKVMWallClock:
		return c.writeWallClock(v)
	case msr == msrKVMSystem:
		return c.enableClock(v)
	}
	i, ok := msrIndex[msr]
	if !ok {
		if c.hasSpecCtrl(msr) {
			return c.v.Set(vcpu.SpecCtrl, v) == nil
		}
		c.vm.unknownMSR(c, msr, true)
		return false
	}
	d := &msrs[i]
	switch d.kind {
	case register:
		return c.v.Set(d.reg, v) == nil
	case stored:
		if v&^d.mask != 0 {
			return false
		}
		c.msrs[i] = v
	}
	return true
}

// hasSpecCtrl: the register is there if the model has it, and not in msrs, whose length is
// part of the state of machines without it. PRED_CMD and FLUSH_CMD need nothing here: what
// the guest may write does not exit, and nothing can be read.
func (c *cpu) hasSpecCtrl(msr uint32) bool {
	return msr == x86.MSRSpecCtrl && c.vm.controls.SpecCtrl != 0
}
