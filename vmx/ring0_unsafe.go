package vmx

import (
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A frame is what the world switch reads and writes.
type frame struct {
	regs     vcpu.Regs // world_amd64.s relies on GPR standing first
	cr2      uint64
	xarea    uintptr // XSAVE area
	xmask    uint64  // components to switch; 0: FXSAVE
	xhost    uint64  // the host's XCR0
	xguest   uint64  // the guest's XCR0
	hostRSP  uint64  // what the VMCS has
	launched uint64  // 1: VMRESUME
	verw     uint64  // 1: VERW before the guest
	fence    uint64  // an x86.Fence
	spec     uint64  // SPEC_CTRL in the guest, with FenceIBRS
	keep     uint64  // 1: the guest changes it without an exit
}

const (
	_ = -unsafe.Offsetof(frame{}.regs.GPR)        // is 0
	_ = -(unsafe.Sizeof(frame{}.regs.GPR[0]) - 8) // is 8
)

//go:noescape
func worldSwitch(f *frame) entryStatus

// The fences by the names that the assembly knows.
const (
	fenceNone    = uint64(x86.FenceNone)
	fenceHistory = uint64(x86.FenceHistory)
	fenceReturns = uint64(x86.FenceReturns)
	fenceIBRS    = uint64(x86.FenceIBRS)
	specIBRS     = x86.SpecIBRS
	msrPredCmd   = x86.MSRPredCmd
	predIBPB     = x86.PredIBPB
)

// verwSelector is one of writable data, for VERW, which clears buffers on its way.
var verwSelector uint16

func spendHistory()
func fiveDeep()
func exitAddress() uint64
func vmread(f uint64) (v uint64, ok bool)
func vmwrite(f, v uint64) (ok bool)

//go:noescape
func vmptrld(phys *uint64) (ok bool)

//go:noescape
func vmclear(phys *uint64) (ok bool)

//go:noescape
func vmxon(phys *uint64) (ok bool)

//go:noescape
func invept(kind uint64, desc *[2]uint64) (ok bool)

//go:noescape
func invvpid(kind uint64, desc *[2]uint64) (ok bool)

//go:noescape
func setDR(dr *debugRegs)

//go:noescape
func getDR(dr *debugRegs)

func orCR0CR4(cr0, cr4 uint64)
func readCR4() uint64
func xgetbv0() uint64
func intNMI()
func intMC()

//go:noescape
func fxsave(area *[512]byte)

// ring0 is the machine itself.
type ring0 struct{}

func (ring0) cpuid(leaf, sub uint32) (a, b, c, d uint32) { return kernel.CPUID(leaf, sub) }
func (ring0) rdmsrSafe(msr uint32) (uint64, bool)        { return kernel.ReadMSRSafe(msr) }
func (ring0) rdmsr(msr uint32) uint64                    { return kernel.ReadMSR(msr) }
func (ring0) wrmsr(msr uint32, v uint64)                 { kernel.WriteMSR(msr, v) }
func (ring0) vmread(f field) (uint64, bool)              { return vmread(uint64(f)) }
func (ring0) vmwrite(f field, v uint64) bool             { return vmwrite(uint64(f), v) }
func (ring0) vmclear(phys uint64) bool                   { return vmclear(&phys) }
func (ring0) vmptrld(phys uint64) bool                   { return vmptrld(&phys) }
func (ring0) exitAddress() uint64                        { return exitAddress() }
func (ring0) enter(f *frame) entryStatus                 { return worldSwitch(f) }
func (ring0) setDR(dr *debugRegs)                        { setDR(dr) }
func (ring0) getDR(dr *debugRegs)                        { getDR(dr) }
func (ring0) hostNMI()                                   { intNMI() }
func (ring0) hostMachineCheck()                          { intMC() }

func (ring0) invept(kind, eptp uint64) bool {
	d := [2]uint64{eptp}
	return invept(kind, &d)
}

func (ring0) invvpid(kind uint64, vpid uint16) bool {
	d := [2]uint64{uint64(vpid)}
	return invvpid(kind, &d)
}

const cr4OSXSAVE = 1 << 18

func (ring0) hostXCR0() uint64 {
	if readCR4()&cr4OSXSAVE == 0 {
		return 0
	}
	return xgetbv0()
}

func (ring0) mxcsrMask() uint32 {
	// FXSAVE wants 16-byte alignment, which a Go array need not have.
	var room [512 + 15]byte
	a := (*[512]byte)(unsafe.Pointer(&room[-uintptr(unsafe.Pointer(&room))&15]))
	fxsave(a)
	if m := *(*uint32)(unsafe.Pointer(&a[xOffMask])); m != 0 {
		return m
	}
	return 0xffbf // SDM vol. 1, 11.6.6
}

// enable switches VMX on (SDM vol. 3, 23.7). It runs inside privileged.
func (ring0) enable(revision uint32, region uint64) enableStatus {
	v, ok := kernel.ReadMSRSafe(msrFeatureControl)
	if ok && v&featureLocked == 0 {
		kernel.WriteMSRSafe(msrFeatureControl, v|featureLocked|featureOutside)
		v, _ = kernel.ReadMSRSafe(msrFeatureControl)
	}
	if ok && v&(featureLocked|featureOutside) != featureLocked|featureOutside {
		return enableLocked
	}
	orCR0CR4(kernel.ReadMSR(msrCR0Fixed0), kernel.ReadMSR(msrCR4Fixed0))
	if !vmxon(&region) {
		return enableRefused
	}
	return enabled
}

func (ring0) privileged(fn func(unsafe.Pointer), arg unsafe.Pointer) { kernel.Privileged(fn, arg) }
func (ring0) privilegedBriefly(fn func(unsafe.Pointer), arg unsafe.Pointer) {
	kernel.PrivilegedBriefly(fn, arg)
}
func (ring0) thisCPU() int                         { return kernel.ThisCPU() }
func (ring0) numCPU() int                          { return kernel.NumCPU() }
func (ring0) onEachCPU(fn func(cpu int))           { kernel.OnEachCPU(fn) }
func (ring0) hostState(cpu int) kernel.HostContext { return kernel.HostState(cpu) }
func (ring0) kick(cpu int)                         { kernel.KickCPU(cpu) }
func (ring0) fenceNMIs(msr, value uint32)          { kernel.FenceNMIs(msr, value) }
func (ring0) setTimer(tsc uint64)                  { kernel.SetTimer(tsc, 0) }
func (ring0) tsc() uint64                          { return kernel.TSC() }
func (ring0) tscHz() uint64                        { return kernel.TSCFrequency() }
func (ring0) firmware() string                     { return kernel.FirmwareOEM() }

func (ring0) Alloc(size, align uint64) (mem.Block, error) {
	phys, data, err := kernel.AllocPhys(size, align)
	return mem.Block{Phys: phys, Data: data}, err
}

func (ring0) Free(b mem.Block) { kernel.FreePhys(b.Phys, uint64(len(b.Data))) }

// logEntries is a page-modification log as the processor fills it.
func logEntries(page []byte) []uint64 { return unsafe.Slice((*uint64)(unsafe.Pointer(&page[0])), 512) }
