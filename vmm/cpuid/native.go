package cpuid

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// Native is the model that shows all that Host does, and whose processor it is: kernels
// know by that what they must do against its own weaknesses. A machine with it moves only
// to hosts with the same processor.
const Native = "native"

// An Identity is what a native model shows of its processor beside features.
type Identity struct {
	Vendor    string `json:"vendor"`
	Signature uint32 `json:"signature"` // EAX of leaf 1
	// Says are the names of what it says of speculation (claims).
	Says []string `json:"says,omitempty"`
}

// A claim is a bit by which a processor says what it is immune to, or how it must be
// treated. It is passed on only together with the identity: a kernel asks who the processor
// is first, and then what it says of itself.
type claim struct {
	name string
	leaf uint32 // archCaps: a bit of IA32_ARCH_CAPABILITIES
	reg  Reg
	bit  uint8
	// dread: it says that the processor is worse than one without. A host that says it can
	// not stand for one that does not.
	dread bool
}

const (
	archCaps = 0
	ibrsAll  = 1 << 1
)

// claims: Intel's of SDM vol. 4, table 2-2, and "CPUID Enumeration and Architectural
// MSRs"; AMD's of APM vol. 3, E.4.7 and E.4.18, and the TSA paper. Left out is what
// concerns hypervisors (SKIP_L1DFL_VMENTRY, IF_PSCHANGE_MC_NO) or comes with MSRs that
// guests do not have (TSX_CTRL, GDS_CTRL, automatic IBRS).
var claims = []claim{
	{name: "rdcl_no", leaf: archCaps, bit: 0},
	{name: "ibrs_all", leaf: archCaps, bit: 1},
	{name: "rsba", leaf: archCaps, bit: 2, dread: true},
	{name: "ssb_no", leaf: archCaps, bit: 4},
	{name: "mds_no", leaf: archCaps, bit: 5},
	{name: "taa_no", leaf: archCaps, bit: 8},
	{name: "sbdr_ssdp_no", leaf: archCaps, bit: 13},
	{name: "fbsdp_no", leaf: archCaps, bit: 14},
	{name: "psdp_no", leaf: archCaps, bit: 15},
	{name: "fb_clear", leaf: archCaps, bit: 17},
	{name: "rrsba", leaf: archCaps, bit: 19, dread: true},
	{name: "bhi_no", leaf: archCaps, bit: 20},
	{name: "pbrsb_no", leaf: archCaps, bit: 24},
	{name: "gds_no", leaf: archCaps, bit: 26},
	{name: "rfds_no", leaf: archCaps, bit: 27},
	{name: "rfds_clear", leaf: archCaps, bit: 28},
	{name: "its_no", leaf: archCaps, bit: 62},
	{name: "amd_ibrs_always", leaf: 0x80000008, reg: EBX, bit: 16},
	{name: "amd_stibp_always", leaf: 0x80000008, reg: EBX, bit: 17},
	{name: "amd_ibrs_preferred", leaf: 0x80000008, reg: EBX, bit: 18},
	{name: "amd_ibrs_same_mode", leaf: 0x80000008, reg: EBX, bit: 19},
	{name: "amd_ssb_no", leaf: 0x80000008, reg: EBX, bit: 26},
	{name: "amd_btc_no", leaf: 0x80000008, reg: EBX, bit: 29},
	{name: "amd_ibpb_ret", leaf: 0x80000008, reg: EBX, bit: 30},
	{name: "amd_lfence", leaf: 0x80000021, reg: EAX, bit: 2},
	{name: "amd_verw_clear", leaf: 0x80000021, reg: EAX, bit: 5},
	{name: "amd_sbpb", leaf: 0x80000021, reg: EAX, bit: 27},
	{name: "amd_ibpb_brtype", leaf: 0x80000021, reg: EAX, bit: 28},
	{name: "amd_srso_no", leaf: 0x80000021, reg: EAX, bit: 29},
	{name: "amd_tsa_sq_no", leaf: 0x80000021, reg: ECX, bit: 1},
	{name: "amd_tsa_l1_no", leaf: 0x80000021, reg: ECX, bit: 2},
}

// sigMask: type, family, model and stepping, with their extensions (SDM vol. 2, CPUID leaf 1).
const sigMask = 0x0fff3fff

// identify reads what the host's processor shows of itself.
func identify(f Func, backend vcpu.Capabilities) *Identity {
	id, caps := &Identity{}, backend.ArchCapabilities
	if backend.Controls.SpecCtrl&x86.SpecIBRS == 0 {
		caps &^= ibrsAll // which a kernel takes for a promise of IBRS, too
	}
	_, b, c, d := f(0, 0)
	var v []byte
	for _, x := range []uint32{b, d, c} {
		v = binary.LittleEndian.AppendUint32(v, x)
	}
	id.Vendor = string(v)
	id.Signature, _, _, _ = f(1, 0)
	id.Signature &= sigMask
	maxExt, _, _, _ := f(0x80000000, 0)
	for _, c := range claims {
		var v [4]uint32
		switch {
		case c.leaf == archCaps && !id.amd():
			if caps>>c.bit&1 != 0 {
				id.Says = append(id.Says, c.name)
			}
			continue
		case c.leaf == archCaps || !id.amd() || maxExt < c.leaf:
			continue
		}
		v[EAX], v[EBX], v[ECX], v[EDX] = f(c.leaf, 0)
		if v[c.reg]>>c.bit&1 != 0 {
			id.Says = append(id.Says, c.name)
		}
	}
	return id
}

// amd tells whose places of CPUID are meant. Hygon's are AMD's.
func (id *Identity) amd() bool { return id.Vendor == "AuthenticAMD" || id.Vendor == "HygonGenuine" }

// String is what an operator sees of it.
func (id *Identity) String() string {
	return fmt.Sprintf("a %s processor %08x", id.Vendor, id.Signature)
}

// Equal tells whether two are the same in all.
func (id *Identity) Equal(o *Identity) bool {
	if id == nil || o == nil {
		return id == o
	}
	return id.Vendor == o.Vendor && id.Signature == o.Signature && slices.Equal(id.Says, o.Says)
}

// lacks names what host can not keep of what id promises.
func (id *Identity) lacks(host *Identity) (n []string) {
	if id.Vendor != host.Vendor || id.Signature != host.Signature {
		return []string{fmt.Sprintf("%v (it is %v)", id, host)}
	}
	for _, s := range id.Says {
		if !slices.Contains(host.Says, s) {
			n = append(n, s)
		}
	}
	for _, c := range claims {
		if c.dread && slices.Contains(host.Says, c.name) && !slices.Contains(id.Says, c.name) {
			n = append(n, "the absence of "+c.name)
		}
	}
	return n
}

// ArchCapabilities is IA32_ARCH_CAPABILITIES, 0 for models without it.
func (m *Model) ArchCapabilities() (v uint64) {
	if m.ID == nil {
		return 0
	}
	for _, c := range claims {
		if c.leaf == archCaps && slices.Contains(m.ID.Says, c.name) {
			v |= 1 << c.bit
		}
	}
	return v
}

// claim sets the bits of a leaf that say something of the processor.
func (m *Model) claim(l *leaf) {
	if m.ID == nil {
		return
	}
	for _, c := range claims {
		if c.leaf != archCaps && c.leaf == l.leaf && slices.Contains(m.ID.Says, c.name) {
			*[]*uint32{&l.a, &l.b, &l.c, &l.d}[c.reg] |= 1 << c.bit
		}
	}
}

// intel tells whether the guest takes its processor for Intel's.
func (m *Model) intel() bool { return m.ID != nil && !m.ID.amd() }

// intelControls are leaf 7's EDX bits for what AMD's places show of SPEC_CTRL and
// PRED_CMD, one by one (SDM vol. 2, CPUID). Bit 26 stands for two.
func (m *Model) intelControls() (d uint32) {
	for _, c := range []struct {
		names string
		bit   uint8
	}{{"ibpb ibrs", 26}, {"stibp", 27}, {"ssbd", 31}} {
		all := true
		for _, n := range strings.Fields(c.names) {
			all = all && m.Has(n)
		}
		if all {
			d |= 1 << c.bit
		}
	}
	if m.ArchCapabilities() != 0 {
		d |= 1 << 29
	}
	return d
}
