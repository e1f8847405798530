#include "go_asm.h"
#include "textflag.h"

// The ways into the kernel and out of it. Everything runs in ring 0, so SYSCALL
// and interrupts change neither the stack selector nor, for SYSCALL, the stack:
// the entries below do. Handlers are ordinary Go functions; they run on the
// current thread's kernel stack with interrupts off and with FS pointing at
// handlerTLS, whose g (handlerG) is all zeroes, so that no stack check ever
// grows a stack.

// Fields of type cpu, at GS. percpu.go asserts the offsets.
#define CPU_KTOP 8
#define CPU_USP  16
#define CPU_UFS  24

#define MSR_FS_BASE 0xC0000100
#define MSR_GS_BASE 0xC0000101
#define MSR_SPEC_CTRL 0x48

// SETFS sets the FS base to AX. Clobbers CX and DX.
#define SETFS(l1, l2) \
	CMPB ·haveFSGSBASE(SB), $0; \
	JEQ  l1; \
	WRFSBASEQ AX; \
	JMP  l2; \
l1:	MOVQ AX, DX; \
	SHRQ $32, DX; \
	MOVL $MSR_FS_BASE, CX; \
	WRMSR; \
l2:

// SETMSR sets an MSR to AX by WRMSR. Clobbers CX and DX.
#define SETMSR(msr) \
	MOVQ AX, DX; \
	SHRQ $32, DX; \
	MOVL $msr, CX; \
	WRMSR

// The general registers in the order sysFrame and trapFrame begin with.
#define SAVEREGS \
	MOVQ AX, 0(SP); MOVQ BX, 8(SP); MOVQ CX, 16(SP); MOVQ DX, 24(SP); MOVQ SI, 32(SP); \
	MOVQ DI, 40(SP); MOVQ BP, 48(SP); MOVQ R8, 56(SP); MOVQ R9, 64(SP); MOVQ R10, 72(SP); \
	MOVQ R11, 80(SP); MOVQ R12, 88(SP); MOVQ R13, 96(SP); MOVQ R14, 104(SP); MOVQ R15, 112(SP)

#define LOADREGS \
	MOVQ 0(SP), AX; MOVQ 8(SP), BX; MOVQ 16(SP), CX; MOVQ 24(SP), DX; MOVQ 32(SP), SI; \
	MOVQ 40(SP), DI; MOVQ 48(SP), BP; MOVQ 56(SP), R8; MOVQ 64(SP), R9; MOVQ 72(SP), R10; \
	MOVQ 80(SP), R11; MOVQ 88(SP), R12; MOVQ 96(SP), R13; MOVQ 104(SP), R14; MOVQ 112(SP), R15

// Handlers' frame pointers end here.
#define NOFRAMES XORL BP, BP

// Entry is where the boot stub jumps: long mode, interrupts off, RDI = physical
// address of the boot information, RSI = its magic.
TEXT ·Entry(SB), NOSPLIT|NOFRAME, $0
	CLI
	CLD
	MOVQ $·bootStack+const_bootStackSize(SB), SP
	MOVQ DI, R12
	MOVQ SI, R13
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	MOVQ $·handlerG(SB), BX
	MOVQ BX, -8(AX)
	SETMSR(MSR_FS_BASE)
	MOVQ $·bootCPU(SB), AX
	MOVQ AX, (AX)
	SETMSR(MSR_GS_BASE)
	XORPS X15, X15
	NOFRAMES
	SUBQ $16, SP
	MOVQ R12, 0(SP)
	MOVQ R13, 8(SP)
	CALL ·start(SB)
	INT  $3

// func enterRuntime(sp uintptr)
//
// Becomes the Go runtime's first thread, with its arguments at sp.
TEXT ·enterRuntime(SB), NOSPLIT|NOFRAME, $0-8
	MOVQ 8(SP), SP
	NOFRAMES
	STI
	JMP  _rt0_amd64_linux(SB)

// apEntry is where the trampoline jumps on every further CPU: RDI = its cpu
// structure, SP = its idle thread's stack.
TEXT ·apEntry(SB), NOSPLIT|NOFRAME, $0
	MOVQ DI, AX
	SETMSR(MSR_GS_BASE)
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	SETMSR(MSR_FS_BASE)
	XORPS X15, X15
	NOFRAMES
	CALL ·startAPCPU(SB)
	INT  $3

// syscallEntry is LSTAR's target: RCX = return address, R11 = RFLAGS, SP still
// the caller's. It builds a sysFrame.
TEXT ·syscallEntry(SB), NOSPLIT|NOFRAME, $0
	MOVQ SP, CPU_USP(GS)
	MOVQ CPU_KTOP(GS), SP
	LEAQ -const_sysFrameSize(SP), SP
	CMPQ AX, $const_sysPrivileged
	JEQ  privileged
	SAVEREGS
	MOVQ CPU_USP(GS), AX
	MOVQ AX, 120(SP)
	MOVQ $0, 128(SP)
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	SETFS(slow, set)
	XORPS X15, X15
	MOVQ SP, AX
	SUBQ $16, SP
	MOVQ AX, 0(SP)
	NOFRAMES
	CALL ·handleSyscall(SB)
	ADDQ $16, SP
	JMP  ·syscallReturn(SB)

privileged: // callers are Go's functions, which keep no register but these
	MOVQ CX, 16(SP)
	MOVQ SI, 32(SP)
	MOVQ DI, 40(SP)
	MOVQ BP, 48(SP)
	MOVQ R11, 80(SP)
	MOVQ R14, 104(SP)
	MOVQ CPU_USP(GS), AX
	MOVQ AX, 120(SP)
	MOVQ $0, 128(SP)
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	SETFS(pslow, pset)
	XORPS X15, X15
	MOVQ SP, AX
	SUBQ $16, SP
	MOVQ AX, 0(SP)
	NOFRAMES
	CALL ·handlePrivileged(SB)
	ADDQ $16, SP
	CMPQ 128(SP), $0
	JEQ  back
	JMP  ·syscallReturn(SB) // to a signal handler
back:
	MOVQ CPU_UFS(GS), AX
	SETFS(rslow, rset)
	XORPS X15, X15
	XORL AX, AX
	MOVQ 16(SP), CX
	MOVQ 48(SP), BP
	MOVQ 80(SP), R11
	MOVQ 104(SP), R14
	MOVQ 120(SP), SP
	PUSHQ R11
	POPFQ
	JMP  CX

// syscallReturn leaves the kernel by the sysFrame at SP.
TEXT ·syscallReturn(SB), NOSPLIT|NOFRAME, $0
	MOVQ CPU_UFS(GS), AX
	SETFS(slow, set)
	XORPS X15, X15
	MOVQ 128(SP), BX
	TESTQ BX, BX
	JNE  full
	LOADREGS
	MOVQ 120(SP), SP
	PUSHQ R11
	POPFQ
	JMP  CX

full: // a signal handler begins or ends: every register comes from the frame
	CMPQ BX, $1
	JEQ  regs
	CMPB ·haveXSAVE(SB), $0
	JEQ  fx
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64 (BX)
	JMP  regs
fx:
	FXRSTOR64 (BX)
regs:
	LOADREGS
	LEAQ 136(SP), SP
	IRETQ

// func privilegedCall(fn uintptr, arg unsafe.Pointer)
//
// The kernel changes no register but AX, RCX and R11.
TEXT ·privilegedCall(SB), NOSPLIT, $0-16
	MOVQ fn+0(FP), DI
	MOVQ arg+8(FP), SI
	MOVQ $const_sysPrivileged, AX
	SYSCALL
	RET

// newThreadReturn is a cloned thread's first step: switchStack returns here with
// SP at its sysFrame.
TEXT ·newThreadReturn(SB), NOSPLIT|NOFRAME, $0
	CALL ·finishSwitch(SB)
	JMP  ·syscallReturn(SB)

// idleEntry is an idle thread's first step on the boot CPU.
TEXT ·idleEntry(SB), NOSPLIT|NOFRAME, $0
	CALL ·finishSwitch(SB)
	CALL ·idleLoop(SB)
	INT  $3

// func switchStack(from *uintptr, to uintptr)
//
// All registers but SP and BP are the caller's to save in Go's ABI0.
TEXT ·switchStack(SB), NOSPLIT|NOFRAME, $0-16
	MOVQ 8(SP), AX
	MOVQ 16(SP), BX
	PUSHQ BP
	MOVQ SP, (AX)
	MOVQ BX, SP
	POPQ BP
	RET

// trapCommon continues every vector: the stub pushed the vector on top of the
// error code (or 0) and the hardware's frame. It builds a trapFrame and above it
// saves the vector state, which the interrupted code may be using.
TEXT ·trapCommon(SB), NOSPLIT|NOFRAME, $0
	LEAQ -128(SP), SP
	SAVEREGS
	CLD
	CMPB ·haveFSGSBASE(SB), $0
	JEQ  rd
	RDFSBASEQ AX
	MOVQ AX, 120(SP)
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	WRFSBASEQ AX
	JMP  fsok
rd:
	MOVL $MSR_FS_BASE, CX
	RDMSR
	SHLQ $32, DX
	MOVL AX, AX
	ORQ  DX, AX
	MOVQ AX, 120(SP)
	MOVQ $·handlerTLS+const_tlsOffset(SB), AX
	SETMSR(MSR_FS_BASE)
fsok:
	MOVQ SP, BX
	CMPQ 128(SP), $const_vecNMI
	JEQ  anywhere
	CMPQ 128(SP), $const_vecMachineCheck
	JEQ  anywhere
	SUBQ ·xsaveSize(SB), SP
	ANDQ $~63, SP
	CMPB ·haveXSAVE(SB), $0
	JEQ  fx
	XORL AX, AX // XRSTOR faults unless the header's reserved part is zero
	MOVQ AX, 512(SP)
	MOVQ AX, 520(SP)
	MOVQ AX, 528(SP)
	MOVQ AX, 536(SP)
	MOVQ AX, 544(SP)
	MOVQ AX, 552(SP)
	MOVQ AX, 560(SP)
	MOVQ AX, 568(SP)
	MOVL $-1, AX
	MOVL $-1, DX
	XSAVE64 (SP)
	JMP  saved
anywhere:
	JMP  ·trapAnywhere(SB)
fx:
	FXSAVE64 (SP)
saved:
	MOVQ SP, AX
	SUBQ $32, SP
	MOVQ BX, 0(SP)
	MOVQ AX, 8(SP)
	MOVQ BX, 16(SP)
	XORPS X15, X15
	NOFRAMES
	CALL ·handleTrap(SB)
	MOVQ 16(SP), BX
	ADDQ $32, SP
	CMPB ·haveXSAVE(SB), $0
	JEQ  fr
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64 (SP)
	JMP  restored
fr:
	FXRSTOR64 (SP)
restored:
	MOVQ BX, SP
	MOVQ 120(SP), AX
	SETFS(slow, set)
	LOADREGS
	LEAQ 144(SP), SP
	IRETQ

#define XSETBV BYTE $0x0f; BYTE $0x01; BYTE $0xd1
#define XGETBV BYTE $0x0f; BYTE $0x01; BYTE $0xd0

// SETXCR0 loads XCR0 from a variable. AX, CX and DX are lost.
#define SETXCR0(v) XORL CX, CX; MOVL v(SB), AX; MOVL v+4(SB), DX; XSETBV

// trapAnywhere goes on from trapCommon for what no flag holds off: NMIs and machine
// checks come also in a switch to a guest or back, where XCR0 and the vector registers
// are the guest's. BX is SP, at the trapFrame.
//
// Nor does anything hold them off between an exit from a guest and the fence behind it,
// on VT-x: so they begin with one of their own (FenceNMIs).
//
// SPEC_CTRL, if it is what the fence writes, is put back before the end: it may be the
// guest's, just loaded or not yet read. R15 tells that R14 holds it.
TEXT ·trapAnywhere(SB), NOSPLIT|NOFRAME, $0
	XORL R15, R15
	CMPL ·nmiFence(SB), $0
	JEQ  parted
	MOVL $32, CX // places of the return stack, at most
fill:
	BYTE $0xe8; LONG $1; BYTE $0xcc // call of what follows the INT3
	SUBL $1, CX
	JNE  fill
	ADDQ $256, SP
	MOVL ·nmiMSR(SB), CX
	CMPL CX, $0
	JEQ  parted
	CMPL CX, $MSR_SPEC_CTRL
	JNE  order
	RDMSR
	MOVL AX, R14
	MOVL $1, R15
order:
	MOVL ·nmiValue(SB), AX
	XORL DX, DX
	WRMSR
parted:
	BYTE $0x0f; BYTE $0xae; BYTE $0xe8 // LFENCE
	XORL R12, R12
	XORL R13, R13
	SUBQ ·xsaveMost(SB), SP
	ANDQ $~63, SP
	CMPB ·haveXSAVE(SB), $0
	JEQ  fx
	XORL CX, CX
	XGETBV
	MOVL AX, R12
	MOVL DX, R13
	SETXCR0(·xcr0Most)
	XORL AX, AX // XRSTOR faults unless the header's reserved part is zero
	MOVQ AX, 512(SP)
	MOVQ AX, 520(SP)
	MOVQ AX, 528(SP)
	MOVQ AX, 536(SP)
	MOVQ AX, 544(SP)
	MOVQ AX, 552(SP)
	MOVQ AX, 560(SP)
	MOVQ AX, 568(SP)
	MOVL $-1, AX
	MOVL $-1, DX
	XSAVE64 (SP)
	SETXCR0(·xcr0)
	JMP  saved
fx:
	FXSAVE64 (SP)
saved:
	MOVQ SP, AX
	SUBQ $64, SP
	MOVQ BX, 0(SP)
	MOVQ AX, 8(SP)
	MOVQ BX, 16(SP)
	MOVQ R12, 24(SP)
	MOVQ R13, 32(SP)
	MOVQ R14, 40(SP)
	MOVQ R15, 48(SP)
	XORPS X15, X15
	NOFRAMES
	CALL ·handleTrap(SB)
	MOVQ 16(SP), BX
	MOVQ 24(SP), R12
	MOVQ 32(SP), R13
	MOVQ 40(SP), R14
	MOVQ 48(SP), R15
	ADDQ $64, SP
	CMPB ·haveXSAVE(SB), $0
	JEQ  fr
	SETXCR0(·xcr0Most)
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64 (SP)
	XORL CX, CX
	MOVL R12, AX
	MOVL R13, DX
	XSETBV
	JMP  restored
fr:
	FXRSTOR64 (SP)
restored:
	CMPL R15, $0
	JEQ  same
	MOVL $MSR_SPEC_CTRL, CX
	MOVL R14, AX
	XORL DX, DX
	WRMSR
same:
	MOVQ BX, SP
	MOVQ 120(SP), AX
	SETFS(slow, set)
	LOADREGS
	LEAQ 144(SP), SP
	IRETQ
