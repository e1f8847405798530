// Package x86 has what both backends know of the processor alike: the rules of registers
// (x86.go), which barriers it needs against speculation (barrier.go), and what that
// leaves open (mitigation.go; docs/speculation.md).
package x86

// Canonical: bits 63:47 are all alike (SDM vol. 1, 3.3.7.1). No CPU model has 5-level
// paging.
func Canonical(a uint64) bool { return uint64(int64(a)<<16>>16) == a }

// ValidPAT: each of the eight entries is a memory type (SDM vol. 3, 11.12.2; APM
// vol. 2, 7.8.1).
func ValidPAT(v uint64) bool {
	for i := 0; i < 64; i += 8 {
		if t := v >> i & 0xff; t > 7 || t == 2 || t == 3 {
			return false
		}
	}
	return true
}

// XSAVE state components (SDM vol. 1, 13.1). Those that a guest may be given are
// XOffered: MPX is gone from newer processors, AMX's tiles do not fit vcpu.State.XSAVE,
// and supervisor components come with registers that no backend switches.
const (
	XX87     = 1 << 0
	XSSE     = 1 << 1
	XAVX     = 1 << 2
	XAVX512  = 7 << 5
	XPKRU    = 1 << 9
	XOffered = XX87 | XSSE | XAVX | XAVX512 | XPKRU
)
