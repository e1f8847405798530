package cpuid

import (
	"strings"

	"godwit/vmm/vcpu/x86"
)

// A Reg of a CPUID answer.
type Reg uint8

const (
	EAX Reg = iota
	EBX
	ECX
	EDX
)

// kind says who provides a feature.
type kind uint8

const (
	hw      kind = iota // the processor: the host must have it
	emu                 // Godwit itself: always there
	dynamic             // depends on the guest's state when it asks
	control             // the backend: the processor may say it as the other vendor does
)

// A Feature is one bit that a model may show. Features not in the table are
// never shown, not even by the model "host": they were not thought through.
type feature struct {
	name      string
	leaf, sub uint32
	reg       Reg
	bit       uint8
	kind      kind
	cr4       uint64 // what the guest may then set in CR4
	efer      uint64
	xcr0      uint64
	control   x86.Controls
}

// features: SDM vol. 2A, CPUID, and APM vol. 3, appendix E.
//
// Left out on purpose: MONITOR, ACPI, TM, EST, PERFMON, DS (no such devices),
// VMX and SVM (no nesting), TSC_DEADLINE and invariant TSC (a guest must be able
// to move to a host whose TSC runs at another rate; the local APIC's timer and
// kvmclock do not mind), PCID, MPX, RTM, PT, CET, PKU (state or controls that
// package vcpu does not carry), leaf 6 ECX[0] (APERF and MPERF), and
// ARCH_CAPABILITIES with all else that says what a processor is immune to: a kernel
// looks there after it has looked at vendor, family and model, which are made up.
var features = []feature{
	{name: "fpu", leaf: 1, reg: EDX, bit: 0},
	{name: "de", leaf: 1, reg: EDX, bit: 2, cr4: cr4DE},
	{name: "pse", leaf: 1, reg: EDX, bit: 3, cr4: cr4PSE},
	{name: "tsc", leaf: 1, reg: EDX, bit: 4, cr4: cr4TSD},
	{name: "msr", leaf: 1, reg: EDX, bit: 5},
	{name: "pae", leaf: 1, reg: EDX, bit: 6, cr4: cr4PAE},
	{name: "mce", leaf: 1, reg: EDX, bit: 7, kind: emu, cr4: cr4MCE},
	{name: "cx8", leaf: 1, reg: EDX, bit: 8},
	{name: "apic", leaf: 1, reg: EDX, bit: 9, kind: emu},
	{name: "sep", leaf: 1, reg: EDX, bit: 11},
	{name: "mtrr", leaf: 1, reg: EDX, bit: 12, kind: emu},
	{name: "pge", leaf: 1, reg: EDX, bit: 13, cr4: cr4PGE},
	{name: "mca", leaf: 1, reg: EDX, bit: 14, kind: emu},
	{name: "cmov", leaf: 1, reg: EDX, bit: 15},
	{name: "pat", leaf: 1, reg: EDX, bit: 16},
	{name: "pse36", leaf: 1, reg: EDX, bit: 17},
	{name: "clflush", leaf: 1, reg: EDX, bit: 19},
	{name: "mmx", leaf: 1, reg: EDX, bit: 23},
	{name: "fxsr", leaf: 1, reg: EDX, bit: 24, cr4: cr4OSFXSR},
	{name: "sse", leaf: 1, reg: EDX, bit: 25, cr4: cr4OSXMMEXCPT},
	{name: "sse2", leaf: 1, reg: EDX, bit: 26},
	{name: "sse3", leaf: 1, reg: ECX, bit: 0},
	{name: "pclmulqdq", leaf: 1, reg: ECX, bit: 1},
	{name: "ssse3", leaf: 1, reg: ECX, bit: 9},
	{name: "fma", leaf: 1, reg: ECX, bit: 12},
	{name: "cx16", leaf: 1, reg: ECX, bit: 13},
	{name: "sse4.1", leaf: 1, reg: ECX, bit: 19},
	{name: "sse4.2", leaf: 1, reg: ECX, bit: 20},
	{name: "x2apic", leaf: 1, reg: ECX, bit: 21, kind: emu},
	{name: "movbe", leaf: 1, reg: ECX, bit: 22},
	{name: "popcnt", leaf: 1, reg: ECX, bit: 23},
	{name: "aes", leaf: 1, reg: ECX, bit: 25},
	{name: "xsave", leaf: 1, reg: ECX, bit: 26, cr4: cr4OSXSAVE, xcr0: 3},
	{name: "osxsave", leaf: 1, reg: ECX, bit: 27, kind: dynamic},
	{name: "avx", leaf: 1, reg: ECX, bit: 28, xcr0: 7},
	{name: "f16c", leaf: 1, reg: ECX, bit: 29},
	{name: "rdrand", leaf: 1, reg: ECX, bit: 30},
	{name: "hypervisor", leaf: 1, reg: ECX, bit: 31, kind: emu},
	{name: "fsgsbase", leaf: 7, reg: EBX, bit: 0, cr4: cr4FSGSBASE},
	{name: "bmi1", leaf: 7, reg: EBX, bit: 3},
	{name: "avx2", leaf: 7, reg: EBX, bit: 5},
	{name: "smep", leaf: 7, reg: EBX, bit: 7, cr4: cr4SMEP},
	{name: "bmi2", leaf: 7, reg: EBX, bit: 8},
	{name: "erms", leaf: 7, reg: EBX, bit: 9},
	{name: "avx512f", leaf: 7, reg: EBX, bit: 16, xcr0: 0xe7},
	{name: "avx512dq", leaf: 7, reg: EBX, bit: 17},
	{name: "rdseed", leaf: 7, reg: EBX, bit: 18},
	{name: "adx", leaf: 7, reg: EBX, bit: 19},
	{name: "smap", leaf: 7, reg: EBX, bit: 20, cr4: cr4SMAP},
	{name: "avx512ifma", leaf: 7, reg: EBX, bit: 21},
	{name: "clflushopt", leaf: 7, reg: EBX, bit: 23},
	{name: "clwb", leaf: 7, reg: EBX, bit: 24},
	{name: "avx512cd", leaf: 7, reg: EBX, bit: 28},
	{name: "sha", leaf: 7, reg: EBX, bit: 29},
	{name: "avx512bw", leaf: 7, reg: EBX, bit: 30},
	{name: "avx512vl", leaf: 7, reg: EBX, bit: 31},
	{name: "avx512vbmi", leaf: 7, reg: ECX, bit: 1},
	{name: "umip", leaf: 7, reg: ECX, bit: 2, cr4: cr4UMIP},
	{name: "avx512vbmi2", leaf: 7, reg: ECX, bit: 6},
	{name: "gfni", leaf: 7, reg: ECX, bit: 8},
	{name: "vaes", leaf: 7, reg: ECX, bit: 9},
	{name: "vpclmulqdq", leaf: 7, reg: ECX, bit: 10},
	{name: "avx512vnni", leaf: 7, reg: ECX, bit: 11},
	{name: "avx512bitalg", leaf: 7, reg: ECX, bit: 12},
	{name: "avx512vpopcntdq", leaf: 7, reg: ECX, bit: 14},
	{name: "rdpid", leaf: 7, reg: ECX, bit: 22},
	{name: "fsrm", leaf: 7, reg: EDX, bit: 4},
	{name: "xsaveopt", leaf: 0xd, sub: 1, reg: EAX, bit: 0},
	{name: "xgetbv1", leaf: 0xd, sub: 1, reg: EAX, bit: 2},
	{name: "lahf64", leaf: 0x80000001, reg: ECX, bit: 0},
	{name: "lzcnt", leaf: 0x80000001, reg: ECX, bit: 5},
	{name: "sse4a", leaf: 0x80000001, reg: ECX, bit: 6},
	{name: "prefetchw", leaf: 0x80000001, reg: ECX, bit: 8},
	{name: "syscall", leaf: 0x80000001, reg: EDX, bit: 11, efer: eferSCE},
	{name: "nx", leaf: 0x80000001, reg: EDX, bit: 20, efer: eferNXE},
	{name: "pdpe1gb", leaf: 0x80000001, reg: EDX, bit: 26},
	{name: "rdtscp", leaf: 0x80000001, reg: EDX, bit: 27},
	{name: "lm", leaf: 0x80000001, reg: EDX, bit: 29, efer: eferLME | eferLMA},
	{name: "clzero", leaf: 0x80000008, reg: EBX, bit: 0},
	// Against speculation, at AMD's places, since the models are AMD's: which a kernel for
	// either vendor's processors looks at (docs/decisions/controls.md).
	{name: "ibpb", leaf: 0x80000008, reg: EBX, bit: 12, kind: control, control: x86.Controls{IBPB: true}},
	{name: "ibrs", leaf: 0x80000008, reg: EBX, bit: 14, kind: control, control: x86.Controls{SpecCtrl: x86.SpecIBRS}},
	{name: "stibp", leaf: 0x80000008, reg: EBX, bit: 15, kind: control, control: x86.Controls{SpecCtrl: x86.SpecSTIBP}},
	{name: "ssbd", leaf: 0x80000008, reg: EBX, bit: 24, kind: control, control: x86.Controls{SpecCtrl: x86.SpecSSBD}},
	// And those that only Intel's have.
	{name: "md_clear", leaf: 7, reg: EDX, bit: 10},
	{name: "flush_l1d", leaf: 7, reg: EDX, bit: 28, kind: control, control: x86.Controls{FlushL1D: true}},
}

// Options are what may be added to a model by name, behind a plus. Spec stands for what
// both vendors have.
const (
	Spec    = "spec"
	spec    = "ibpb ibrs stibp ssbd"
	options = spec + " md_clear flush_l1d"
)

// CR4 and EFER bits (SDM vol. 3, sections 2.5 and 2.2.1).
const (
	cr4TSD        = 1 << 2
	cr4DE         = 1 << 3
	cr4PSE        = 1 << 4
	cr4PAE        = 1 << 5
	cr4MCE        = 1 << 6
	cr4PGE        = 1 << 7
	cr4PCE        = 1 << 8
	cr4OSFXSR     = 1 << 9
	cr4OSXMMEXCPT = 1 << 10
	cr4UMIP       = 1 << 11
	cr4FSGSBASE   = 1 << 16
	cr4OSXSAVE    = 1 << 18
	cr4SMEP       = 1 << 20
	cr4SMAP       = 1 << 21

	eferSCE = 1 << 0
	eferLME = 1 << 8
	eferLMA = 1 << 10
	eferNXE = 1 << 11
)

var featureIndex = func() map[string]int {
	m := map[string]int{}
	for i, f := range features {
		if _, dup := m[f.name]; dup {
			panic("cpuid: feature " + f.name + " is in the table twice")
		}
		m[f.name] = i
	}
	return m
}()

// A set of features, by index in the table.
type set [2]uint64

func (s *set) add(i int)     { s[i/64] |= 1 << (i % 64) }
func (s set) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }

func setOf(names string) (s set) {
	for _, n := range strings.Fields(names) {
		i, ok := featureIndex[n]
		if !ok {
			panic("cpuid: no feature is called " + n)
		}
		s.add(i)
	}
	return s
}

func (s set) or(t set) set { return set{s[0] | t[0], s[1] | t[1]} }

func (s set) names() (n []string) {
	for i, f := range features {
		if s.has(i) {
			n = append(n, f.name)
		}
	}
	return n
}
