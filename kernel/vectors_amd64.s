#include "textflag.h"

// One stub for each of the 256 vectors, 16 bytes apart: an interrupt nobody asked
// for must find a handler too (Bochs delivers spurious IRQ 7s). Exceptions 8,
// 10-14, 17, 21, 29 and 30 push an error code themselves (SDM vol. 3, table 6-1;
// APM vol. 2, table 8-1).
//
// The pushes are spelt as bytes: the assembler would add up their effect on SP from
// stub to stub.
#define PUSH_ZERO BYTE $0x6a; BYTE $0
#define PUSH_VECTOR(n) BYTE $0x68; LONG $(n)
#define V(n) PCALIGN $16; PUSH_ZERO; PUSH_VECTOR(n); JMP ·trapCommon(SB)
#define E(n) PCALIGN $16; PUSH_VECTOR(n); JMP ·trapCommon(SB)
#define V4(n) V(n); V(n+1); V(n+2); V(n+3)
#define V16(n) V4(n); V4(n+4); V4(n+8); V4(n+12)

TEXT ·vectors(SB), NOSPLIT|NOFRAME, $0
	V4(0); V4(4)
	E(8); V(9); E(10); E(11); E(12); E(13); E(14); V(15)
	V(16); E(17); V(18); V(19); V(20); E(21); V(22); V(23)
	V4(24); V(28); E(29); E(30); V(31)
	V16(32); V16(48); V16(64); V16(80); V16(96); V16(112); V16(128); V16(144)
	V16(160); V16(176); V16(192); V16(208); V16(224); V16(240)
