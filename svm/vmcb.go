package svm

import "unsafe"

// A vmcb is the virtual machine control block (APM appendix B).
type vmcb struct {
	control
	save
	_ [0x1000 - 0x400 - 0x2e8]byte
}

// A control area (APM appendix B, table B-1).
type control struct {
	readCR         uint16    // 0x000 intercept reads of CR0-15
	writeCR        uint16    // 0x002
	readDR         uint16    // 0x004
	writeDR        uint16    // 0x006
	exceptions     uint32    // 0x008 by vector
	misc           [3]uint32 // 0x00c exit codes 0x60-0x7f, 0x80-0x9f, 0xa0-0xbf
	_              [0x24]byte
	pauseThreshold uint16 // 0x03c
	pauseCount     uint16 // 0x03e
	iopm           uint64 // 0x040
	msrpm          uint64 // 0x048
	tscOffset      uint64 // 0x050
	asid           uint32 // 0x058
	tlb            uint32 // 0x05c
	vintr          uint64 // 0x060
	shadow         uint64 // 0x068 bit 0: the next instruction takes no interrupt
	exitCode       uint64 // 0x070
	exitInfo1      uint64 // 0x078
	exitInfo2      uint64 // 0x080
	exitIntInfo    uint64 // 0x088
	nested         uint64 // 0x090 bit 0: nested paging
	_              [0x10]byte
	eventInj       uint64   // 0x0a8
	ncr3           uint64   // 0x0b0
	lbr            uint64   // 0x0b8
	clean          uint32   // 0x0c0
	_              uint32   //
	nextRIP        uint64   // 0x0c8
	nInsn          uint8    // 0x0d0
	insn           [15]byte // 0x0d1
	_              [0x400 - 0xe0]byte
}

// A save area (APM appendix B, table B-2). VMRUN and exits switch most of it;
// VMLOAD and VMSAVE those marked L.
type save struct {
	seg          [6]segment // 0x400 ES CS SS DS, FS GS (L)
	gdtr         segment    // 0x460
	ldtr         segment    // 0x470 L
	idtr         segment    // 0x480
	tr           segment    // 0x490 L
	_            [0x2b]byte
	cpl          uint8  // 0x4cb
	_            uint32 //
	efer         uint64 // 0x4d0
	_            [0x70]byte
	cr4          uint64 // 0x548
	cr3          uint64 // 0x550
	cr0          uint64 // 0x558
	dr7          uint64 // 0x560
	dr6          uint64 // 0x568
	rflags       uint64 // 0x570
	rip          uint64 // 0x578
	_            [0x58]byte
	rsp          uint64 // 0x5d8
	_            [0x18]byte
	rax          uint64 // 0x5f8
	star         uint64 // 0x600 L
	lstar        uint64 // 0x608 L
	cstar        uint64 // 0x610 L
	sfmask       uint64 // 0x618 L
	kernelGSBase uint64 // 0x620 L
	sysenterCS   uint64 // 0x628 L
	sysenterESP  uint64 // 0x630 L
	sysenterEIP  uint64 // 0x638 L
	cr2          uint64 // 0x640
	_            [0x20]byte
	pat          uint64     // 0x668
	debugCtl     uint64     // 0x670
	_            [0x68]byte // last-branch registers and others
	specCtrl     uint64     // 0x6e0, with featSpecCtrl
}

type segment struct {
	selector uint16
	attr     uint16 // type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11
	limit    uint32
	base     uint64
}

// The layout, proven when this file compiles: a difference is a negative constant.
const (
	_ = -uint(unsafe.Sizeof(vmcb{}) - 0x1000)
	_ = -uint(unsafe.Sizeof(control{}) - 0x400)
	_ = -uint(unsafe.Offsetof(control{}.pauseThreshold) - 0x03c)
	_ = -uint(unsafe.Offsetof(control{}.iopm) - 0x040)
	_ = -uint(unsafe.Offsetof(control{}.asid) - 0x058)
	_ = -uint(unsafe.Offsetof(control{}.vintr) - 0x060)
	_ = -uint(unsafe.Offsetof(control{}.exitCode) - 0x070)
	_ = -uint(unsafe.Offsetof(control{}.exitIntInfo) - 0x088)
	_ = -uint(unsafe.Offsetof(control{}.eventInj) - 0x0a8)
	_ = -uint(unsafe.Offsetof(control{}.clean) - 0x0c0)
	_ = -uint(unsafe.Offsetof(control{}.nextRIP) - 0x0c8)
	_ = -uint(unsafe.Offsetof(control{}.insn) - 0x0d1)
	_ = -uint(unsafe.Offsetof(save{}.gdtr) - 0x060)
	_ = -uint(unsafe.Offsetof(save{}.tr) - 0x090)
	_ = -uint(unsafe.Offsetof(save{}.cpl) - 0x0cb)
	_ = -uint(unsafe.Offsetof(save{}.efer) - 0x0d0)
	_ = -uint(unsafe.Offsetof(save{}.cr4) - 0x148)
	_ = -uint(unsafe.Offsetof(save{}.rip) - 0x178)
	_ = -uint(unsafe.Offsetof(save{}.rsp) - 0x1d8)
	_ = -uint(unsafe.Offsetof(save{}.rax) - 0x1f8)
	_ = -uint(unsafe.Offsetof(save{}.kernelGSBase) - 0x220)
	_ = -uint(unsafe.Offsetof(save{}.cr2) - 0x240)
	_ = -uint(unsafe.Offsetof(save{}.pat) - 0x268)
	_ = -uint(unsafe.Offsetof(save{}.debugCtl) - 0x270)
	_ = -uint(unsafe.Offsetof(save{}.specCtrl) - 0x2e0)
)

// Exit codes (APM appendix C). Those from 0x60 on are also the places of the
// intercept bits: bit code%32 of word code/32-3.
const (
	exitReadCR     = 0x000
	exitWriteCR    = 0x010
	exitReadDR     = 0x020
	exitWriteDR    = 0x030
	exitException  = 0x040
	exitINTR       = 0x060
	exitNMI        = 0x061
	exitINIT       = 0x063
	exitVINTR      = 0x064
	exitRDPMC      = 0x06f
	exitCPUID      = 0x072
	exitIRET       = 0x074
	exitSoftInt    = 0x075
	exitINVD       = 0x076
	exitPAUSE      = 0x077
	exitHLT        = 0x078
	exitINVLPGA    = 0x07a
	exitIOIO       = 0x07b
	exitMSR        = 0x07c
	exitTaskSwitch = 0x07d
	exitShutdown   = 0x07f
	exitVMRUN      = 0x080
	exitVMMCALL    = 0x081
	exitVMLOAD     = 0x082
	exitVMSAVE     = 0x083
	exitSTGI       = 0x084
	exitCLGI       = 0x085
	exitSKINIT     = 0x086
	exitRDTSCP     = 0x087
	exitWBINVD     = 0x089
	exitMONITOR    = 0x08a
	exitMWAIT      = 0x08b
	exitMWAITArmed = 0x08c
	exitXSETBV     = 0x08d
	exitRDPRU      = 0x08e
	exitINVPCID    = 0x0a2
	exitNPF        = 0x400
	exitInvalid    = ^uint64(0)
)

// intercept makes an instruction or event with an exit code from 0x60 on exit.
func (c *control) intercept(code uint) { c.misc[code/32-3] |= 1 << (code % 32) }

func (c *control) intercepted(code uint) bool { return c.misc[code/32-3]>>(code%32)&1 != 0 }

func (c *control) pass(code uint) { c.misc[code/32-3] &^= 1 << (code % 32) }

// VINTR (APM appendix B, offset 0x60; 15.21).
const (
	vTPRMask   = 0xf
	vIRQ       = 1 << 8
	vPrioShift = 16
	vMasking   = 1 << 24 // the guest's IF and CR8 do not touch physical interrupts
	vWindow    = vIRQ | 0xf<<vPrioShift
)

// TLB control (APM 15.16.2).
const (
	tlbKeep      = 0
	tlbFlushAll  = 1
	tlbFlushASID = 3
)

// VMCB clean bits (APM 15.15.3).
const (
	cleanIntercepts = 1 << 0
	cleanASID       = 1 << 2
	cleanTPR        = 1 << 3
	cleanNP         = 1 << 4
	cleanCR         = 1 << 5
	cleanDR         = 1 << 6
	cleanDT         = 1 << 7
	cleanSeg        = 1 << 8
	cleanCR2        = 1 << 9
	cleanAll        = 1<<10 - 1
)

// EVENTINJ and EXITINTINFO (APM 15.20, 15.7.2).
const (
	eventError = 1 << 11
	eventValid = 1 << 31
	eventType  = 7 << 8 // 0: external interrupt
)

// Nested page faults' EXITINFO1 (APM 15.25.6).
const (
	npfPresent  = 1 << 0
	npfWrite    = 1 << 1
	npfReserved = 1 << 3
	npfFetch    = 1 << 4
	npfWalk     = 1 << 33
)
