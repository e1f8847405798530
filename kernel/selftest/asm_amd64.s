#include "textflag.h"

// func flags() uint64
TEXT ·flags(SB), NOSPLIT, $8-8
	PUSHFQ
	POPQ AX
	MOVQ AX, ret+0(FP)
	RET

// The value a register holds is the seed plus its number, in both halves.
#define FILL(n, x) LEAQ n(BX), AX; MOVQ AX, x; PUNPCKLQDQ x, x
#define TEST(n, x) LEAQ n(BX), AX; MOVQ AX, X15; PUNPCKLQDQ X15, X15; \
	PCMPEQL x, X15; PMOVMSKB X15, AX; XORL $0xffff, AX; NEGL AX; SBBQ AX, AX; ANDQ $(1<<n), AX; ORQ AX, DX

// func holdRegisters(seed uint64, n int) uint64
TEXT ·holdRegisters(SB), NOSPLIT, $0-24
	MOVQ seed+0(FP), BX
	MOVQ n+8(FP), CX
	FILL(0, X0)
	FILL(1, X1)
	FILL(2, X2)
	FILL(3, X3)
	FILL(4, X4)
	FILL(5, X5)
	FILL(6, X6)
	FILL(7, X7)
	FILL(8, X8)
	FILL(9, X9)
	FILL(10, X10)
	FILL(11, X11)
	FILL(12, X12)
	FILL(13, X13)
	FILL(14, X14)
loop:
	DECQ CX
	JNZ  loop
	XORL DX, DX
	TEST(0, X0)
	TEST(1, X1)
	TEST(2, X2)
	TEST(3, X3)
	TEST(4, X4)
	TEST(5, X5)
	TEST(6, X6)
	TEST(7, X7)
	TEST(8, X8)
	TEST(9, X9)
	TEST(10, X10)
	TEST(11, X11)
	TEST(12, X12)
	TEST(13, X13)
	TEST(14, X14)
	XORPS X15, X15
	MOVQ DX, ret+16(FP)
	RET
