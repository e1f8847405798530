package kernel

// In8 reads one byte from an I/O port.
func In8(port uint16) uint8

// In16 reads two bytes from an I/O port.
func In16(port uint16) uint16

// In32 reads four bytes from an I/O port.
func In32(port uint16) uint32

// Out8 writes one byte to an I/O port.
func Out8(port uint16, v uint8)

// Out16 writes two bytes to an I/O port.
func Out16(port uint16, v uint16)

// Out32 writes four bytes to an I/O port.
func Out32(port uint16, v uint32)

// CPUID executes CPUID. It is not a privileged instruction and works on Linux too.
func CPUID(leaf, sub uint32) (a, b, c, d uint32)

// TSC reads the time-stamp counter. Not privileged.
func TSC() uint64

// ReadMSR reads a model-specific register that is known to exist: one that does
// not ends in a fault report. ReadMSRSafe is for all others.
func ReadMSR(msr uint32) uint64

// WriteMSR writes a model-specific register that is known to exist and to take v.
func WriteMSR(msr uint32, v uint64)

// Entry is the image's first instruction; only the boot stub goes there.
func Entry()
