#include "textflag.h"

// Entry is where the boot stub jumps: long mode, interrupts off, RDI = physical
// address of the boot information, RSI = its magic.
TEXT ·Entry(SB), NOSPLIT|NOFRAME, $0
	CLI
	HLT
