package acpi

// DMAR flags (VT-d 4.1, 8.1).
const (
	dmarFlags = 37

	dmarRemapsInterrupts = 1 << 0
	dmarX2APICOptOut     = 1 << 1 // valid with the one above
)

// X2APICOptOut reports whether a DMAR table asks that x2APIC mode be left alone:
// firmware's own code, in system management mode, cannot do with it.
func X2APICOptOut(dmar []byte) bool {
	const both = dmarRemapsInterrupts | dmarX2APICOptOut
	return len(dmar) > dmarFlags && dmar[dmarFlags]&both == both
}
