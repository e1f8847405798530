package acpi

import "bytes"

// FADT fields (ACPI 6.5, table 5.9).
const (
	fadtDSDT     = 40
	fadtSMI      = 48
	fadtEnable   = 52
	fadtPMTimer  = 76
	fadtPM1aCnt  = 64
	fadtPM1bCnt  = 68
	fadtFlags    = 112
	fadtResetReg = 116 // generic address structure
	fadtResetVal = 128
	fadtXDSDT    = 140

	flagTimer32  = 1 << 8
	flagReset    = 1 << 10
	spaceIO      = 1 // generic address structure's address space
	fadtMinSize  = 116
	fadtResetEnd = 129
)

// DSDT returns the physical address of the DSDT.
func DSDT(fadt []byte) uint64 {
	if len(fadt) >= fadtXDSDT+8 {
		if a := le.Uint64(fadt[fadtXDSDT:]); a != 0 {
			return a
		}
	}
	if len(fadt) < fadtDSDT+4 {
		return 0
	}
	return uint64(le.Uint32(fadt[fadtDSDT:]))
}

// PMTimer returns the ACPI timer's port (4.8.3.3), 0 if there is none, and whether
// it has 32 bits rather than 24.
func PMTimer(fadt []byte) (port uint16, wide bool) {
	if len(fadt) < fadtMinSize {
		return 0, false
	}
	return uint16(le.Uint32(fadt[fadtPMTimer:])), le.Uint32(fadt[fadtFlags:])&flagTimer32 != 0
}

// PowerPorts returns the ports of the PM1 control registers, 0 for none.
func PowerPorts(fadt []byte) (a, b uint16) {
	if len(fadt) < fadtMinSize {
		return 0, 0
	}
	return uint16(le.Uint32(fadt[fadtPM1aCnt:])), uint16(le.Uint32(fadt[fadtPM1bCnt:]))
}

// ACPIMode returns what takes the power registers from firmware: a value for its SMI
// port. Either is 0 if firmware never has them (5.2.9).
func ACPIMode(fadt []byte) (port uint16, enable uint8) {
	if len(fadt) < fadtMinSize {
		return 0, 0
	}
	return uint16(le.Uint32(fadt[fadtSMI:])), fadt[fadtEnable]
}

// ResetPort returns the reset register if there is one at an I/O port.
func ResetPort(fadt []byte) (port uint16, value uint8, ok bool) {
	if len(fadt) < fadtResetEnd || le.Uint32(fadt[fadtFlags:])&flagReset == 0 || fadt[fadtResetReg] != spaceIO {
		return 0, 0, false
	}
	a := le.Uint64(fadt[fadtResetReg+4:])
	if a == 0 || a > 0xffff {
		return 0, 0, false
	}
	return uint16(a), fadt[fadtResetVal], true
}

// AML opcodes (ACPI 6.5, 20.2).
const (
	amlName    = 0x08
	amlPackage = 0x12
	amlByte    = 0x0a
	amlZero    = 0x00
	amlOne     = 0x01
)

// S5 finds the sleep types for soft-off. The DSDT is code for an interpreter this
// kernel does not have; but \_S5 is always a named package of constants, and its
// bytes can be recognised.
func S5(dsdt []byte) (typA, typB uint8, ok bool) {
	for o := headerSize; o < len(dsdt); {
		i := bytes.Index(dsdt[o:], []byte("_S5_"))
		if i < 0 {
			return 0, 0, false
		}
		o += i + 4
		at := o - 5
		if dsdt[at] == '\\' && at > headerSize {
			at--
		}
		if dsdt[at] != amlName || o >= len(dsdt) || dsdt[o] != amlPackage {
			continue
		}
		p := dsdt[o+1:]
		if len(p) < 1 || len(p) < 2+int(p[0]>>6) {
			continue
		}
		p = p[2+int(p[0]>>6):] // package length, number of elements
		if typA, p, ok = amlConst(p); !ok {
			continue
		}
		if typB, _, ok = amlConst(p); ok {
			return typA & 7, typB & 7, true
		}
	}
	return 0, 0, false
}

func amlConst(p []byte) (v uint8, rest []byte, ok bool) {
	switch {
	case len(p) >= 1 && (p[0] == amlZero || p[0] == amlOne):
		return p[0], p[1:], true
	case len(p) >= 2 && p[0] == amlByte:
		return p[1], p[2:], true
	}
	return 0, nil, false
}

// HPETBase returns the HPET's address (IA-PC HPET 1.0a, 3.2.4) if it is in memory and
// its registers lie in one page.
func HPETBase(t []byte) (uint64, bool) {
	const base, spaceMemory, size = 40, 0, 1024
	if len(t) < base+12 || t[base] != spaceMemory {
		return 0, false
	}
	a := le.Uint64(t[base+4:])
	return a, a != 0 && a < 1<<52 && inPage(a, size)
}

// inPage reports whether size bytes at a lie in one page of 4 KiB, all that is mapped
// of a device.
func inPage(a, size uint64) bool { return a%4096 <= 4096-size }
