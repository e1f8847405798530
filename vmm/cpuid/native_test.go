package cpuid

import (
	"slices"
	"strings"
	"testing"

	"godwit/vmm/vcpu/x86"
)

// nativeHost is a processor by vendor (EBX, ECX, EDX of leaf 0), signature, its
// capabilities MSR and its leaves of AMD's. It has all features.
func nativeHost(vendor [3]uint32, sig uint32, archCaps uint64, ebx8, eax21, ecx21 uint32) *HostCPU {
	all, k := fake(), caps
	k.Controls = x86.Controls{SpecCtrl: x86.SpecIBRS | x86.SpecSTIBP | x86.SpecSSBD, IBPB: true}
	k.ArchCapabilities = archCaps
	return NewHost(func(l, sub uint32) (a, b, c, d uint32) {
		a, b, c, d = all(l, sub)
		switch l {
		case 0:
			return a, vendor[0], vendor[1], vendor[2]
		case 1:
			return sig, b, c, d
		case 0x80000008:
			b |= ebx8
		case 0x80000021:
			a, c = eax21, ecx21
		}
		return a, b, c, d
	}, k)
}

var (
	intelID = [3]uint32{0x756e6547, 0x6c65746e, 0x49656e69}
	amdID   = [3]uint32{0x68747541, 0x444d4163, 0x69746e65}
)

const (
	cascadeLake = 0x00050657
	zen4        = 0x00a10f11
)

func native(t *testing.T, h *HostCPU) *Model {
	t.Helper()
	m, err := h.Find(Native)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// On an Intel host the guest sees Intel's processor, at Intel's places; of what it says of
// itself, what is true in a guest.
func TestNativeOnIntel(t *testing.T) {
	const rdclNo, ibrsAll, skipL1D, mdsNo, psChange, tsxCtrl = 1 << 0, 1 << 1, 1 << 3, 1 << 5, 1 << 6, 1 << 7
	h := nativeHost(intelID, 1<<31|cascadeLake, rdclNo|ibrsAll|skipL1D|mdsNo|psChange|tsxCtrl|1<<63, 0, 0, 0)
	m := native(t, h)
	tab := h.New(m, 2)
	_, b, c, d := tab.Query(0, 0, &Dynamic{})
	sig, _, _, _ := tab.Query(1, 0, &Dynamic{})
	_, _, _, edx7 := tab.Query(7, 0, &Dynamic{})
	_, _, ecx1, _ := tab.Query(0x80000001, 0, &Dynamic{})
	_, _, ecx8, _ := tab.Query(0x80000008, 0, &Dynamic{})
	if [3]uint32{b, c, d} != intelID || sig != cascadeLake {
		t.Errorf("vendor %x %x %x, signature %#x", b, c, d, sig)
	}
	if edx7&(1<<26|1<<27|1<<29|1<<31) != 1<<26|1<<27|1<<29|1<<31 || ecx1&2 != 0 || ecx8 != 0 {
		t.Errorf("leaf 7 EDX %#x, 80000001 ECX %#x, 80000008 ECX %#x", edx7, ecx1, ecx8)
	}
	if got := m.ArchCapabilities(); got != rdclNo|ibrsAll|mdsNo {
		t.Errorf("capabilities %#x", got)
	}
	// One that says nothing has no such register.
	h = nativeHost(intelID, cascadeLake, 0, 0, 0, 0)
	if _, _, _, d := h.New(native(t, h), 1).Query(7, 0, &Dynamic{}); d&(1<<29) != 0 {
		t.Error("capabilities are shown where there are none")
	}
}

func TestNativeOnAMD(t *testing.T) {
	const btcNo, lfence, auto, srsoNo = 1 << 29, 1 << 2, 1 << 8, 1 << 29
	h := nativeHost(amdID, zen4, 1, btcNo, lfence|auto|srsoNo, 1<<1)
	m := native(t, h)
	tab := h.New(m, 2)
	top, b, c, d := tab.Query(0x80000000, 0, &Dynamic{})
	sig, _, _, _ := tab.Query(0x80000001, 0, &Dynamic{})
	_, ebx8, _, _ := tab.Query(0x80000008, 0, &Dynamic{})
	eax21, _, ecx21, _ := tab.Query(0x80000021, 0, &Dynamic{})
	_, _, _, edx7 := tab.Query(7, 0, &Dynamic{})
	if top != 0x80000021 || [3]uint32{b, c, d} != amdID || sig != zen4 {
		t.Errorf("top %#x, vendor %x %x %x, signature %#x", top, b, c, d, sig)
	}
	if ebx8&(btcNo|1<<12) != btcNo|1<<12 || eax21 != lfence|srsoNo || ecx21 != 1<<1 {
		t.Errorf("80000008 EBX %#x, 80000021 EAX %#x ECX %#x", ebx8, eax21, ecx21)
	}
	if edx7&(1<<26|1<<27|1<<29|1<<31) != 0 || m.ArchCapabilities() != 0 {
		t.Errorf("Intel's bits: %#x, %#x", edx7, m.ArchCapabilities())
	}
	// The other models know nothing of all this.
	for _, name := range []string{"", "godwit-v2+spec", Host} {
		m, err := h.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		top, _, _, _ := h.New(m, 1).Query(0x80000000, 0, &Dynamic{})
		if _, ebx8, _, _ := h.New(m, 1).Query(0x80000008, 0, &Dynamic{}); top != 0x80000008 || ebx8&btcNo != 0 || m.ID != nil {
			t.Errorf("%s: top %#x, 80000008 EBX %#x", m.Name, top, ebx8)
		}
	}
}

// It moves only to the same processor, which says no less good of itself and no more bad.
func TestNativeMovesToItsLikeOnly(t *testing.T) {
	const rdclNo, rsba, mdsNo = 1 << 0, 1 << 2, 1 << 5
	from := native(t, nativeHost(intelID, cascadeLake, rdclNo|mdsNo, 0, 0, 0))
	m, err := FromFeatures(from.Name, from.PhysBits, from.Features(), from.ID)
	if err != nil || m.ArchCapabilities() != from.ArchCapabilities() || !m.ID.Equal(from.ID) {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, c := range []struct {
		h    *HostCPU
		want string // "": it can
	}{
		{nativeHost(intelID, cascadeLake, rdclNo|mdsNo, 0, 0, 0), ""},
		{nativeHost(intelID, cascadeLake, rdclNo|mdsNo|1<<8, 0, 0, 0), ""},
		{nativeHost(intelID, cascadeLake, rdclNo, 0, 0, 0), "lacks mds_no for CPU model native"},
		{nativeHost(intelID, cascadeLake, rdclNo|mdsNo|rsba, 0, 0, 0), "lacks the absence of rsba"},
		{nativeHost(intelID, cascadeLake-1, rdclNo|mdsNo, 0, 0, 0), "lacks a GenuineIntel processor 00050657 (it is a GenuineIntel processor 00050656)"},
		{nativeHost(amdID, zen4, 0, 0, 0, 0), "(it is a AuthenticAMD processor 00a10f11)"},
	} {
		err := c.h.Check(m)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
	for _, c := range []struct {
		name string
		id   *Identity
	}{
		{Native, nil}, {Host, from.ID}, {"godwit-v1", from.ID},
	} {
		if _, err := FromFeatures(c.name, from.PhysBits, from.Features(), c.id); err == nil {
			t.Errorf("%s was taken with identity %v", c.name, c.id)
		}
	}
	// What a peer makes up is refused before anything is built of it.
	for _, id := range []*Identity{{}, {Vendor: "x"}, {Vendor: from.ID.Vendor, Signature: cascadeLake, Says: []string{"flux_no"}}} {
		m, err := FromFeatures(Native, from.PhysBits, from.Features(), id)
		if err == nil {
			err = nativeHost(intelID, cascadeLake, rdclNo|mdsNo, 0, 0, 0).Check(m)
		}
		if err == nil {
			t.Errorf("%+v was taken", id)
		}
	}
}

// A hypervisor below may hide IBRS and leave the bit that says how good it is.
func TestNativeWithoutIBRSClaimsNone(t *testing.T) {
	k := caps
	k.ArchCapabilities = ibrsAll | 1<<5
	if m := native(t, NewHost(fake(), k)); m.ArchCapabilities() != 1<<5 {
		t.Errorf("capabilities %#x", m.ArchCapabilities())
	}
}

func TestClaimsAreNamedOnce(t *testing.T) {
	var names []string
	for _, c := range claims {
		if slices.Contains(names, c.name) || featureIndex[c.name] != 0 {
			t.Errorf("%s is there twice", c.name)
		}
		names = append(names, c.name)
	}
}
