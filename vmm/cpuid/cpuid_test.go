package cpuid

import (
	"strings"
	"testing"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// fake answers as a processor that has every feature but those named.
func fake(without ...string) Func {
	return func(l, sub uint32) (a, b, c, d uint32) {
		switch l {
		case 0:
			return 0x20, 0x756e6547, 0x6c65746e, 0x49656e69
		case 0x80000000:
			return 0x80000021, 0, 0, 0
		}
		var v [4]uint32
		if l == 0x80000008 {
			v[EAX] = 46
		}
		for _, f := range features {
			if f.leaf == l && f.sub == sub && f.kind == hw && !contains(without, f.name) {
				v[f.reg] |= 1 << f.bit
			}
		}
		return v[EAX], v[EBX], v[ECX], v[EDX]
	}
}

func contains(l []string, s string) bool {
	for _, x := range l {
		if x == s {
			return true
		}
	}
	return false
}

var caps = vcpu.Capabilities{GuestPhysBits: 46, XCR0: 0xe7}

func TestTableFitsItsSet(t *testing.T) {
	if len(features) > 64*len(set{}) {
		t.Fatalf("%d features, room for %d", len(features), 64*len(set{}))
	}
	seen := map[[4]uint32]string{}
	for _, f := range features {
		k := [4]uint32{f.leaf, f.sub, uint32(f.reg), uint32(f.bit)}
		if seen[k] != "" {
			t.Errorf("%s and %s are the same bit", f.name, seen[k])
		}
		seen[k] = f.name
	}
}

func TestMissingFeaturesAreNamed(t *testing.T) {
	_, err := NewHost(fake("aes", "smap"), caps).Find("")
	if err == nil || !strings.Contains(err.Error(), "lacks aes, smap for CPU model godwit-v1") {
		t.Errorf("error is %v", err)
	}
	small := caps
	small.GuestPhysBits = 38
	if _, err = NewHost(fake(), small).Find(""); err == nil || !strings.Contains(err.Error(), "39 physical address bits") || !strings.Contains(err.Error(), "cpu=host") {
		t.Errorf("error is %v", err)
	}
	if _, err = NewHost(fake(), caps).Find("pentium"); err == nil || !strings.Contains(err.Error(), "godwit-v2") {
		t.Errorf("error is %v", err)
	}
	if _, err = NewHost(fake("avx2"), caps).Find("godwit-v2"); err == nil {
		t.Error("godwit-v2 without AVX2")
	}
}

func TestDefaultModelHidesWhatIsNotImplemented(t *testing.T) {
	h := NewHost(fake(), caps)
	for _, name := range []string{Default, "godwit-v2", Host} {
		m, err := h.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		tab := h.New(m, 2)
		_, _, c, d := tab.Query(1, 0, &Dynamic{APICActive: true})
		if c&(1<<3|1<<5|1<<24) != 0 {
			t.Errorf("%s: MONITOR, VMX or TSC deadline shown: ECX %#x", name, c)
		}
		if d&(1<<9) == 0 || c&(1<<31) == 0 || c&(1<<21) == 0 {
			t.Errorf("%s: APIC, x2APIC or hypervisor hidden", name)
		}
		if _, _, c, _ = tab.Query(6, 0, &Dynamic{}); c&1 != 0 {
			t.Errorf("%s: APERF and MPERF shown", name)
		}
		if _, _, c, _ = tab.Query(0x80000001, 0, &Dynamic{}); c&(1<<2) != 0 {
			t.Errorf("%s: SVM shown", name)
		}
	}
}

func TestLeavesFollowTheProcessor(t *testing.T) {
	h := NewHost(fake(), caps)
	m, _ := h.Find("godwit-v2")
	tab := h.New(m, 3)
	_, b, c, _ := tab.Query(1, 7, &Dynamic{APICID: 2, CR4: cr4OSXSAVE})
	if b>>24 != 2 || b>>16&0xff != 3 || c&(1<<27) == 0 {
		t.Errorf("leaf 1: EBX %#x ECX %#x", b, c)
	}
	if _, _, _, d := tab.Query(1, 0, &Dynamic{}); d&(1<<9) != 0 {
		t.Error("a disabled APIC is shown")
	}
	for _, q := range []struct{ sub, a, b, c uint32 }{{0, 0, 1, 0x100}, {1, 2, 3, 0x201}, {2, 0, 0, 2}} {
		a, b, c, d := tab.Query(0xb, q.sub, &Dynamic{APICID: 1})
		if a != q.a || b != q.b || c != q.c || d != 1 {
			t.Errorf("leaf b.%d: %x %x %x %x", q.sub, a, b, c, d)
		}
	}
	if a, b, c, _ := tab.Query(0xd, 0, &Dynamic{XCR0: 3}); a != 7 || b != 576 || c != 832 {
		t.Errorf("leaf d: %d %d %d", a, b, c)
	}
	if _, b, _, _ := tab.Query(0xd, 0, &Dynamic{XCR0: 7}); b != 832 {
		t.Errorf("leaf d with AVX on: %d", b)
	}
	if a, b, _, _ := tab.Query(0xd, 2, &Dynamic{}); a != 256 || b != 576 {
		t.Errorf("leaf d.2: %d %d", a, b)
	}
	if a, b, c, d := tab.Query(0x80000099, 0, &Dynamic{}); a|b|c|d != 0 {
		t.Error("a leaf out of range answers")
	}
	if a, b, _, _ := tab.Query(0x40000000, 0, &Dynamic{}); a != 0x40000001 || b != 0x4b4d564b {
		t.Errorf("hypervisor leaf: %x %x", a, b)
	}
}

// Intel's Xeon E3 and E, and its processors for desktops, have 39 physical address bits.
func TestSmallServersHaveTheNamedModels(t *testing.T) {
	small := caps
	small.GuestPhysBits = 39
	for _, m := range Models() {
		if _, err := NewHost(fake(), small).Find(m.Name); err != nil {
			t.Error(err)
		}
	}
}

func TestPolicyFollowsTheModel(t *testing.T) {
	h := NewHost(fake(), caps)
	m, _ := h.Find("")
	p := m.Policy()
	if p.XCR0 != 3 || p.EFER != 0xd01 || p.PhysBits != 39 || p.CR4&cr4SMAP == 0 || p.CR4&(1<<13|1<<17|1<<12) != 0 {
		t.Errorf("policy %+v", p)
	}
	m, _ = h.Find("godwit-v2")
	if m.Policy().XCR0 != 7 {
		t.Errorf("XCR0 %#x", m.Policy().XCR0)
	}
}

func TestModelTravelsByItsFeatures(t *testing.T) {
	h := NewHost(fake("avx512f"), caps)
	m, _ := h.Find(Host)
	n, err := FromFeatures(m.Name, m.PhysBits, m.Features(), m.ID)
	if err != nil || n.features != m.features {
		t.Fatalf("%v", err)
	}
	if err := NewHost(fake("avx512f", "sha"), caps).Check(n); err == nil || !strings.Contains(err.Error(), "lacks sha") {
		t.Errorf("error is %v", err)
	}
	if _, err := FromFeatures("host", 40, []string{"flux"}, nil); err == nil {
		t.Error("an unknown feature was accepted")
	}
	if _, err := FromFeatures("godwit-v1", 40, []string{"fpu"}, nil); err == nil {
		t.Error("godwit-v1 with other features was accepted")
	}
}

func BenchmarkQuery(b *testing.B) {
	h := NewHost(fake(), caps)
	m, _ := h.Find("")
	tab := h.New(m, 4)
	d := &Dynamic{APICID: 1, APICActive: true}
	b.ReportAllocs()
	for b.Loop() {
		tab.Query(0x80000008, 0, d)
	}
}

// A model may be given controls against speculation by name. It shows them at AMD's
// places, whichever vendor's the host is, and moves only to hosts that have them.
func TestControlsAreAddedByName(t *testing.T) {
	all := x86.Controls{SpecCtrl: x86.SpecIBRS | x86.SpecSTIBP | x86.SpecSSBD, IBPB: true, FlushL1D: true}
	host := func(c x86.Controls, without ...string) *HostCPU {
		k := caps
		k.Controls = c
		return NewHost(fake(without...), k)
	}
	h := host(all)
	for _, c := range []struct {
		name, full string
		ebx8, edx7 uint32
		controls   x86.Controls
	}{
		{"", "godwit-v1", 0, 0, x86.Controls{}},
		{"+ibpb", "godwit-v1+ibpb", 1 << 12, 0, x86.Controls{IBPB: true}},
		{"godwit-v1+stibp+ssbd", "godwit-v1+stibp+ssbd", 1<<15 | 1<<24, 0, x86.Controls{SpecCtrl: x86.SpecSTIBP | x86.SpecSSBD}},
		{"godwit-v2+spec", "godwit-v2+spec", 1<<12 | 1<<14 | 1<<15 | 1<<24, 0, x86.Controls{SpecCtrl: all.SpecCtrl, IBPB: true}},
		{"godwit-v2+spec+md_clear+flush_l1d", "godwit-v2+spec+md_clear+flush_l1d", 1<<12 | 1<<14 | 1<<15 | 1<<24, 1<<10 | 1<<28, all},
		{"host", "host", 1<<0 | 1<<12 | 1<<14 | 1<<15 | 1<<24, 1<<4 | 1<<10 | 1<<28, all},
	} {
		m, err := h.Find(c.name)
		if err != nil {
			t.Fatal(err)
		}
		tab := h.New(m, 1)
		_, ebx8, _, _ := tab.Query(0x80000008, 0, &Dynamic{})
		_, _, _, edx7 := tab.Query(7, 0, &Dynamic{})
		if m.Name != c.full || ebx8 != c.ebx8 || edx7 != c.edx7 || m.Policy().Controls != c.controls {
			t.Errorf("%q: %s, EBX %#x, EDX %#x, %+v", c.name, m.Name, ebx8, edx7, m.Policy().Controls)
		}
		// Another host builds the same model of its name and features, if it has them.
		n, err := FromFeatures(m.Name, m.PhysBits, m.Features(), m.ID)
		if err != nil || n.features != m.features || n.Name != m.Name {
			t.Errorf("%q, moved: %+v, %v", c.name, n, err)
		}
	}
	for want, c := range map[string]struct {
		h    *HostCPU
		name string
	}{
		"lacks ibpb, ibrs, stibp, ssbd for CPU model godwit-v1+spec": {host(x86.Controls{}), "+spec"},
		"lacks ssbd for CPU model godwit-v2+spec":                    {host(x86.Controls{SpecCtrl: x86.SpecIBRS | x86.SpecSTIBP, IBPB: true}), "godwit-v2+spec"},
		"lacks flush_l1d for CPU model host+flush_l1d":               {host(x86.Controls{}), "host+flush_l1d"},
		"lacks md_clear":                   {host(all, "md_clear"), "godwit-v1+md_clear"},
		`nothing called "aes"`:             {h, "godwit-v1+aes"},
		`nothing called ""`:                {h, "godwit-v1+"},
		`no CPU model is called "pentium"`: {h, "pentium+spec"},
	} {
		if _, err := c.h.Find(c.name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	// What a peer says of a named model must be what it is here.
	m, _ := h.Find("godwit-v1+spec")
	for _, name := range []string{"godwit-v1", "godwit-v1+ibpb", "godwit-v1+spec+md_clear", "godwit-v1+flux", "godwit-v2+spec"} {
		if _, err := FromFeatures(name, m.PhysBits, m.Features(), nil); err == nil {
			t.Errorf("%s was taken with the features of %s", name, m.Name)
		}
	}
}
