package vmx

import (
	"encoding/binary"
	"fmt"

	"godwit/vmm/vcpu/x86"
)

const (
	xX87    = x86.XX87
	xSSE    = x86.XSSE
	xAVX    = x86.XAVX
	xAVX512 = x86.XAVX512
)

// The parts of the XSAVE area (13.4).
const (
	xLegacySize = 512
	xHeaderSize = 64
	xOffMXCSR   = 24
	xOffMask    = 28
	xOffXMM     = 160
	xOffBV      = 512
)

// offeredXCR0 is what guests may be given; 0 if there is no XSAVE.
func offeredXCR0(p probe) uint64 {
	if _, _, c, _ := p.cpuid(1, 0); c>>26&1 == 0 {
		return 0
	}
	a, _, _, d := p.cpuid(0xd, 0)
	return (uint64(d)<<32 | uint64(a)) & x86.XOffered
}

// An xlayout is where the standard format keeps the components that a VM may use.
type xlayout struct {
	mask uint64 // 0: FXSAVE, the legacy area only
	size int
	off  [64]int
	len  [64]int
}

func newXLayout(p probe, mask uint64) xlayout {
	if mask == 0 {
		return xlayout{size: xLegacySize + xHeaderSize}
	}
	l := xlayout{mask: mask | xX87 | xSSE, size: xLegacySize + xHeaderSize}
	for i := uint32(2); i < 63; i++ {
		if mask>>i&1 == 0 {
			continue
		}
		a, b, _, _ := p.cpuid(0xd, i)
		l.off[i], l.len[i] = int(b), int(a)
		l.size = max(l.size, int(a)+int(b))
	}
	return l
}

// check refuses an area that XRSTOR would fault on (SDM vol. 2, XRSTOR) or that
// holds something the VM may not have. mxcsr is the bits that MXCSR may have.
func (l *xlayout) check(x []byte, mxcsr uint32) error {
	if len(x) < xLegacySize+xHeaderSize {
		return fmt.Errorf("XSAVE area of %d bytes; it has at least %d", len(x), xLegacySize+xHeaderSize)
	}
	bv := binary.LittleEndian.Uint64(x[xOffBV:])
	if extra := bv &^ (l.mask | xX87 | xSSE); extra != 0 {
		return fmt.Errorf("XSAVE area holds state components %#x, which the CPU model lacks", extra)
	}
	for i, b := range x[xOffBV+8 : xLegacySize+xHeaderSize] {
		if b != 0 {
			return fmt.Errorf("XSAVE header: byte %d is %#x; reserved, or the compacted format", 8+i, b)
		}
	}
	for i := range l.off {
		if bv>>i&1 != 0 && l.off[i]+l.len[i] > len(x) {
			return fmt.Errorf("XSAVE area of %d bytes; component %d ends at %d", len(x), i, l.off[i]+l.len[i])
		}
	}
	const misaligned = 1 << 17 // APM vol. 1, 4.2.2
	if v := binary.LittleEndian.Uint32(x[xOffMXCSR:]); v&^mxcsr == misaligned {
		return fmt.Errorf("MXCSR is %#x: the guest uses AMD's misaligned SSE mode (bit 17), which this processor lacks", v)
	} else if v&^mxcsr != 0 {
		return fmt.Errorf("MXCSR is %#x: reserved bits %#x", v, v&^mxcsr)
	}
	return nil
}

// load copies a checked area from a state to the one that XRSTOR reads.
func (l *xlayout) load(area, x []byte) {
	n := copy(area[:l.size], x)
	clear(area[n:])
	bv := binary.LittleEndian.Uint64(area[xOffBV:])
	if l.mask == 0 && bv != xX87|xSSE {
		l.initialise(area, bv) // FXRSTOR does not look at the header
	}
}

// save copies it back, with components that are in their initial state shown as
// such: XSAVE leaves old bytes there.
func (l *xlayout) save(x, area []byte) []byte {
	x = append(x[:0], area[:l.size]...)
	if l.mask == 0 {
		binary.LittleEndian.PutUint64(x[xOffBV:], xX87|xSSE)
		return x
	}
	l.initialise(x, binary.LittleEndian.Uint64(x[xOffBV:]))
	return x
}

// initialise puts the components that are not in bv into their initial state
// (SDM vol. 1, 13.6).
func (l *xlayout) initialise(x []byte, bv uint64) {
	if bv&xX87 == 0 {
		clear(x[:xOffMXCSR])
		clear(x[32:xOffXMM])
		x[0], x[1] = 0x7f, 0x03
	}
	if bv&xSSE == 0 {
		clear(x[xOffXMM : xOffXMM+256])
	}
	for i := range l.off {
		if bv>>i&1 == 0 && l.len[i] != 0 {
			clear(x[l.off[i] : l.off[i]+l.len[i]])
		}
	}
}
