package svm

import (
	"slices"
	"strings"
	"testing"
	"unsafe"

	"godwit/kernel/asmtrace"
	"godwit/vmm/vcpu/x86"
)

// A chip answers as an AMD processor does.
type chip struct {
	leaf map[uint64][4]uint32
	msrs map[uint32]uint64
	sbpb bool
}

// newChip has all that Open needs.
func newChip(features, sig, ebx8, eax21 uint32) *chip {
	return &chip{
		leaf: map[uint64][4]uint32{
			0x8000_0000: {0x8000_0021}, 0x8000_0001: {0, 0, 4, 1 << 26}, 0x8000_0008: {48, ebx8},
			0x8000_000a: {1, 16, 0, features}, 0x8000_0021: {eax21}, 1: {sig, 0, 1 << 27}, 0xd: {7, 832},
			2<<32 | 0xd: {256, 576},
		},
		msrs: map[uint32]uint64{x86.MSRSpecCtrl: 0, 0xc0011028: 0, 0xc0011029: 0, 0xc001102e: 0, 0xc00110e3: 0},
	}
}

func (c *chip) cpuid(l, s uint32) (a, b, cx, d uint32) {
	x := c.leaf[uint64(s)<<32|uint64(l)]
	return x[0], x[1], x[2], x[3]
}

func (c *chip) processor() x86.Processor {
	return x86.Processor{
		CPUID: c.cpuid,
		Read: func(msr uint32) (uint64, bool) {
			v, ok := c.msrs[msr]
			return v, ok
		},
		Write: func(msr uint32, v uint64) bool {
			if msr == x86.MSRPredCmd {
				return v == 1 || c.sbpb
			}
			_, ok := c.msrs[msr]
			if ok {
				c.msrs[msr] = v
			}
			return ok
		},
	}
}

func (c *chip) silicon(t *testing.T, g x86.Guests) silicon {
	t.Helper()
	p := c.processor()
	si, err := discover(c.cpuid, p.Read, func() uint64 { return 7 })
	if err != nil {
		t.Fatal(err)
	}
	si.protect(p, g)
	return si
}

const (
	sigZen1, sigZen3, sigZen4, sigZen5 = 0x00800f12, 0x00a00f11, 0x00a10f11, 0x00b00f21
	ibpb, stibp, btcNo                 = 1 << 12, 1 << 15, 1 << 29
	lfence, auto, reduce               = 1 << 2, 1 << 8, 1 << 31
)

// What stands behind each exit is what the processor needs, and TCG, which predicts
// nothing, gets nothing.
func TestGuestsDoNotSteerTheHost(t *testing.T) {
	for _, c := range []struct {
		name   string
		chip   *chip
		guests x86.Guests
		fence  x86.Fence
		scrub  uint64
		noted  bool
	}{
		{"before Zen, without IBPB", newChip(featNested|featNextRIP, 0x00600f20, 0, 0), x86.Untrusted, x86.FenceReturns, 0, false},
		{"Zen 1", newChip(featNested|featNextRIP, sigZen1, ibpb, 0), x86.Untrusted, x86.FenceIBPB, 1, true},
		{"Zen 1 with the operator's guests", newChip(featNested|featNextRIP, sigZen1, ibpb, 0), x86.Own, x86.FenceReturns, 1, true},
		{"Zen 3", newChip(featNested|featNextRIP, sigZen3, ibpb|stibp|btcNo, lfence), x86.Untrusted, x86.FenceIBPB, 1, true},
		{"Zen 4 without new microcode", newChip(featNested|featNextRIP, sigZen4, ibpb|stibp|btcNo, lfence|auto), x86.Untrusted, x86.FenceNone, 1, false},
		{"Zen 5", newChip(featNested|featNextRIP, sigZen5, ibpb|stibp|btcNo, lfence|auto|reduce), x86.Untrusted, x86.FenceNone, 0, false},
		{"TCG", newChip(featNested, 0x663, ibpb, 0), x86.Untrusted, x86.FenceNone, 0, false},
	} {
		si := c.chip.silicon(t, c.guests)
		caps := si.capabilities()
		if len(caps.Mitigations) == 0 || c.noted != strings.Contains(strings.Join(caps.Notes, "\n"), "guests=own") {
			t.Errorf("%s: notes %q", c.name, caps.Notes)
		}
		v, _, _ := newTestVCPU(t, si)
		if v.fence != uint64(c.fence) || v.scrub != c.scrub {
			t.Errorf("%s: fence %d, want %d; scrub %d, want %d", c.name, v.fence, c.fence, v.scrub, c.scrub)
		}
	}
}

// Every CPU gets the bits that the first has taken; one that does not take them is named.
func TestEachCPUTakesTheSettings(t *testing.T) {
	si := newChip(featNested|featNextRIP, sigZen5, ibpb|stibp|btcNo, lfence|auto|reduce).silicon(t, x86.Untrusted)
	other := newChip(featNested|featNextRIP, sigZen5, ibpb|stibp|btcNo, lfence|auto|reduce)
	p := other.processor()
	if err := takeSettings(&p, &si.barriers); err != nil {
		t.Fatal(err)
	}
	if other.msrs[0xc001102e] != 1<<4 || other.msrs[x86.MSRSpecCtrl] != x86.SpecSTIBP {
		t.Errorf("registers: %#x", other.msrs)
	}
	delete(other.msrs, 0xc001102e)
	if err := takeSettings(&p, &si.barriers); err == nil || !strings.Contains(err.Error(), "0xc001102e") {
		t.Errorf("error is %v", err)
	}
	delete(other.msrs, x86.MSRSpecCtrl)
	if err := takeSettings(&p, &si.barriers); err == nil || !strings.Contains(err.Error(), "SPEC_CTRL") {
		t.Errorf("error is %v", err)
	}
}

// The code behind VMRUN itself: what each fence is made of, in order, before anything
// that predicts a return.
func TestTheWayOutOfAGuest(t *testing.T) {
	var w world
	filled := slices.Repeat([]string{"call"}, 32)
	for fence, want := range map[x86.Fence][]string{
		x86.FenceNone:    {"lfence"},
		x86.FenceReturns: append(slices.Clone(filled), "lfence"),
		x86.FenceIBPB:    append(append([]string{"wrmsr 49=1"}, filled...), "lfence"),
	} {
		m := asmtrace.Machine{Lfence: 1, Memory: map[int64]uint64{int64(unsafe.Offsetof(w.fence)): uint64(fence)}}
		got, err := m.Run(asmtrace.After(asmtrace.Entry(enter), 0x0f, 0x01, 0xd8))
		if err != nil || !slices.Equal(got.Events, want) {
			t.Errorf("fence %d: %q, want %q; %v", fence, got.Events, want, err)
		}
	}
}

// And the code before it: VERW is last, behind the division, or neither is there.
func TestTheWayIntoAGuest(t *testing.T) {
	var w world
	for scrub, want := range [][]string{{"vmrun"}, {"div", "verw", "vmrun"}} {
		m := asmtrace.Machine{Memory: map[int64]uint64{int64(unsafe.Offsetof(w.scrub)): uint64(scrub)}}
		got, err := m.Run(asmtrace.Entry(enter))
		if err != nil || !slices.Equal(got.Events, want) {
			t.Errorf("scrub %d: %q, want %q; %v", scrub, got.Events, want, err)
		}
	}
}
