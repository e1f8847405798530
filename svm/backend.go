package svm

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A Backend is AMD-V, enabled on every CPU.
type Backend struct {
	silicon
	caps  vcpu.Capabilities
	mem   mem.Allocator
	iopm  mem.Block // shared by all VMs: every port exits
	msrpm mem.Block // shared by all VMs: see msrPassed
	ibpbm mem.Block // likewise, by those that may make an IBPB
	cpus  []cpu     // by CPU number, each touched by its own CPU only
	base  uintptr   // of the direct map of physical memory

	briefly uint64 // briefNS in ticks

	machineCheck func() // runs the kernel's handler

	// shunBoot keeps guests off CPU 0. In QEMU's TCG (seen: 7.2, unchanged in 10)
	// whatever restores the x87 state on any CPU also clears a bit, IGNNE, among
	// CPU 0's flags, with a plain read and write from another thread: a change of the
	// flags for nested paging or GIF that CPU 0 makes meanwhile is lost, and its guest
	// runs without nested paging, or its host with it.
	shunBoot bool

	// stepsShadows has an interrupt window that waits for the end of a shadow found by a
	// single step. Processors find it themselves (APM 15.21.4 to 15.21.6), and a step is not without
	// danger: an instruction that faults or is a SYSCALL stores the trap flag for later.
	// But TCG's VMRUN loads no shadow, and Bochs 2.7 does not look for V_IRQ when it ends.
	stepsShadows bool
}

// A cpu is one processor of the host.
type cpu struct {
	hsave, host mem.Block // for VMRUN's host state, and for VMSAVE's
	generation  uint64    // of its ASIDs; 0 before the first
	nextASID    uint32
	tscAux      uint64 // what the guest MSR was set to last
	tscRate     uint64 // what the TSC ratio MSR was set to last
	last        uint64 // VCPU.serial of the one that ran here last
	_           [64]byte
}

var enabled struct {
	sync.Mutex
	b *Backend
}

// Open enables AMD-V on every CPU of the host, once, for guests that are so far trusted;
// later calls return the same Backend. The error says which feature is missing, or what
// locks it.
func Open(g x86.Guests) (*Backend, error) {
	if !kernel.Running() {
		return nil, errors.New("svm: not on bare hardware")
	}
	enabled.Lock()
	defer enabled.Unlock()
	if enabled.b != nil {
		return enabled.b, nil
	}
	si, err := discover(kernel.CPUID, kernel.ReadMSRSafe, xgetbv)
	if err != nil {
		return nil, err
	}
	kernel.OnEachCPU(func(id int) {
		if id == 0 { // what it takes is tried, and seen to hold on the same CPU
			si.protect(processor, g)
		}
	})
	verwSelector = kernel.HostState(0).SS
	b, err := newBackend(si, hostMemory{}, kernel.NumCPU())
	if err != nil {
		return nil, err
	}
	b.base = addressOf(b.iopm.Data) - uintptr(b.iopm.Phys)
	b.machineCheck = machineCheck
	b.stepsShadows = b.stepsShadows || mayBeBochs(kernel.FirmwareOEM())
	b.briefly = kernel.TSCFrequency() / 1e6 * briefNS / 1000
	if b.shunBoot = kernel.OnTCG() && kernel.NumCPU() > 1; b.shunBoot {
		b.caps.Notes = append(b.caps.Notes, "QEMU's emulated processors disturb CPU 0: guests run on the others")
	}
	errs := make([]error, kernel.NumCPU())
	kernel.OnEachCPU(func(id int) { errs[id] = b.cpus[id].enable(id, &b.silicon) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	enabled.b = b
	return b, nil
}

// mayBeBochs goes by the firmware's maker. Bochs's and QEMU's say the same.
func mayBeBochs(oem string) bool { return oem == "BOCHS" || oem == "" }

// processor is the calling CPU's.
var processor = x86.Processor{CPUID: kernel.CPUID, Read: kernel.ReadMSRSafe, Write: kernel.WriteMSRSafe}

// enable switches SVM on on the calling CPU (APM 15.4, 15.30.4).
func (c *cpu) enable(id int, si *silicon) error {
	if vmcr, ok := kernel.ReadMSRSafe(msrVMCR); ok && vmcr&vmcrDisabled != 0 {
		return fmt.Errorf("svm: CPU %d: the firmware has switched AMD-V off (VM_CR.SVMDIS), on others it has not", id)
	}
	if !kernel.WriteMSRSafe(msrEFER, kernel.ReadMSR(msrEFER)|eferSVME|eferNXE) || kernel.ReadMSR(msrEFER)&eferSVME == 0 {
		return fmt.Errorf("svm: CPU %d does not let EFER.SVME be set", id)
	}
	if si.barriers.AutoIBRS && !kernel.WriteMSRSafe(msrEFER, kernel.ReadMSR(msrEFER)|x86.EFERAuto) {
		return fmt.Errorf("svm: CPU %d does not let EFER.AIBRSE be set, though CPUID 80000021h shows automatic IBRS", id)
	}
	if err := takeSettings(&processor, &si.barriers); err != nil {
		return fmt.Errorf("svm: CPU %d %w", id, err)
	}
	if !si.takesControls(&processor) {
		return fmt.Errorf("svm: CPU %d does not take %#x in SPEC_CTRL, as the first CPU did: has the firmware given all CPUs the same microcode?", id, si.offered.SpecCtrl)
	}
	if !kernel.WriteMSRSafe(msrHSavePA, c.hsave.Phys) {
		return fmt.Errorf("svm: CPU %d refuses %#x as its host save area", id, c.hsave.Phys)
	}
	kernel.WriteMSRSafe(msrTSCAux, c.tscAux) // which firmware may have left at anything; not all have it
	if si.has(featTSCRate) && !kernel.WriteMSRSafe(msrTSCRate, c.tscRate) {
		return fmt.Errorf("svm: CPU %d refuses a TSC ratio of 1, though CPUID 8000000Ah shows that it has one", id)
	}
	return nil
}

// takeSettings gives a CPU what the first has taken.
func takeSettings(p *x86.Processor, need *x86.Barriers) error {
	if x := need.SpecCtrl; x != 0 && !p.Write(x86.MSRSpecCtrl, x) {
		return fmt.Errorf("does not take %#x in SPEC_CTRL, though CPUID 80000008h shows STIBP", x)
	}
	for _, s := range need.Settings {
		if !p.Set(s) {
			return fmt.Errorf("does not take the bits %#x of MSR %#x, as the first CPU did: has the firmware given all CPUs the same microcode?", s.Bits, s.MSR)
		}
	}
	return nil
}

func newBackend(si silicon, m mem.Allocator, cpus int) (*Backend, error) {
	b := &Backend{silicon: si, caps: si.capabilities(), mem: m, cpus: make([]cpu, cpus), stepsShadows: si.tcg()}
	var err error
	alloc := func(size uint64) (blk mem.Block) {
		if err == nil {
			if blk, err = m.Alloc(size, 4096); err != nil {
				err = fmt.Errorf("svm: no memory for the permission maps and host save areas: %w", err)
			}
		}
		return blk
	}
	b.iopm, b.msrpm, b.ibpbm = alloc(iopmSize), alloc(msrpmSize), alloc(msrpmSize)
	for i := range b.cpus {
		b.cpus[i].hsave, b.cpus[i].host = alloc(4096), alloc(4096)
		b.cpus[i].tscRate = rateOne
	}
	if err != nil {
		return nil, err
	}
	fillMaps(b.iopm.Data, b.msrpm.Data)
	copy(b.ibpbm.Data, b.msrpm.Data)
	pass(b.ibpbm.Data, x86.MSRPredCmd, passWrite) // SBPB, which newer ones have too, does no harm
	return b, nil
}

// Name is "svm".
func (b *Backend) Name() string { return "svm" }

// Capabilities says what the silicon offers.
func (b *Backend) Capabilities() vcpu.Capabilities { return b.caps }

// NewSpace makes the hardware side of one VM.
func (b *Backend) NewSpace(cfg vcpu.SpaceConfig) (vcpu.Space, error) {
	if cfg.Tables == nil {
		return nil, fmt.Errorf("svm: VM %q has no second-level tables", cfg.Name)
	}
	if x := cfg.CPUID.XCR0 &^ b.xcr0; x != 0 {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has XSAVE components %#x that this host can not switch", cfg.Name, x)
	}
	if cfg.CPUID.XSS != 0 {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has supervisor XSAVE components %#x; none are switched here", cfg.Name, cfg.CPUID.XSS)
	}
	if e := cfg.CPUID.EFER &^ (1 | eferLME | eferLMA | eferNXE | 1<<14); e != 0 {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has EFER bits %#x, which no guest gets", cfg.Name, e)
	}
	if cfg.CPUID.CR4&cr4LA57 != 0 {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has 5-level paging, which no guest gets", cfg.Name)
	}
	if c := cfg.CPUID.Controls.Without(b.offered); c != (x86.Controls{}) {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has controls against speculation that this host can not give: %v", cfg.Name, c)
	}
	if cfg.CPUID.PhysBits > b.physBits {
		return nil, fmt.Errorf("svm: VM %q: its CPU model has %d physical address bits, this host %d", cfg.Name, cfg.CPUID.PhysBits, b.physBits)
	}
	if cfg.CPUID.PhysBits == 0 {
		cfg.CPUID.PhysBits = b.physBits
	}
	return &Space{b: b, cfg: cfg}, nil
}

// A Space is one VM.
type Space struct {
	b   *Backend
	cfg vcpu.SpaceConfig

	mu    sync.Mutex // guards vcpus
	vcpus []*VCPU
}

// NewVCPU makes a VCPU in reset state.
func (s *Space) NewVCPU(index int) (vcpu.VCPU, error) {
	v, err := newVCPU(s)
	if err != nil {
		return nil, fmt.Errorf("svm: VM %q, VCPU %d: %w", s.cfg.Name, index, err)
	}
	var st vcpu.State
	st.Reset(true) // whether it waits for a SIPI is the VMM's affair
	if err := v.Load(&st); err != nil {
		v.Close()
		return nil, fmt.Errorf("svm: VM %q, VCPU %d: reset state: %w", s.cfg.Name, index, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vcpus = append(s.vcpus, v)
	return v, nil
}

// Sync waits until no VCPU runs with translations older than the tables.
func (s *Space) Sync() {
	gen := s.cfg.Tables.Generation()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vcpus {
		kicked := false
		for {
			w := v.word.Load()
			if w&inside == 0 || v.seen.Load() >= gen {
				break
			}
			if !kicked {
				// The entry that this hits leaves the guest and comes
				// back with the new generation.
				kernel.KickCPU(int(w >> cpuShift))
				kicked = true
			}
			runtime.Gosched()
		}
	}
}

func (s *Space) forget(v *VCPU) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.vcpus {
		if s.vcpus[i] == v {
			s.vcpus = append(s.vcpus[:i], s.vcpus[i+1:]...)
			return
		}
	}
}

// Close checks that all VCPUs are closed.
func (s *Space) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.vcpus); n != 0 {
		return fmt.Errorf("svm: VM %q: closed with %d VCPUs open", s.cfg.Name, n)
	}
	return nil
}

// hostMemory is the kernel's physical memory.
type hostMemory struct{}

func (hostMemory) Alloc(size, align uint64) (mem.Block, error) {
	phys, data, err := kernel.AllocPhys(size, align)
	return mem.Block{Phys: phys, Data: data}, err
}

func (hostMemory) Free(b mem.Block) { kernel.FreePhys(b.Phys, uint64(len(b.Data))) }
