package vmx

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"godwit/kernel"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A backend is VT-x, on in VMX root operation on every CPU.
type backend struct {
	m     machine
	s     *silicon
	cpus  []cpu
	tags  tags
	slice uint64 // the longest stay in a guest, in TSC ticks
	brief uint64 // briefNS in ticks
}

// A cpu is what this package keeps for each of the host's. Only code inside
// privileged on that CPU touches it.
type cpu struct {
	vmxon   mem.Block // the VMXON region; the processor owns it
	current uint64    // the current VMCS, 0 if none
	guest   uint64    // whose MSRs the CPU holds that the host does not use: VCPU.serial
	last    uint64    // VCPU.identity of the one that ran here last

	star, lstar, sfmask uint64   // the host's
	_                   [64]byte // other CPUs' entries stay out of this cache line
}

var host struct {
	once sync.Once
	b    *backend
	err  error
}

// Open switches VT-x on, on every CPU, and returns the backend, for guests that are so
// far trusted as the first call says. The error says what is missing, or who has switched
// it off.
func Open(g x86.Guests) (vcpu.Backend, error) {
	if !kernel.Running() {
		return nil, errors.New("vmx: this program does not run on bare hardware")
	}
	host.once.Do(func() { host.b, host.err = open(ring0{}, g) })
	if host.err != nil {
		return nil, host.err
	}
	return host.b, nil
}

func open(m machine, g x86.Guests) (*backend, error) {
	s, err := discover(m)
	if err != nil {
		return nil, err
	}
	s.protect(m, g)
	verwSelector = m.hostState(0).SS
	switch s.barriers.Exit {
	case x86.FenceIBRS:
		m.fenceNMIs(x86.MSRSpecCtrl, x86.SpecIBRS)
	case x86.FenceIBPB:
		m.fenceNMIs(x86.MSRPredCmd, x86.PredIBPB)
	default:
		m.fenceNMIs(0, 0)
	}
	if m.hostXCR0() == 0 {
		s.xcr0 = 0 // the host itself runs without XSAVE
	}
	b := &backend{m: m, s: s, cpus: make([]cpu, m.numCPU())}
	b.slice, b.brief = m.tscHz(), max(m.tscHz()/(1_000_000_000/briefNS), 1)
	if mayBeBochs(m.firmware()) {
		b.slice = max(m.tscHz()/(1_000_000_000/bochsNS), 1)
	}
	errs := make([]error, len(b.cpus))
	for i := range b.cpus {
		if b.cpus[i].vmxon, err = m.Alloc(4096, 4096); err != nil {
			return nil, fmt.Errorf("vmx: no memory for CPU %d's VMXON region: %w", i, err)
		}
		putRevision(b.cpus[i].vmxon, s.revision)
	}
	m.onEachCPU(func(c int) { errs[c] = b.enable(c) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return b, nil
}

// enable runs on CPU c.
func (b *backend) enable(c int) error {
	// A CPU that differs from the first could not run the same VMCS.
	s, err := discover(b.m)
	if err != nil {
		return fmt.Errorf("CPU %d: %w", c, err)
	}
	if s.revision != b.s.revision || s.controls != b.s.controls || s.ept != b.s.ept {
		return fmt.Errorf("vmx: CPU %d differs from CPU 0 (VMCS revision %#x and %#x, controls %#x and %#x)",
			c, s.revision, b.s.revision, s.controls, b.s.controls)
	}
	on := enabling{b: b, cpu: c}
	b.m.privileged(enableHere, unsafe.Pointer(&on))
	switch on.status {
	case enabled:
		return nil
	case enableLocked:
		return fmt.Errorf("vmx: CPU %d: the firmware has locked VT-x off (IA32_FEATURE_CONTROL): switch it on in the firmware's setup", c)
	case enableRefused:
		return fmt.Errorf("vmx: CPU %d: VMXON failed, though the capabilities promise it", c)
	}
	panic(fmt.Sprintf("vmx: CPU %d: enable status %d", c, on.status))
}

type enabling struct {
	b      *backend
	cpu    int
	status enableStatus
}

func enableHere(arg unsafe.Pointer) {
	on := (*enabling)(arg)
	b := on.b
	if on.status = b.m.enable(b.s.revision, b.cpus[on.cpu].vmxon.Phys); on.status != enabled {
		return
	}
	if x := b.s.barriers.SpecCtrl; x != 0 {
		b.m.wrmsr(x86.MSRSpecCtrl, x)
	}
	c := &b.cpus[on.cpu]
	c.star, c.lstar, c.sfmask = b.m.rdmsr(msrSTAR), b.m.rdmsr(msrLSTAR), b.m.rdmsr(msrSFMASK)
	// Nothing is known about what the firmware or a previous kernel has left
	// behind under the tags we are going to use.
	b.flushEPT(0, true)
	if b.s.has(secondaryControls, secVPID) {
		b.flushTag(1, true)
	}
}

// flushEPT drops what this CPU has cached under an EPT pointer, or under all.
func (b *backend) flushEPT(eptp uint64, all bool) bool {
	if !all && b.s.ept&eptINVEPTSingle != 0 {
		return b.m.invept(inveptSingle, eptp)
	}
	if b.s.ept&eptINVEPTAll != 0 {
		return b.m.invept(inveptAll, 0)
	}
	return b.m.invept(inveptSingle, eptp)
}

// flushTag drops what this CPU has cached under a VPID, or under all.
func (b *backend) flushTag(vpid uint16, all bool) bool {
	if !all && b.s.ept&vpidSingle != 0 {
		return b.m.invvpid(invvpidSingle, vpid)
	}
	if b.s.ept&vpidAll != 0 {
		return b.m.invvpid(invvpidAll, 0)
	}
	return b.m.invvpid(invvpidSingle, vpid)
}

func (b *backend) Name() string { return "vmx" }

func (b *backend) Capabilities() vcpu.Capabilities { return b.s.capabilities() }

// tags hands out VPIDs. 0 is the host's own (SDM vol. 3, 28.1).
type tags struct {
	mu   sync.Mutex
	used [1 << 16 / 64]uint64
	next int
}

func (t *tags) take() (uint16, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const n = 1<<16 - 1
	for i := range n {
		v := (t.next+i)%n + 1
		if t.used[v/64]>>(v%64)&1 == 0 {
			t.used[v/64] |= 1 << (v % 64)
			t.next = v
			return uint16(v), nil
		}
	}
	return 0, errors.New("vmx: all 65535 VPIDs are in use")
}

func (t *tags) give(v uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used[v/64] &^= 1 << (v % 64)
}

func putRevision(b mem.Block, revision uint32) {
	for i := range 4 {
		b.Data[i] = byte(revision >> (8 * i))
	}
}
