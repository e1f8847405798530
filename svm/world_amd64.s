#include "go_asm.h"
#include "textflag.h"

#define VMRUN	BYTE $0x0f; BYTE $0x01; BYTE $0xd8
#define VMLOAD	BYTE $0x0f; BYTE $0x01; BYTE $0xda
#define VMSAVE	BYTE $0x0f; BYTE $0x01; BYTE $0xdb
#define STGI	BYTE $0x0f; BYTE $0x01; BYTE $0xdc
#define CLGI	BYTE $0x0f; BYTE $0x01; BYTE $0xdd
#define XSETBV	BYTE $0x0f; BYTE $0x01; BYTE $0xd1
#define XGETBV	BYTE $0x0f; BYTE $0x01; BYTE $0xd0
#define XSAVE_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x23
#define XSAVEOPT_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x33
#define XRSTOR_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x2b

#define LFENCE_	BYTE $0x0f; BYTE $0xae; BYTE $0xe8

// CALL_OVER is a call of the place behind the INT3 that follows it, which only a
// misled return would reach.
#define CALL_OVER	BYTE $0xe8; LONG $1; BYTE $0xcc
#define CALL_OVER_8	CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER

// FILL_RETURNS takes all places of the processor's return stack, which has 32 at most.
#define FILL_RETURNS \
	CALL_OVER_8; CALL_OVER_8; CALL_OVER_8; CALL_OVER_8; \
	BYTE $0x48; BYTE $0x81; BYTE $0xc4; LONG $0x100 // add rsp, 256

#define GPR(n) (world_regs+8*n)

// The guest's registers but RAX and RSP, from the world at DI. It changes no flags.
#define LOAD_GUEST \
	MOVQ	GPR(1)(DI), CX; \
	MOVQ	GPR(2)(DI), DX; \
	MOVQ	GPR(3)(DI), BX; \
	MOVQ	GPR(5)(DI), BP; \
	MOVQ	GPR(6)(DI), SI; \
	MOVQ	GPR(8)(DI), R8; \
	MOVQ	GPR(9)(DI), R9; \
	MOVQ	GPR(10)(DI), R10; \
	MOVQ	GPR(11)(DI), R11; \
	MOVQ	GPR(12)(DI), R12; \
	MOVQ	GPR(13)(DI), R13; \
	MOVQ	GPR(14)(DI), R14; \
	MOVQ	GPR(15)(DI), R15; \
	MOVQ	GPR(7)(DI), DI

// func enter(w *world)
//
// The stack holds what the guest's registers would overwrite: 0 w, 8 the guest's
// RDI in passing, 16 MXCSR, 20 the x87 control word. RSP itself, RAX, RIP and RFLAGS
// are switched by VMRUN through the VMCB and the host save area; FS, GS, TR, LDTR
// and the system-call MSRs by VMLOAD and VMSAVE. Nothing between the first VMLOAD
// and the last may use FS or GS.
TEXT ·enter(SB), NOSPLIT, $24-8
	MOVQ	w+0(FP), DI
	MOVQ	DI, 0(SP)
	STMXCSR	16(SP)
	BYTE $0xd9; BYTE $0x7c; BYTE $0x24; BYTE $0x14	// FNSTCW 20(SP)

	MOVQ	world_xsave(DI), BX
	MOVL	world_xmask(DI), AX
	XORL	DX, DX
	XRSTOR_BX
	MOVQ	world_gxcr0(DI), AX
	CMPQ	AX, world_hxcr0(DI)
	JEQ	sameIn
	XORL	CX, CX
	XSETBV
sameIn:
	// VMRUN loads CR2 from the VMCB, but not in Bochs 2.7. It seldom differs: only
	// a page fault of the host changes it between an exit and the next entry.
	MOVQ	CR2, AX
	CMPQ	AX, world_cr2(DI)
	JEQ	sameCR2
	MOVQ	world_cr2(DI), AX
	MOVQ	AX, CR2
sameCR2:
	CLGI
	STI	// physical interrupts end the guest: VMRUN saves this IF
	MOVQ	world_host(DI), AX
	VMSAVE
	MOVQ	world_vmcb(DI), AX
	VMLOAD
	CMPQ	world_scrub(DI), $0
	JNE	scrub
	LOAD_GUEST
	VMRUN
exited:
	VMSAVE	// RAX is the VMCB's address again
	MOVQ	DI, 8(SP)
	MOVQ	0(SP), DI
	MOVQ	CX, GPR(1)(DI)
	MOVQ	DX, GPR(2)(DI)
	MOVQ	BX, GPR(3)(DI)
	MOVQ	BP, GPR(5)(DI)
	MOVQ	SI, GPR(6)(DI)
	MOVQ	R8, GPR(8)(DI)
	MOVQ	R9, GPR(9)(DI)
	MOVQ	R10, GPR(10)(DI)
	MOVQ	R11, GPR(11)(DI)
	MOVQ	R12, GPR(12)(DI)
	MOVQ	R13, GPR(13)(DI)
	MOVQ	R14, GPR(14)(DI)
	MOVQ	R15, GPR(15)(DI)
	MOVQ	8(SP), BX
	MOVQ	BX, GPR(7)(DI)
	// Nothing of the guest's stays where the host's code could be misled to use it. BX
	// and DX are given other values below, before the first return.
	XORL	CX, CX
	XORL	BP, BP
	XORL	SI, SI
	XORL	R8, R8
	XORL	R9, R9
	XORL	R10, R10
	XORL	R11, R11
	XORL	R12, R12
	XORL	R13, R13
	XORL	R14, R14
	XORL	R15, R15
	// What world.fence says (x86.Fence) stands before the first return, and interrupts,
	// NMIs and machine checks wait until STGI. IBPB leaves the return stack alone before
	// Zen 4 (APM vol. 3, E.4.7, IBPB_RET), so it is filled after it.
	CMPQ	world_fence(DI), $const_fenceReturns
	JCS	filled
	JEQ	fill
	MOVL	$const_msrPredCmd, CX
	MOVL	$const_predIBPB, AX
	XORL	DX, DX
	WRMSR
	XORL	CX, CX
fill:
	FILL_RETURNS
filled:
	LFENCE_	// whichever way the jump was predicted: before the first return
	MOVQ	world_host(DI), AX
	VMLOAD
	CLI
	STGI

	CMPQ	world_spy(DI), $0
	JEQ	trust
	XGETBV	// CX is 0
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, world_gxcr0(DI)
trust:
	MOVQ	world_hxcr0(DI), AX
	CMPQ	AX, world_gxcr0(DI)
	JEQ	sameOut
	XORL	CX, CX
	XORL	DX, DX
	XSETBV
sameOut:
	MOVQ	world_xsave(DI), BX
	MOVL	world_xmask(DI), AX
	XORL	DX, DX
	CMPQ	world_opt(DI), $0
	JNE	opt
	XSAVE_BX
	JMP	saved
opt:
	XSAVEOPT_BX
saved:
	// The guest may have left an unmasked x87 exception pending: FNINIT does
	// not wait for it, FLDCW would.
	BYTE $0xdb; BYTE $0xe3				// FNINIT
	BYTE $0xd9; BYTE $0x6c; BYTE $0x24; BYTE $0x14	// FLDCW 20(SP)
	LDMXCSR	16(SP)
	RET

	// The division comes while the host's values are still there to be divided, VERW when
	// no register holds any of them.
scrub:
	MOVL	$1, AX
	BYTE $0xf6; BYTE $0xf0	// DIV AL
	MOVQ	world_vmcb(DI), AX
	LOAD_GUEST
	VERW	·verwSelector(SB)
	VMRUN
	JMP	exited

// func loadDR(dr *[4]uint64)
TEXT ·loadDR(SB), NOSPLIT, $0-8
	MOVQ	dr+0(FP), DI
	MOVQ	0(DI), AX
	BYTE $0x0f; BYTE $0x23; BYTE $0xc0	// MOV DR0, RAX
	MOVQ	8(DI), AX
	BYTE $0x0f; BYTE $0x23; BYTE $0xc8	// MOV DR1, RAX
	MOVQ	16(DI), AX
	BYTE $0x0f; BYTE $0x23; BYTE $0xd0	// MOV DR2, RAX
	MOVQ	24(DI), AX
	BYTE $0x0f; BYTE $0x23; BYTE $0xd8	// MOV DR3, RAX
	RET

// func saveDR(dr *[4]uint64)
TEXT ·saveDR(SB), NOSPLIT, $0-8
	MOVQ	dr+0(FP), DI
	BYTE $0x0f; BYTE $0x21; BYTE $0xc0	// MOV RAX, DR0
	MOVQ	AX, 0(DI)
	BYTE $0x0f; BYTE $0x21; BYTE $0xc8	// MOV RAX, DR1
	MOVQ	AX, 8(DI)
	BYTE $0x0f; BYTE $0x21; BYTE $0xd0	// MOV RAX, DR2
	MOVQ	AX, 16(DI)
	BYTE $0x0f; BYTE $0x21; BYTE $0xd8	// MOV RAX, DR3
	MOVQ	AX, 24(DI)
	RET

// func xgetbv() uint64
TEXT ·xgetbv(SB), NOSPLIT, $0-8
	XORL	CX, CX
	XGETBV
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET

// func machineCheck()
TEXT ·machineCheck(SB), NOSPLIT, $0-0
	INT	$18
	RET
