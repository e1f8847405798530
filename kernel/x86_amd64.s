#include "go_asm.h"
#include "textflag.h"

// Privileged and serialising instructions the compiler has no words for.
// All of them are leaf functions on the caller's stack: they may be called from
// goroutines, from interrupt handlers and from inside Privileged alike.

// func In8(port uint16) uint8
TEXT ·In8(SB), NOSPLIT, $0-9
	MOVW port+0(FP), DX
	INB
	MOVB AX, ret+8(FP)
	RET

// func In16(port uint16) uint16
TEXT ·In16(SB), NOSPLIT, $0-10
	MOVW port+0(FP), DX
	INW
	MOVW AX, ret+8(FP)
	RET

// func In32(port uint16) uint32
TEXT ·In32(SB), NOSPLIT, $0-12
	MOVW port+0(FP), DX
	INL
	MOVL AX, ret+8(FP)
	RET

// func Out8(port uint16, v uint8)
TEXT ·Out8(SB), NOSPLIT, $0-3
	MOVW port+0(FP), DX
	MOVB v+2(FP), AX
	OUTB
	RET

// func Out16(port uint16, v uint16)
TEXT ·Out16(SB), NOSPLIT, $0-4
	MOVW port+0(FP), DX
	MOVW v+2(FP), AX
	OUTW
	RET

// func Out32(port uint16, v uint32)
TEXT ·Out32(SB), NOSPLIT, $0-8
	MOVW port+0(FP), DX
	MOVL v+4(FP), AX
	OUTL
	RET

// func CPUID(leaf, sub uint32) (a, b, c, d uint32)
TEXT ·CPUID(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	MOVL CX, c+16(FP)
	MOVL DX, d+20(FP)
	RET

// func TSC() uint64
//
// LFENCE keeps RDTSC from being read ahead of the loads before it (SDM vol. 2,
// RDTSC).
TEXT ·TSC(SB), NOSPLIT, $0-8
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func ReadMSR(msr uint32) uint64
TEXT ·ReadMSR(SB), NOSPLIT, $0-16
	MOVL msr+0(FP), CX
	RDMSR
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+8(FP)
	RET

// func WriteMSR(msr uint32, v uint64)
TEXT ·WriteMSR(SB), NOSPLIT, $0-16
	MOVL msr+0(FP), CX
	MOVQ v+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	WRMSR
	RET

// func ReadMSRSafe(msr uint32) (v uint64, ok bool)
//
// The instruction is kept apart from its prologue so that the #GP handler knows it by its address:
// RDMSR is the first instruction of rdmsrInsn, WRMSR of wrmsrInsn, and the handler
// resumes at msrFault.
TEXT ·ReadMSRSafe(SB), NOSPLIT, $0-17
	MOVL msr+0(FP), CX
	MOVL $1, BX
	CALL ·rdmsrInsn(SB)
	SHLQ $32, DX
	MOVL AX, AX
	ORQ  DX, AX
	MOVQ AX, v+8(FP)
	MOVB BX, ok+16(FP)
	RET

// func WriteMSRSafe(msr uint32, v uint64) (ok bool)
TEXT ·WriteMSRSafe(SB), NOSPLIT, $0-17
	MOVL msr+0(FP), CX
	MOVQ v+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	MOVL $1, BX
	CALL ·wrmsrInsn(SB)
	MOVB BX, ok+16(FP)
	RET

TEXT ·rdmsrInsn(SB), NOSPLIT|NOFRAME, $0
	RDMSR
	RET

TEXT ·wrmsrInsn(SB), NOSPLIT|NOFRAME, $0
	WRMSR
	RET

TEXT ·msrFault(SB), NOSPLIT|NOFRAME, $0
	XORL AX, AX
	XORL DX, DX
	XORL BX, BX
	RET

#define READCR(name, cr) TEXT name(SB), NOSPLIT, $0-8; MOVQ cr, AX; MOVQ AX, ret+0(FP); RET
#define WRITECR(name, cr) TEXT name(SB), NOSPLIT, $0-8; MOVQ v+0(FP), AX; MOVQ AX, cr; RET
READCR(·readCR0, CR0)
READCR(·readCR2, CR2)
READCR(·readCR3, CR3)
READCR(·readCR4, CR4)
WRITECR(·writeCR0, CR0)
WRITECR(·writeCR3, CR3)
WRITECR(·writeCR4, CR4)

// func xsetbv0(v uint64)
TEXT ·xsetbv0(SB), NOSPLIT, $0-8
	MOVQ v+0(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	XORL CX, CX
	XSETBV
	RET

// func xsave(area uintptr)
TEXT ·xsave(SB), NOSPLIT, $0-8
	MOVQ area+0(FP), BX
	CMPB ·haveXSAVE(SB), $0
	JEQ  fx
	MOVL $-1, AX
	MOVL $-1, DX
	XSAVE64 (BX)
	RET
fx:
	FXSAVE64 (BX)
	RET

// func lgdt(p *descriptorPointer)
TEXT ·lgdt(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	LGDT (AX)
	RET

// func lidt(p *descriptorPointer)
TEXT ·lidt(SB), NOSPLIT, $0-8
	MOVQ p+0(FP), AX
	LIDT (AX)
	RET

// func ltr(selector uint16)
TEXT ·ltr(SB), NOSPLIT, $0-2
	MOVW selector+0(FP), AX
	LTR  AX
	RET

// func reloadSegments()
//
// CS keeps its selector, but its hidden part came from the boot stub's GDT.
TEXT ·reloadSegments(SB), NOSPLIT, $0-0
	MOVL $const_selData, AX
	MOVW AX, DS
	MOVW AX, ES
	MOVW AX, SS
	RET

// func invlpg(addr uintptr)
TEXT ·invlpg(SB), NOSPLIT, $0-8
	MOVQ addr+0(FP), AX
	INVLPG (AX)
	RET

// func rdrand() (v uint64, ok bool)
TEXT ·rdrand(SB), NOSPLIT, $0-9
	RDRANDQ AX
	SETCS   ok+8(FP)
	MOVQ    AX, v+0(FP)
	RET

// func rdseed() (v uint64, ok bool)
TEXT ·rdseed(SB), NOSPLIT, $0-9
	RDSEEDQ AX
	SETCS   ok+8(FP)
	MOVQ    AX, v+0(FP)
	RET

// func this() *cpu
TEXT ·this(SB), NOSPLIT, $0-8
	MOVQ 0(GS), AX
	MOVQ AX, ret+0(FP)
	RET

// func framePointer() uintptr
TEXT ·framePointer(SB), NOSPLIT|NOFRAME, $0-8
	MOVQ BP, ret+0(FP)
	RET

// func pause()
TEXT ·pause(SB), NOSPLIT, $0-0
	PAUSE
	RET

// func haltOnce()
//
// STI takes effect after the next instruction, so that no interrupt comes between
// the two and leaves the CPU halted. An NMI may come there (SDM vol. 2, STI: it "may"
// be inhibited), and its return lets an interrupt in before HLT; so handleTrap knows
// HLT's address, one byte from here.
TEXT ·haltOnce(SB), NOSPLIT|NOFRAME, $0-0
	STI
	HLT
	CLI
	RET

// func pollOnce()
//
// Interrupts that wait are taken after the instruction that follows STI.
TEXT ·pollOnce(SB), NOSPLIT, $0-0
	STI
	PAUSE
	PAUSE
	CLI
	RET

// func haltForever()
TEXT ·haltForever(SB), NOSPLIT, $0-0
	CLI
	HLT
	JMP -1(PC)

// func load32(addr uintptr) uint32
TEXT ·load32(SB), NOSPLIT, $0-12
	MOVQ addr+0(FP), AX
	MOVL (AX), AX
	MOVL AX, ret+8(FP)
	RET

// func store32(addr uintptr, v uint32)
TEXT ·store32(SB), NOSPLIT, $0-12
	MOVQ addr+0(FP), AX
	MOVL v+8(FP), CX
	MOVL CX, (AX)
	RET

// func fence()
TEXT ·fence(SB), NOSPLIT, $0-0
	MFENCE
	LFENCE
	RET

// Addresses of code and of the image's parts, which Go has no expression for.
#define ADDR(name, sym) TEXT name(SB), NOSPLIT, $0-8; MOVQ $sym(SB), AX; MOVQ AX, ret+0(FP); RET
ADDR(·addrSyscallEntry, ·syscallEntry)
ADDR(·addrNewThreadReturn, ·newThreadReturn)
ADDR(·addrIdleEntry, ·idleEntry)
ADDR(·addrAPEntry, ·apEntry)
ADDR(·addrVectors, ·vectors)
ADDR(·addrRdmsrInsn, ·rdmsrInsn)
ADDR(·addrWrmsrInsn, ·wrmsrInsn)
ADDR(·addrMSRFault, ·msrFault)
ADDR(·addrHalt, ·haltOnce+1)
ADDR(·pclnTable, runtime·pclntab)
ADDR(·imageText, runtime·text)
ADDR(·imageEtext, runtime·etext)
ADDR(·imageRodata, runtime·rodata)
ADDR(·imageData, runtime·noptrdata)
ADDR(·imageEnd, runtime·end)
