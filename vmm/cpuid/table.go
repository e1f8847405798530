package cpuid

import "encoding/binary"

// A leaf of the answer.
type leaf struct {
	leaf, sub  uint32
	anySub     bool
	a, b, c, d uint32
}

// A Table answers CPUID for one machine. It does not change after New, so any
// number of processors ask it at once.
type Table struct {
	leaves   []leaf
	maxBasic uint32
	maxExt   uint32
	cpus     uint32
}

// Dynamic is the state of the asking processor that some leaves show.
type Dynamic struct {
	APICID     uint32
	CR4        uint64
	XCR0       uint64
	APICActive bool // the local APIC is enabled in IA32_APIC_BASE
}

// The hypervisor leaves: KVM's (Linux, Documentation/virt/kvm/x86/cpuid.rst).
// Godwit answers with KVM's signature because unmodified Linux then takes its
// clock from kvmclock and uses the x2APIC without interrupt remapping. Shown
// is only what is implemented.
const (
	kvmBase             = 0x40000000
	kvmFeatures         = 0x40000001
	kvmFeatureNopIO     = 1 << 1 // no delays on port I/O needed
	kvmFeatureClock2    = 1 << 3 // MSRs 4b564d00 and 01
	kvmFeatureStableTSC = 1 << 24
	// KVMFeatures is leaf 40000001H's EAX.
	KVMFeatures = kvmFeatureNopIO | kvmFeatureClock2 | kvmFeatureStableTSC
)

// New makes the answers of a machine of model m with cpus processors on h.
func (h *HostCPU) New(m *Model, cpus int) *Table {
	t := &Table{maxBasic: 0xd, maxExt: 0x80000008, cpus: uint32(cpus)}
	e21 := leaf{leaf: 0x80000021, anySub: true}
	if m.claim(&e21); e21.a|e21.c != 0 {
		t.maxExt = e21.leaf
	}
	vendor := []byte(m.Vendor)
	le := binary.LittleEndian
	vb, vd, vc := le.Uint32(vendor), le.Uint32(vendor[4:]), le.Uint32(vendor[8:])
	t.put(leaf{leaf: 0, anySub: true, a: t.maxBasic, b: vb, c: vc, d: vd})

	// Leaf 1: the signature, CLFLUSH line size 8 quadwords, and how many APIC
	// IDs the package has.
	intel := m.intel()
	sig := m.Stepping | (m.ModelNo&0xf)<<4 | min(m.Family, 15)<<8 | (m.ModelNo>>4)<<16 | (m.Family-min(m.Family, 15))<<20
	if m.ID != nil {
		sig = m.ID.Signature
	}
	l1 := leaf{leaf: 1, anySub: true, a: sig, b: 8<<8 | uint32(cpus)<<16}
	m.fill(&l1)
	if cpus > 1 {
		l1.d |= 1 << 28 // HTT: EBX[23:16] is valid
	}
	t.put(l1)

	// Leaf 4: no cache description; AMD's leaves 80000005H and 6H have it.
	l7 := leaf{leaf: 7}
	m.fill(&l7)
	if intel {
		l7.d |= m.intelControls()
	}
	t.put(l7)

	// Leaf 0BH: one thread a core, all cores in one package.
	shift := uint32(0)
	for 1<<shift < cpus {
		shift++
	}
	t.put(leaf{leaf: 0xb, sub: 0, a: 0, b: 1, c: 0 | 1<<8})
	t.put(leaf{leaf: 0xb, sub: 1, a: shift, b: uint32(cpus), c: 1 | 2<<8})

	h.xsaveLeaves(t, m)

	t.put(leaf{leaf: kvmBase, anySub: true, a: kvmFeatures, b: 0x4b4d564b, c: 0x564b4d56, d: 0x4d}) // "KVMKVMKVM\0\0\0"
	t.put(leaf{leaf: kvmFeatures, anySub: true, a: KVMFeatures})

	t.put(leaf{leaf: 0x80000000, anySub: true, a: t.maxExt, b: vb, c: vc, d: vd})
	e1 := leaf{leaf: 0x80000001, anySub: true, a: sig}
	m.fill(&e1)
	if !intel {
		e1.d |= l1.d & 0x0183f3ff // AMD repeats leaf 1's (APM vol. 3, E.4.2)
	}
	if cpus > 1 && !intel {
		e1.c |= 1 << 1 // CmpLegacy: the cores of 80000008H are no threads
	}
	t.put(e1)
	var brand [48]byte
	copy(brand[:47], m.Brand)
	for i := range uint32(3) {
		b := brand[i*16:]
		t.put(leaf{leaf: 0x80000002 + i, anySub: true, a: le.Uint32(b), b: le.Uint32(b[4:]), c: le.Uint32(b[8:]), d: le.Uint32(b[12:])})
	}
	// A common cache, which Intel's kernels do without here: L1 32 KiB 8-way, L2 512 KiB 8-way, L3 16 MiB 16-way,
	// lines of 64 bytes (APM vol. 3, E.4.3 and E.4.4).
	if !intel {
		t.put(leaf{leaf: 0x80000005, anySub: true, a: 0xff40ff40, b: 0xff40ff40, c: 32<<24 | 8<<16 | 1<<8 | 64, d: 32<<24 | 8<<16 | 1<<8 | 64})
		t.put(leaf{leaf: 0x80000006, anySub: true, b: 0x42004200, c: 512<<16 | 6<<12 | 1<<8 | 64, d: 32<<18 | 8<<12 | 1<<8 | 64})
	}
	e8 := leaf{leaf: 0x80000008, anySub: true, a: uint32(m.PhysBits) | 48<<8}
	if !intel {
		e8.c = uint32(cpus-1) | shift<<12
	}
	m.fill(&e8)
	m.claim(&e8)
	t.put(e8)
	t.put(e21)
	return t
}

func (t *Table) put(l leaf) { t.leaves = append(t.leaves, l) }

// fill sets the model's feature bits of a leaf.
func (m *Model) fill(l *leaf) {
	for i, f := range features {
		if f.leaf != l.leaf || f.sub != l.sub || f.kind == dynamic || !m.features.has(i) {
			continue
		}
		switch f.reg {
		case EAX:
			l.a |= 1 << f.bit
		case EBX:
			l.b |= 1 << f.bit
		case ECX:
			l.c |= 1 << f.bit
		case EDX:
			l.d |= 1 << f.bit
		}
	}
}

// Sizes of the XSAVE area's fixed part (SDM vol. 1, section 13.4).
const xsaveBase = 512 + 64

// xsaveLeaves describes the components of the model. Their places are the same
// on every processor for those this release knows (AVX and AVX-512: SDM vol. 1,
// section 13.5; AMD uses the same), so that the area can move.
func (h *HostCPU) xsaveLeaves(t *Table, m *Model) {
	x := m.Policy().XCR0
	size := uint32(xsaveBase)
	for i := 2; i < 62; i++ {
		if x>>i&1 == 0 {
			continue
		}
		c := component(i)
		t.put(leaf{leaf: 0xd, sub: uint32(i), a: c.size, b: c.offset})
		size = max(size, c.offset+c.size)
	}
	t.put(leaf{leaf: 0xd, sub: 0, a: uint32(x), b: xsaveBase, c: size, d: uint32(x >> 32)})
	l := leaf{leaf: 0xd, sub: 1}
	m.fill(&l)
	t.put(l)
}

type area struct{ offset, size uint32 }

// component is the place of an XSAVE component in the standard format.
func component(i int) area {
	switch i {
	case 2:
		return area{576, 256} // AVX
	case 5:
		return area{1088, 64} // opmask
	case 6:
		return area{1152, 512} // ZMM_Hi256
	case 7:
		return area{1664, 1024} // Hi16_ZMM
	}
	return area{}
}

// SizeFor is the size of the area for the components in xcr0.
func SizeFor(xcr0 uint64) uint32 {
	size := uint32(xsaveBase)
	for i := 2; i < 62; i++ {
		if xcr0>>i&1 != 0 {
			c := component(i)
			size = max(size, c.offset+c.size)
		}
	}
	return size
}

// Query answers CPUID. It neither allocates nor locks.
func (t *Table) Query(n, sub uint32, d *Dynamic) (ra, rb, rc, rd uint32) {
	switch {
	case n>>16 == 0x8000:
		if n > t.maxExt {
			return 0, 0, 0, 0
		}
	case n>>16 == 0x4000:
	case n > t.maxBasic:
		// Out of range asks the highest basic leaf on Intel and nothing on
		// AMD (APM vol. 3, CPUID): the models are AMD's.
		return 0, 0, 0, 0
	}
	for i := range t.leaves {
		l := &t.leaves[i]
		if l.leaf != n || !l.anySub && l.sub != sub {
			continue
		}
		ra, rb, rc, rd = l.a, l.b, l.c, l.d
		break
	}
	switch n {
	case 1:
		rb |= d.APICID << 24
		if d.CR4&cr4OSXSAVE != 0 {
			rc |= 1 << 27
		}
		if !d.APICActive {
			rd &^= 1 << 9
		}
	case 0xb:
		rd = d.APICID
		if sub > 1 {
			rc = sub & 0xff
		}
	case 0xd:
		if sub == 0 {
			rb = SizeFor(d.XCR0)
		}
	case 0x80000001:
		if !d.APICActive {
			rd &^= 1 << 9
		}
	}
	return
}
