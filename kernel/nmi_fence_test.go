package kernel

import (
	"slices"
	"testing"
	"unsafe"

	"godwit/kernel/asmtrace"
)

// An NMI may come right behind an exit from a guest, before the fence there.
func TestNMIsBeginWithAFence(t *testing.T) {
	filled := slices.Repeat([]string{"call"}, 32)
	for _, c := range []struct {
		fence, msr, value uint64
		want              []string
	}{
		{0, 0, 0, []string{"lfence"}},
		{1, 0, 0, append(slices.Clone(filled), "lfence")},
		{1, 0x48, 1, append(slices.Clone(filled), "rdmsr 48", "wrmsr 48=1", "lfence")},
		{1, 0x49, 1, append(slices.Clone(filled), "wrmsr 49=1", "lfence")},
	} {
		m := asmtrace.Machine{Lfence: 1, Globals: map[uintptr]uint64{
			uintptr(unsafe.Pointer(&nmiFence)): c.fence, uintptr(unsafe.Pointer(&nmiMSR)): c.msr, uintptr(unsafe.Pointer(&nmiValue)): c.value,
		}}
		got, err := m.Run(asmtrace.Entry(trapAnywhere))
		if err != nil || !slices.Equal(got.Events, c.want) {
			t.Errorf("fence %d, MSR %#x: %q; %v", c.fence, c.msr, got.Events, err)
		}
		taken := 0
		for _, n := range got.Taken {
			taken += n
		}
		if c.fence != 0 && taken < 62 { // Intel, "Branch History Injection", the short sequence
			t.Errorf("fence %d, MSR %#x: %d branches, too few to take the place of all the guest's", c.fence, c.msr, taken)
		}
	}
}

// Nor does a guest lose the SPEC_CTRL that was loaded for it, or that is still to be read.
func TestNMIsPutSpecCtrlBack(t *testing.T) {
	const setFS = "wrmsr c0000100=0"
	for read, want := range [][]string{{setFS, "iret"}, {"wrmsr 48=6", setFS, "iret"}} {
		m := asmtrace.Machine{Stack: map[int64]uint64{40: 6, 48: uint64(read)}}                       // where trapAnywhere keeps R14 and R15
		got, err := m.Run(asmtrace.After(asmtrace.Entry(trapAnywhere), 0x48, 0x8b, 0x5c, 0x24, 0x10)) // behind the handler
		if err != nil || !slices.Equal(got.Events, want) {
			t.Errorf("SPEC_CTRL was read: %d: %q, want %q; %v", read, got.Events, want, err)
		}
	}
}
