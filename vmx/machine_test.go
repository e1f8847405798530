package vmx

import (
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A simulated machine has CPUs with VMX but no guests: enter calls a function of
// the test's, which plays the guest by changing the frame and the VMCS.
type simulated struct {
	mem.Simulated
	t       *testing.T
	model   model
	cpus    int
	mu      sync.Mutex
	regions map[uint64]*region
	current []uint64 // by CPU
	on      []bool
	msrs    []map[uint32]uint64
	at      atomic.Int64 // the CPU that thisCPU names, unless onEachCPU runs
	visit   atomic.Int64 // its CPU plus one
	now     atomic.Uint64
	guest   func(g *guest)
	kicks   []int
	invepts []uint64
	tags    []uint16
	timers  []uint64
	nmis    int
	oem     string
	mces    int
	dr      debugRegs
	inside  bool
	edx7    uint32   // CPUID.7:EDX
	sig     uint32   // CPUID.1:EAX
	orders  []uint32 // writes of command MSRs
	nmi     []uint32 // what NMIs begin with
	writes  int      // VMWRITEs
}

// A region is a VMCS.
type region struct {
	fields   map[field]uint64
	launched bool
	active   int // CPU, or nowhere
}

// A guest is what the function that plays one gets.
type guest struct {
	*simulated
	f *frame
	r *region
}

func (g *guest) exit(reason uint64, qualification uint64) {
	g.r.fields[fExitReason] = reason
	g.r.fields[fQualification] = qualification
}

func newMachine(t *testing.T, name string) *simulated {
	m := &simulated{t: t, model: models[name], cpus: 2, regions: map[uint64]*region{}}
	if m.model.msrs == nil {
		t.Fatalf("no model %q", name)
	}
	for range m.cpus {
		m.current = append(m.current, 0)
		m.on = append(m.on, false)
		m.msrs = append(m.msrs, map[uint32]uint64{msrSTAR: 0x1111, msrLSTAR: 0x2222, msrSFMASK: 0x3333})
	}
	return m
}

func (m *simulated) cpuid(leaf, sub uint32) (a, b, c, d uint32) {
	switch leaf {
	case 1:
		return m.sig, 0, 1<<5 | 1<<26, 0
	case 0xd:
		switch sub {
		case 0:
			return 0x2e7, 0, 0, 0
		case 2:
			return 256, 576, 0, 0
		case 5:
			return 64, 1088, 0, 0
		case 6:
			return 512, 1152, 0, 0
		case 7:
			return 1024, 1664, 0, 0
		case 9:
			return 8, 2688, 0, 0
		}
	case 0:
		return 0x16, 0, 0, 0
	case 7:
		return 0, 0, 0, m.edx7
	case 0x80000000:
		return 0x80000008, 0, 0, 0
	case 0x80000008:
		return 40, 0, 0, 0
	}
	return 0, 0, 0, 0
}

func (m *simulated) rdmsrSafe(msr uint32) (uint64, bool) {
	v, ok := m.model.msrs[msr]
	return v, ok
}

func (m *simulated) region() *region {
	p := m.current[m.thisCPU()]
	if p == 0 {
		return nil
	}
	return m.regions[p]
}

func (m *simulated) vmread(f field) (uint64, bool) {
	r := m.region()
	if r == nil {
		m.t.Errorf("VMREAD %#x without a current VMCS on CPU %d", f, m.thisCPU())
		return 0, false
	}
	return r.fields[f], true
}

func (m *simulated) vmwrite(f field, v uint64) bool {
	r := m.region()
	switch {
	case r == nil:
		m.t.Errorf("VMWRITE %#x without a current VMCS on CPU %d", f, m.thisCPU())
		return false
	case !f.valid() || f.readOnly():
		m.t.Errorf("VMWRITE to field %#x", f)
		return false
	case v>>(f.width()-1)>>1 != 0:
		m.t.Errorf("VMWRITE of %#x to field %#x of %d bits", v, f, f.width())
	}
	m.writes++
	r.fields[f] = v
	return true
}

func (m *simulated) vmclear(phys uint64) bool {
	r := m.regions[phys]
	if r == nil {
		r = &region{fields: map[field]uint64{}, active: nowhere}
		m.regions[phys] = r
	}
	if r.active != nowhere && r.active != m.thisCPU() {
		m.t.Errorf("VMCLEAR on CPU %d of a VMCS that is active on CPU %d", m.thisCPU(), r.active)
	}
	r.active, r.launched = nowhere, false
	if c := m.thisCPU(); m.current[c] == phys {
		m.current[c] = 0
	}
	return true
}

func (m *simulated) vmptrld(phys uint64) bool {
	r := m.regions[phys]
	if r == nil {
		m.t.Errorf("VMPTRLD of %#x, which was never cleared", phys)
		return false
	}
	if r.active != nowhere && r.active != m.thisCPU() {
		m.t.Errorf("VMPTRLD on CPU %d of a VMCS that is active on CPU %d", m.thisCPU(), r.active)
	}
	r.active = m.thisCPU()
	m.current[r.active] = phys
	return true
}

func (m *simulated) invept(kind, eptp uint64) bool {
	m.invepts = append(m.invepts, eptp)
	return true
}

func (m *simulated) invvpid(kind uint64, vpid uint16) bool {
	m.tags = append(m.tags, vpid)
	return true
}

func (m *simulated) enter(f *frame) entryStatus {
	r := m.region()
	switch {
	case r == nil:
		return failInvalid
	case !m.inside:
		m.t.Error("entry outside privileged")
	case r.launched != (f.launched == 1):
		m.t.Errorf("launched is %d, the VMCS's state %v", f.launched, r.launched)
		r.fields[fInstructionError] = 4
		return failValid
	}
	if r.fields[fTPRThreshold]&0xf > f.regs.CR8 {
		m.t.Errorf("TPR threshold %d above the task priority %d", r.fields[fTPRThreshold], f.regs.CR8)
	}
	for _, h := range []field{fHostCR0, fHostCR3, fHostRIP, fHostTRBase, fHostFSBase} {
		if r.fields[h] == 0 {
			m.t.Errorf("host field %#x is 0", h)
		}
	}
	if lo := m.thisCPU(); r.fields[fHostFSBase] != uint64(0x10000+lo) {
		m.t.Errorf("CPU %d entered with the host state of another: FS base %#x", lo, r.fields[fHostFSBase])
	}
	r.launched = true
	r.fields[fVectoringEvent] = 0
	r.fields[fExitEvent] = 0
	r.fields[fExitLength] = 2
	g := &guest{m, f, r}
	m.guest(g)
	r.fields[fEntryEvent] &^= infoValid
	return entered
}

func (m *simulated) exitAddress() uint64 { return 0x1000 }

func (m *simulated) wrmsr(msr uint32, v uint64) {
	if msr == x86.MSRPredCmd || msr == x86.MSRFlushCmd {
		m.orders = append(m.orders, msr)
		return
	}
	m.msrs[m.thisCPU()][msr] = v
}
func (m *simulated) rdmsr(msr uint32) uint64 { return m.msrs[m.thisCPU()][msr] }
func (m *simulated) setDR(dr *debugRegs)     { m.dr = *dr }
func (m *simulated) getDR(dr *debugRegs)     { *dr = m.dr }
func (m *simulated) hostNMI()                { m.nmis++ }
func (m *simulated) hostMachineCheck()       { m.mces++ }
func (m *simulated) hostXCR0() uint64        { return 0x2e7 }
func (m *simulated) mxcsrMask() uint32       { return 0xffff }

func (m *simulated) privileged(fn func(unsafe.Pointer), arg unsafe.Pointer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inside = true
	fn(arg)
	m.inside = false
}

func (m *simulated) privilegedBriefly(fn func(unsafe.Pointer), arg unsafe.Pointer) {
	m.privileged(fn, arg)
}

func (m *simulated) thisCPU() int {
	if v := m.visit.Load(); v != 0 {
		return int(v - 1)
	}
	return int(m.at.Load())
}
func (m *simulated) numCPU() int { return m.cpus }

func (m *simulated) onEachCPU(fn func(cpu int)) {
	for c := range m.cpus {
		m.visit.Store(int64(c + 1))
		fn(c)
	}
	m.visit.Store(0)
}

func (m *simulated) hostState(cpu int) kernel.HostContext {
	return kernel.HostContext{
		CR0: 0x80050033, CR3: 0x5000, CR4: 0x426f0, EFER: 0xd01, PAT: 0x0007040600070406,
		FSBase: uint64(0x10000 + cpu), GSBase: 0x20000, TRBase: 0x30000, GDTBase: 0x40000, IDTBase: 0x50000,
		CS: 8, SS: 0x10, TR: 0x30,
	}
}

func (m *simulated) kick(cpu int)                { m.kicks = append(m.kicks, cpu) }
func (m *simulated) fenceNMIs(msr, value uint32) { m.nmi = []uint32{msr, value} }
func (m *simulated) setTimer(tsc uint64)         { m.timers = append(m.timers, tsc) }
func (m *simulated) tsc() uint64                 { return m.now.Add(1) }
func (m *simulated) tscHz() uint64               { return 1_000_000_000 }
func (m *simulated) firmware() string            { return m.oem }

func (m *simulated) enable(revision uint32, region uint64) enableStatus {
	m.on[m.thisCPU()] = true
	return enabled
}

// tables are second-level page tables without pages.
type tables struct {
	generation atomic.Uint64
	logged     []uint64
}

func (t *tables) Root() uint64       { return 0x7000 }
func (t *tables) Generation() uint64 { return t.generation.Load() }
func (t *tables) Log(g []uint64)     { t.logged = append(t.logged, g...) }

// wide is a CPU model with everything that the tests use.
var wide = vcpu.Policy{
	CR4: 0x3707ff &^ cr4VMXE, XCR0: 0x2e7, EFER: eferSCE | eferLME | eferNXE, PhysBits: 40,
	RDTSCP: true, INVPCID: true, XSAVES: true,
}

// start makes a VCPU on a simulated machine.
func start(t *testing.T) (*simulated, *tables, *VCPU) {
	t.Helper()
	return startOn(t, newMachine(t, "corei7_icelake_u"))
}

func startOn(t *testing.T, m *simulated) (*simulated, *tables, *VCPU) {
	t.Helper()
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	tab := &tables{}
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "test", Tables: tab, CPUID: wide})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.NewVCPU(0)
	if err != nil {
		t.Fatal(err)
	}
	m.guest = func(g *guest) { t.Fatal("entered without a guest") }
	return m, tab, v.(*VCPU)
}

func run(t *testing.T, v *VCPU) vcpu.Exit {
	t.Helper()
	var e vcpu.Exit
	if err := v.Run(&e); err != nil {
		t.Fatal(err)
	}
	return e
}

// model is what a processor said of itself. All are as the models of Bochs 2.7
// answer, which its authors took from silicon; those processors that have no TRUE
// or EPT capability MSR have no entry.
type model struct{ msrs map[uint32]uint64 }

func msrs(feature uint64, from480 ...uint64) model {
	m := map[uint32]uint64{msrFeatureControl: feature}
	for i, v := range from480 {
		if v != absent {
			m[0x480+uint32(i)] = v
		}
	}
	return model{m}
}

const absent = ^uint64(0)

var models = map[string]model{
	"tigerlake": msrs(5, 0x01d8100000000004, 0x0000007f00000016, 0xfff9fffe0401e172, 0x107fffff00036dff,
		0x0010ffff000011ff, 0x600401e0, 0x80000021, 0xffffffff, 0x2000, 0xf72fff, 0x34, 0x02977fff00000000,
		0x00000f0106b34141, 0x0000007f00000016, 0xfff9fffe04006172, 0x107fffff00036dfb, 0x0010ffff000011fb),
	"corei7_icelake_u": msrs(5, 0x00d8100000000004, 0x0000007f00000016, 0xfff9fffe0401e172, 0x007fffff00036dff,
		0x0000ffff000011ff, 0x600401e0, 0x80000021, 0xffffffff, 0x2000, 0x772fff, 0x34, 0x02977fff00000000,
		0x00000f0106334141, 0x0000007f00000016, 0xfff9fffe04006172, 0x007fffff00036dfb, 0x0000ffff000011fb),
	"broadwell_ult": msrs(5, 0x00d810000000002b, 0x0000007f00000016, 0xf7f9fffe0401e172, 0x007fffff00036dff,
		0x0000ffff000011ff, 0x200401e0, 0x80000021, 0xffffffff, 0x2000, 0x3727ff, 0x34, 0x00057fff00000000,
		0x00000f0106334141, 0x0000007f00000016, 0xf7f9fffe04006172, 0x007fffff00036dfb, 0x0000ffff000011fb),
	"corei7_sandy_bridge_2600k": msrs(5, 0x00d810000000002b, 0x0000007f00000016, 0xf7f9fffe0401e172,
		0x007fffff00036dff, 0x0000ffff000011ff, 0x000401e0, 0x80000021, 0xffffffff, 0x2000, 0x0627ff, 0x34,
		0x000000ff00000000, 0x00000f0106114141, 0x0000007f00000016, 0xf7f9fffe04006172, 0x007fffff00036dfb,
		0x0000ffff000011fb),
	"corei5_lynnfield_750": msrs(5, 0x00d810000000002b, 0x0000007f00000016, 0xf7f9fffe0401e172,
		0x007fffff00036dff, 0x0000ffff000011ff, 0x000401e0, 0x80000021, 0xffffffff, 0x2000, 0x0067ff, 0x34,
		0x0000007f00000000, 0x00000f0106114141, 0x0000007f00000016, 0xf7f9fffe04006172, 0x007fffff00036dfb,
		0x0000ffff000011fb),
	"core2_penryn_t9600": msrs(5, 0x00d810000000002b, 0x0000003f00000016, 0xf7f9fffe0401e172, 0x0003ffff00036dff,
		0x00003fff000011ff, 0x000401e0, 0x80000021, 0xffffffff, 0x2000, 0x0467ff, 0x34, 0x0000004100000000,
		absent, 0x0000003f00000016, 0xf7f9fffe04006172, 0x0003ffff00036dfb, 0x00003fff000011fb),
}

func (m model) with(msr uint32, v uint64) model {
	n := map[uint32]uint64{}
	for k, x := range m.msrs {
		n[k] = x
	}
	n[msr] = v
	return model{n}
}
