#include "go_asm.h"
#include "textflag.h"

// Instructions that Go's assembler does not know.
#define VMREAD_AX_BX	BYTE $0x0f; BYTE $0x78; BYTE $0xc3             // vmread rbx, rax
#define VMWRITE_AX_BX	BYTE $0x0f; BYTE $0x79; BYTE $0xc3             // vmwrite rax, rbx
#define VMWRITE_AX_SP	BYTE $0x0f; BYTE $0x79; BYTE $0xc4             // vmwrite rax, rsp
#define VMLAUNCH	BYTE $0x0f; BYTE $0x01; BYTE $0xc2
#define VMRESUME	BYTE $0x0f; BYTE $0x01; BYTE $0xc3
#define VMPTRLD_BX	BYTE $0x0f; BYTE $0xc7; BYTE $0x33             // vmptrld [rbx]
#define VMCLEAR_BX	BYTE $0x66; BYTE $0x0f; BYTE $0xc7; BYTE $0x33 // vmclear [rbx]
#define VMXON_BX	BYTE $0xf3; BYTE $0x0f; BYTE $0xc7; BYTE $0x33 // vmxon [rbx]
#define INVEPT_AX_BX	BYTE $0x66; BYTE $0x0f; BYTE $0x38; BYTE $0x80; BYTE $0x03
#define INVVPID_AX_BX	BYTE $0x66; BYTE $0x0f; BYTE $0x38; BYTE $0x81; BYTE $0x03
#define XSAVE64_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x23 // xsave64 [rbx]
#define XRSTOR64_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x2b // xrstor64 [rbx]
#define FXSAVE64_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x03 // fxsave64 [rbx]
#define FXRSTOR64_BX	BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x0b // fxrstor64 [rbx]
#define XSETBV_		BYTE $0x0f; BYTE $0x01; BYTE $0xd1
#define XGETBV_		BYTE $0x0f; BYTE $0x01; BYTE $0xd0

#define LFENCE_		BYTE $0x0f; BYTE $0xae; BYTE $0xe8
#define MSR_SPEC_CTRL	0x48

// CALL_OVER is a call of the place behind the INT3 that follows it, which only a
// misled return would reach.
#define CALL_OVER	BYTE $0xe8; LONG $1; BYTE $0xcc
#define CALL_OVER_8	CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER; CALL_OVER

// FILL_RETURNS takes all places of the processor's return stack, which has 32 at most.
#define FILL_RETURNS \
	CALL_OVER_8; CALL_OVER_8; CALL_OVER_8; CALL_OVER_8; \
	BYTE $0x48; BYTE $0x81; BYTE $0xc4; LONG $0x100 // add rsp, 256

#define HOST_RSP	0x6c14

// The guest's registers but RSP, from the frame at R15. It changes no flags.
#define LOAD_GUEST \
	MOVQ	(0*8)(R15), AX; \
	MOVQ	(1*8)(R15), CX; \
	MOVQ	(2*8)(R15), DX; \
	MOVQ	(3*8)(R15), BX; \
	MOVQ	(5*8)(R15), BP; \
	MOVQ	(6*8)(R15), SI; \
	MOVQ	(7*8)(R15), DI; \
	MOVQ	(8*8)(R15), R8; \
	MOVQ	(9*8)(R15), R9; \
	MOVQ	(10*8)(R15), R10; \
	MOVQ	(11*8)(R15), R11; \
	MOVQ	(12*8)(R15), R12; \
	MOVQ	(13*8)(R15), R13; \
	MOVQ	(14*8)(R15), R14; \
	MOVQ	(15*8)(R15), R15

// AX, CX and DX are lost.
#define SET_XCR0(from) \
	MOVL	from(R15), AX; \
	MOVL	(from+4)(R15), DX; \
	XORL	CX, CX; \
	XSETBV_

// func worldSwitch(f *frame) entryStatus
//
// The stack, from HOST_RSP up: f, MXCSR and x87 control word, BP, return address.
// Everything but that, SP, and what the VMCS restores is the guest's on the way
// back. Vector registers are not the caller's (ABI0).
TEXT ·worldSwitch(SB),NOSPLIT|NOFRAME,$0-16
	MOVQ	f+0(FP), R15
	PUSHQ	BP
	SUBQ	$16, SP
	STMXCSR	8(SP)
	FSTCW	12(SP)
	MOVQ	R15, 0(SP)

	// VMX leaves the stack pointer to us.
	CMPQ	frame_hostRSP(R15), SP
	JEQ	vector
	MOVQ	SP, frame_hostRSP(R15)
	MOVQ	$HOST_RSP, AX
	VMWRITE_AX_SP

vector:
	MOVQ	frame_xarea(R15), BX
	MOVQ	frame_xmask(R15), SI
	TESTQ	SI, SI
	JEQ	legacy
	CMPQ	SI, frame_xhost(R15)
	JEQ	restore
	SET_XCR0(frame_xmask)
restore:
	MOVL	frame_xmask(R15), AX
	MOVL	(frame_xmask+4)(R15), DX
	XRSTOR64_BX
	CMPQ	SI, frame_xguest(R15)
	JEQ	general
	SET_XCR0(frame_xguest)
	JMP	general
legacy:
	FXRSTOR64_BX

general:
	MOVQ	frame_cr2(R15), AX
	MOVQ	AX, CR2
	CMPQ	frame_fence(R15), $const_fenceIBRS
	JNE	ready
	MOVL	frame_spec(R15), AX // without IBRS if the guest does not ask: it would cost much
	XORL	DX, DX
	MOVL	$MSR_SPEC_CTRL, CX
	WRMSR
ready:
	CMPQ	frame_verw(R15), $0
	JNE	clearing
	CMPQ	frame_launched(R15), $0
	LOAD_GUEST
	JNE	resume
	VMLAUNCH
	JMP	failed
resume:
	VMRESUME
	JMP	failed

	// VERW is last, when no register holds anything of the host's: what it clears of
	// register files are the values that were replaced (Intel, "Register File Data
	// Sampling"). It changes ZF and no other flag.
clearing:
	CMPQ	frame_launched(R15), $1
	LOAD_GUEST
	VERW	·verwSelector(SB)
	JCC	again
	VMLAUNCH
	JMP	failed
again:
	VMRESUME

	// VMfail: the registers are still the guest's, as loaded. CF says that there
	// is no current VMCS, ZF that the error field tells more (SDM vol. 3, 30.2).
failed:
	MOVL	$const_failInvalid, BX
	JCS	2(PC)
	MOVL	$const_failValid, BX
	MOVQ	0(SP), R15
	JMP	·hostWorld(SB)

// exitGuest is where VM exits land: SP is what worldSwitch left.
TEXT ·exitGuest(SB),NOSPLIT|NOFRAME,$0
	PUSHQ	R15
	MOVQ	8(SP), R15
	MOVQ	AX, (0*8)(R15)
	MOVQ	CX, (1*8)(R15)
	MOVQ	DX, (2*8)(R15)
	MOVQ	BX, (3*8)(R15)
	MOVQ	BP, (5*8)(R15)
	MOVQ	SI, (6*8)(R15)
	MOVQ	DI, (7*8)(R15)
	MOVQ	R8, (8*8)(R15)
	MOVQ	R9, (9*8)(R15)
	MOVQ	R10, (10*8)(R15)
	MOVQ	R11, (11*8)(R15)
	MOVQ	R12, (12*8)(R15)
	MOVQ	R13, (13*8)(R15)
	MOVQ	R14, (14*8)(R15)
	POPQ	AX
	MOVQ	AX, (15*8)(R15)
	MOVQ	CR2, AX
	MOVQ	AX, frame_cr2(R15)
	XORL	BX, BX // entered
	JMP	·hostWorld(SB)

// hostWorld puts the host's vector state back and returns BX from worldSwitch. Of the
// guest's registers nothing stays where the host's code could be misled to use it, and
// what frame.fence says (x86.Fence) stands before the first return. The last LFENCE is
// for all ways: a jump that was predicted wrongly does not get past it.
TEXT ·hostWorld(SB),NOSPLIT|NOFRAME,$0
	MOVL	BX, R14
	XORL	AX, AX
	XORL	CX, CX
	XORL	DX, DX
	XORL	SI, SI
	XORL	DI, DI
	XORL	R8, R8
	XORL	R9, R9
	XORL	R10, R10
	XORL	R11, R11
	XORL	R12, R12
	XORL	R13, R13
	CMPQ	frame_fence(R15), $const_fenceNone
	JEQ	fenced
	CMPQ	frame_fence(R15), $const_fenceReturns
	JCS	calls
	JEQ	returns
	CMPQ	frame_fence(R15), $const_fenceIBRS
	JHI	barrier
	FILL_RETURNS
	MOVL	$MSR_SPEC_CTRL, CX
	CMPQ	frame_keep(R15), $0
	JEQ	ours
	RDMSR
	MOVL	AX, frame_spec(R15)
	XORL	DX, DX
ours:
	MOVL	$const_specIBRS, AX
	WRMSR
	JMP	fenced
returns:
	FILL_RETURNS
	JMP	fenced
barrier: // it does not clear the history, nor does it keep from PBRSB
	MOVL	$const_msrPredCmd, CX
	MOVL	$const_predIBPB, AX
	WRMSR
	JMP	history
calls:
	CMPQ	frame_fence(R15), $const_fenceHistory
	JNE	one
history:
	CALL_OVER
	BYTE	$0x48; BYTE $0x83; BYTE $0xc4; BYTE $0x08 // add rsp, 8
	LFENCE_
	CALL	·spendHistory(SB)
	JMP	fenced
one:
	CALL_OVER
	BYTE	$0x48; BYTE $0x83; BYTE $0xc4; BYTE $0x08 // add rsp, 8
fenced:
	MOVQ	16(SP), BP
	LFENCE_
	MOVQ	frame_xarea(R15), BX
	MOVQ	frame_xmask(R15), SI
	TESTQ	SI, SI
	JEQ	legacy
	CMPQ	SI, frame_xguest(R15)
	JEQ	save
	SET_XCR0(frame_xmask)
save:
	MOVL	frame_xmask(R15), AX
	MOVL	(frame_xmask+4)(R15), DX
	XSAVE64_BX
	CMPQ	SI, frame_xhost(R15)
	JEQ	control
	SET_XCR0(frame_xhost)
	JMP	control
legacy:
	FXSAVE64_BX
control:
	// The guest may have left an unmasked x87 exception pending, which FLDCW
	// would raise here: FNINIT drops it.
	BYTE	$0xdb; BYTE $0xe3 // fninit
	FLDCW	12(SP)
	LDMXCSR	8(SP)
	ADDQ	$24, SP // to the return address
	CLD
	MOVQ	R14, 16(SP)
	RET

// func spendHistory()
//
// Taken branches that take the place of all those before in the processor's history:
// calls five deep, and behind each a loop that jumps five times. Intel's sequence for the
// processors before BHI_CTRL has this shape and 62 of them ("Branch History Injection",
// software BHB-clearing sequence, the short one; the long one, twelve and seven, is for
// those with BHI_CTRL, which get BHI_DIS_S here); here are 63. The calls keep a loop from
// being run by what is no branch predictor. The LFENCE that must follow is the caller's.
// The stack grows by 56 bytes. AX and CX are lost.
TEXT ·spendHistory(SB),NOSPLIT|NOFRAME,$0-0
	MOVL	$5, CX
	CALL	·fiveDeep(SB)
	RET

// func fiveDeep()
TEXT ·fiveDeep(SB),NOSPLIT|NOFRAME,$0-0
deeper:
	BYTE	$0xe8; LONG $1 // call of what follows the return
	BYTE	$0xc3
	MOVL	$5, AX
next:
	BYTE	$0xeb; BYTE $0x01; BYTE $0xcc // jmp over an int3
	SUBL	$1, AX
	JNE	next
	SUBL	$1, CX
	JNE	deeper
	RET

// func exitAddress() uint64
TEXT ·exitAddress(SB),NOSPLIT,$0-8
	MOVQ	$·exitGuest(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// func vmread(f uint64) (v uint64, ok bool)
TEXT ·vmread(SB),NOSPLIT,$0-17
	MOVQ	f+0(FP), AX
	XORL	BX, BX
	VMREAD_AX_BX
	SETHI	ok+16(FP)
	MOVQ	BX, v+8(FP)
	RET

// func vmwrite(f, v uint64) (ok bool)
TEXT ·vmwrite(SB),NOSPLIT,$0-17
	MOVQ	f+0(FP), AX
	MOVQ	v+8(FP), BX
	VMWRITE_AX_BX
	SETHI	ok+16(FP)
	RET

// func vmptrld(phys *uint64) (ok bool)
TEXT ·vmptrld(SB),NOSPLIT,$0-9
	MOVQ	phys+0(FP), BX
	VMPTRLD_BX
	SETHI	ok+8(FP)
	RET

// func vmclear(phys *uint64) (ok bool)
TEXT ·vmclear(SB),NOSPLIT,$0-9
	MOVQ	phys+0(FP), BX
	VMCLEAR_BX
	SETHI	ok+8(FP)
	RET

// func vmxon(phys *uint64) (ok bool)
TEXT ·vmxon(SB),NOSPLIT,$0-9
	MOVQ	phys+0(FP), BX
	VMXON_BX
	SETHI	ok+8(FP)
	RET

// func invept(kind uint64, desc *[2]uint64) (ok bool)
TEXT ·invept(SB),NOSPLIT,$0-17
	MOVQ	kind+0(FP), AX
	MOVQ	desc+8(FP), BX
	INVEPT_AX_BX
	SETHI	ok+16(FP)
	RET

// func invvpid(kind uint64, desc *[2]uint64) (ok bool)
TEXT ·invvpid(SB),NOSPLIT,$0-17
	MOVQ	kind+0(FP), AX
	MOVQ	desc+8(FP), BX
	INVVPID_AX_BX
	SETHI	ok+16(FP)
	RET

// func setDR(dr *debugRegs)
TEXT ·setDR(SB),NOSPLIT,$0-8
	MOVQ	dr+0(FP), BX
	MOVQ	debugRegs_dr0(BX), AX
	MOVQ	AX, DR0
	MOVQ	debugRegs_dr1(BX), AX
	BYTE	$0x0f; BYTE $0x23; BYTE $0xc8 // mov dr1, rax
	MOVQ	debugRegs_dr2(BX), AX
	MOVQ	AX, DR2
	MOVQ	debugRegs_dr3(BX), AX
	MOVQ	AX, DR3
	MOVQ	debugRegs_dr6(BX), AX
	MOVQ	AX, DR6
	RET

// func getDR(dr *debugRegs)
TEXT ·getDR(SB),NOSPLIT,$0-8
	MOVQ	dr+0(FP), BX
	MOVQ	DR0, AX
	MOVQ	AX, debugRegs_dr0(BX)
	BYTE	$0x0f; BYTE $0x21; BYTE $0xc8 // mov rax, dr1
	MOVQ	AX, debugRegs_dr1(BX)
	MOVQ	DR2, AX
	MOVQ	AX, debugRegs_dr2(BX)
	MOVQ	DR3, AX
	MOVQ	AX, debugRegs_dr3(BX)
	MOVQ	DR6, AX
	MOVQ	AX, debugRegs_dr6(BX)
	RET

// func orCR0CR4(cr0, cr4 uint64)
TEXT ·orCR0CR4(SB),NOSPLIT,$0-16
	MOVQ	CR0, AX
	ORQ	cr0+0(FP), AX
	MOVQ	AX, CR0
	MOVQ	CR4, AX
	ORQ	cr4+8(FP), AX
	MOVQ	AX, CR4
	RET

// func readCR4() uint64
TEXT ·readCR4(SB),NOSPLIT,$0-8
	MOVQ	CR4, AX
	MOVQ	AX, ret+0(FP)
	RET

// func xgetbv0() uint64
TEXT ·xgetbv0(SB),NOSPLIT,$0-8
	XORL	CX, CX
	XGETBV_
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET

// func intNMI()
TEXT ·intNMI(SB),NOSPLIT,$0-0
	INT	$2
	RET

// func intMC()
TEXT ·intMC(SB),NOSPLIT,$0-0
	INT	$18
	RET

// func fxsave(area *[512]byte)
TEXT ·fxsave(SB),NOSPLIT,$0-8
	MOVQ	area+0(FP), BX
	FXSAVE64_BX
	RET
