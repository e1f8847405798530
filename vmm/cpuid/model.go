// Package cpuid says what processor a guest sees: named models, the answers to
// CPUID that follow from them, and whether a host can keep a model's promise.
package cpuid

import (
	"fmt"
	"slices"
	"strings"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// Default is the model of machines whose configuration names none.
const Default = "godwit-v1"

// Host is the model that shows all that the host has and Godwit can carry.
// A machine with it moves only to hosts that have all of that.
const Host = "host"

// A Model is a promise to the guest about its processor.
type Model struct {
	Name     string
	About    string
	Vendor   string // 12 bytes
	Family   uint32
	ModelNo  uint32
	Stepping uint32
	PhysBits uint8
	Brand    string
	ID       *Identity // only of native ones
	features set
}

// v1 is what QEMU's TCG with -cpu max, Bochs's models since Skylake and every
// server processor since about 2015 have; it is x86-64-v2 and some more.
const v1 = "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 " +
	"sse3 pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt aes xsave osxsave rdrand hypervisor " +
	"fsgsbase smep smap xsaveopt xgetbv1 lahf64 syscall nx pdpe1gb rdtscp lm"

// v2 adds what x86-64-v3 names, and the fast string instructions.
const v2 = v1 + " avx f16c fma avx2 bmi1 bmi2 lzcnt adx erms"

// The identity is that of QEMU's qemu64, which every guest knows as generic:
// no errata of a real processor are assumed, and what differs between vendors
// when a guest moves (the hidden part of SS after SYSRET) is handled as AMD's,
// which is right on both.
var models = []Model{
	{Name: "godwit-v1", About: "x86-64-v2 with AES, XSAVE, SMEP, SMAP; every host has it", features: setOf(v1)},
	{Name: "godwit-v2", About: "x86-64-v3: godwit-v1 with AVX2, FMA and BMI", features: setOf(v2)},
}

func init() {
	for i := range models {
		m := &models[i]
		m.Vendor, m.Family, m.ModelNo, m.Stepping = "AuthenticAMD", 15, 107, 1
		m.PhysBits, m.Brand = 39, "Godwit virtual CPU "+m.Name // as Intel's small servers have
	}
}

// Models lists the named ones.
func Models() []Model { return slices.Clone(models) }

// A Func executes CPUID on the host.
type Func func(leaf, sub uint32) (a, b, c, d uint32)

// A HostCPU is what a host offers to guests.
type HostCPU struct {
	features set
	physBits uint8
	xcr0     uint64
	cpuid    Func
	id       *Identity
}

// NewHost reads the host's processor; caps are its backend's.
func NewHost(f Func, caps vcpu.Capabilities) *HostCPU {
	h := &HostCPU{physBits: 36, xcr0: caps.XCR0 | 3, cpuid: f, id: identify(f, caps)}
	maxBasic, _, _, _ := f(0, 0)
	maxExt, _, _, _ := f(0x80000000, 0)
	has := func(leaf uint32) bool {
		if leaf >= 0x80000000 {
			return maxExt >= leaf && maxExt < 0x80010000
		}
		return maxBasic >= leaf
	}
	for i, x := range features {
		switch x.kind {
		case emu, dynamic:
			h.features.add(i)
			continue
		case control:
			if x.control.Without(caps.Controls) == (x86.Controls{}) {
				h.features.add(i)
			}
			continue
		}
		if !has(x.leaf) || x.xcr0&^h.xcr0 != 0 {
			continue
		}
		var v [4]uint32
		v[EAX], v[EBX], v[ECX], v[EDX] = f(x.leaf, x.sub)
		if v[x.reg]>>x.bit&1 != 0 {
			h.features.add(i)
		}
	}
	if has(0x80000008) {
		a, _, _, _ := f(0x80000008, 0)
		h.physBits = uint8(a)
	}
	if caps.GuestPhysBits != 0 {
		h.physBits = min(h.physBits, uint8(caps.GuestPhysBits))
	}
	return h
}

// Features are the names of what this host could show to a guest.
func (h *HostCPU) Features() []string { return h.features.names() }

// Find returns the model called name on this host: MODEL or MODEL+OPTION+..., where a
// missing MODEL is the default. The error names what the host lacks for it.
func (h *HostCPU) Find(name string) (*Model, error) {
	m, err := named(name, h.hostModel(), h.nativeModel())
	if err != nil {
		return nil, err
	}
	if err := h.Check(m); err != nil {
		return m, fmt.Errorf("%w; cpu=%s takes what it has", err, Host)
	}
	return m, nil
}

// OptionNames lists what may stand behind a model's name and a plus.
func OptionNames() string {
	f := strings.Fields(options)
	n := len(strings.Fields(spec))
	return fmt.Sprintf("%s (%s), %s", Spec, strings.Join(f[:n], ", "), strings.Join(f, ", "))
}

// hostModel is the model Host.
func (h *HostCPU) hostModel() Model {
	m := models[0]
	m.Name, m.About, m.features, m.PhysBits = Host, "all that this host has", h.features, h.physBits
	m.Brand = "Godwit virtual CPU (host features)"
	return m
}

// nativeModel is the model Native.
func (h *HostCPU) nativeModel() Model {
	m := h.hostModel()
	m.Name, m.About = Native, "this host's processor"
	m.identify(h.id)
	return m
}

// identify makes m a native model.
func (m *Model) identify(id *Identity) {
	m.ID, m.Vendor, m.Brand = id, id.Vendor, "Godwit virtual CPU (native)"
}

// named finds the model called name, and adds what is added to it there.
func named(name string, unnamed ...Model) (*Model, error) {
	base, added, with := strings.Cut(name, "+")
	if base == "" {
		base = Default
	}
	all := append(Models(), unnamed...)
	i := slices.IndexFunc(all, func(m Model) bool { return m.Name == base })
	if i < 0 {
		return nil, fmt.Errorf("cpuid: no CPU model is called %q; there are %s", base, strings.Join(append(names(), Host, Native), ", "))
	}
	m := all[i]
	if !with {
		return &m, nil
	}
	for _, o := range strings.Split(added, "+") {
		switch {
		case o == Spec:
			m.features = m.features.or(setOf(spec))
		case slices.Contains(strings.Fields(options), o):
			m.features = m.features.or(setOf(o))
		default:
			return nil, fmt.Errorf("cpuid: nothing called %q can be added to CPU model %s; there are %s", o, base, OptionNames())
		}
	}
	m.Name = base + "+" + added
	return &m, nil
}

func names() (n []string) {
	for _, m := range models {
		n = append(n, m.Name)
	}
	return n
}

// Check tells whether this host satisfies m: the error names what is missing.
// It is also what a migration's target asks.
func (h *HostCPU) Check(m *Model) error {
	var miss set
	for i := range miss {
		miss[i] = m.features[i] &^ h.features[i]
	}
	n := miss.names()
	if m.ID != nil {
		n = append(m.ID.lacks(h.id), n...)
	}
	if m.PhysBits > h.physBits {
		n = append(n, fmt.Sprintf("%d physical address bits (it has %d)", m.PhysBits, h.physBits))
	}
	if len(n) > 0 {
		return fmt.Errorf("cpuid: this host lacks %s for CPU model %s", strings.Join(n, ", "), m.Name)
	}
	return nil
}

// Has tells whether the model shows the feature called name.
func (m *Model) Has(name string) bool {
	i, ok := featureIndex[name]
	return ok && m.features.has(i)
}

// Features are the names of the model's features.
func (m *Model) Features() []string { return m.features.names() }

// FromFeatures makes the model that a migrated machine brings along, from what
// Features returned at its source, and from its ID.
func FromFeatures(name string, physBits uint8, list []string, id *Identity) (*Model, error) {
	m := models[0]
	m.Name, m.PhysBits, m.features = name, physBits, set{}
	m.Brand = "Godwit virtual CPU (host features)"
	for _, n := range list {
		i, ok := featureIndex[n]
		if !ok {
			return nil, fmt.Errorf("cpuid: model %s has feature %q, which this release does not know", name, n)
		}
		m.features.add(i)
	}
	base, _, _ := strings.Cut(name, "+")
	if (base == Native) != (id != nil) {
		return nil, fmt.Errorf("cpuid: model %s: only %s has the identity of a processor, and must", name, Native)
	}
	if id != nil {
		m.identify(id)
	}
	if slices.Contains(names(), base) {
		here, err := named(name)
		if err != nil {
			return nil, err
		}
		if here.features != m.features || here.PhysBits != physBits {
			return nil, fmt.Errorf("cpuid: model %s has other features here than where the machine comes from", name)
		}
		return here, nil
	}
	return &m, nil
}

// Policy is what the guest may switch on.
func (m *Model) Policy() vcpu.Policy {
	p := vcpu.Policy{PhysBits: uint(m.PhysBits), CR4: cr4PCE}
	for i, f := range features {
		if m.features.has(i) {
			p.CR4 |= f.cr4
			p.EFER |= f.efer
			p.XCR0 |= f.xcr0
			p.RDTSCP = p.RDTSCP || f.name == "rdtscp"
			p.Controls = p.Controls.With(f.control)
		}
	}
	return p
}
