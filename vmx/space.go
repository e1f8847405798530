package vmx

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A dirtyLog is second-level tables that want the page-modification log.
type dirtyLog interface{ Log(gpas []uint64) }

// A space is what the VCPUs of one VM share.
type space struct {
	b      *backend
	cfg    vcpu.SpaceConfig
	log    dirtyLog // nil: PML is not used
	eptp   uint64
	layout xlayout
	mxcsr  uint32 // bits that MXCSR may have

	// flushed is, for each CPU, the generation of the tables for which it has
	// dropped its cached translations. A CPU touches its own entry only.
	flushed []uint64

	ioA, ioB, msr mem.Block

	ownSpec bool // guests reach SPEC_CTRL without an exit: see setSpecCtrl

	mu     sync.Mutex // guards changes of vcpus
	vcpus  atomic.Pointer[[]*VCPU]
	closed bool
}

// EPT pointer (SDM vol. 3, 24.6.11).
const (
	eptpWriteBack = 6
	eptpFourLevel = 3 << 3
	eptpAD        = 1 << 6
)

// never is a generation that no tables have: whatever a CPU holds is stale.
const never = ^uint64(0)

func (b *backend) NewSpace(cfg vcpu.SpaceConfig) (vcpu.Space, error) {
	p := &cfg.CPUID
	switch {
	case cfg.Tables == nil:
		return nil, errors.New("vmx: a VM needs second-level page tables")
	case p.XSS != 0:
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has supervisor state components %#x, which no saved state can hold", cfg.Name, p.XSS)
	case p.XCR0&^b.s.xcr0 != 0:
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has XSAVE components %#x that this host lacks", cfg.Name, p.XCR0&^b.s.xcr0)
	case p.CR4&cr4VMXE != 0:
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has VMX, which is not offered to guests", cfg.Name)
	case p.CR4&^b.s.cr4Fixed1 != 0:
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has CR4 bits %#x that this processor lacks", cfg.Name, p.CR4&^b.s.cr4Fixed1)
	case p.RDTSCP && !b.s.has(secondaryControls, secRDTSCP):
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has RDTSCP, which this processor can not give to guests", cfg.Name)
	case p.INVPCID && !b.s.has(secondaryControls, secINVPCID):
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has INVPCID, which this processor can not give to guests", cfg.Name)
	case p.Controls.Without(b.s.offered) != (x86.Controls{}):
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has controls against speculation that this processor can not give to guests: %v",
			cfg.Name, p.Controls.Without(b.s.offered))
	case p.XSAVES && !b.s.has(secondaryControls, secXSAVES):
		return nil, fmt.Errorf("vmx: VM %q: the CPU model has XSAVES, which this processor can not give to guests", cfg.Name)
	}
	s := &space{
		b: b, cfg: cfg, layout: newXLayout(b.m, p.XCR0), mxcsr: b.m.mxcsrMask(),
		flushed: make([]uint64, len(b.cpus)),
		eptp:    cfg.Tables.Root() | eptpFourLevel | eptpWriteBack,
	}
	if b.s.xcr0 == 0 {
		s.layout = newXLayout(b.m, 0)
	} else if p.XCR0 == 0 {
		s.layout = newXLayout(b.m, xX87|xSSE)
	}
	for i := range s.flushed {
		s.flushed[i] = never
	}
	if b.s.ept&eptAccessedDirty != 0 {
		s.eptp |= eptpAD
		if l, ok := cfg.Tables.(dirtyLog); ok && b.s.has(secondaryControls, secPML) {
			s.log = l
		}
	}
	s.vcpus.Store(&[]*VCPU{})
	var err error
	for _, m := range []*mem.Block{&s.ioA, &s.ioB, &s.msr} {
		if *m, err = b.m.Alloc(4096, 4096); err != nil {
			s.free()
			return nil, fmt.Errorf("vmx: VM %q: no memory for its permission maps: %w", cfg.Name, err)
		}
		for i := range m.Data {
			m.Data[i] = 0xff // everything exits
		}
	}
	s.openMSRs()
	return s, nil
}

// openMSRs lets the guest reach the MSRs whose values are its own while it runs
// and that can do no harm. Writes to those with values that the processor would
// take but must not have exit all the same.
func (s *space) openMSRs() {
	p := &s.cfg.CPUID
	s.ownSpec = s.b.s.barriers.Exit == x86.FenceIBRS && p.Controls.SpecCtrl != 0 && p.Controls.SpecCtrl == s.b.s.offered.SpecCtrl
	for _, m := range []struct {
		msr         uint32
		read, write bool
	}{
		{msrTSC, true, false}, // offset by the VMCS
		{msrSysenterCS, true, true}, {msrSysenterESP, true, true}, {msrSysenterEIP, true, true},
		{msrFSBase, true, true}, {msrGSBase, true, true}, {msrKernelGSBase, true, true},
		{msrPAT, true, true},
		{msrEFER, true, false},
		{msrSTAR, true, false}, {msrLSTAR, true, false}, {msrCSTAR, true, false}, {msrSFMASK, true, false},
		{msrTSCAux, p.RDTSCP, false},
		{x86.MSRSpecCtrl, s.ownSpec, s.ownSpec},
		{x86.MSRPredCmd, false, p.Controls.IBPB},
		{x86.MSRFlushCmd, false, p.Controls.FlushL1D},
	} {
		clearMSR(s.msr.Data, m.msr, m.read, m.write)
	}
}

// clearMSR stops exits for an MSR (SDM vol. 3, 24.6.9: read-low, read-high,
// write-low, write-high, 1 KiB each).
func clearMSR(bitmap []byte, msr uint32, read, write bool) {
	at := msr & 0x1fff
	base := uint32(0)
	switch {
	case msr <= 0x1fff:
	case msr >= 0xc0000000 && msr <= 0xc0001fff:
		base = 1024
	default:
		panic(fmt.Sprintf("vmx: MSR %#x is outside the bitmap", msr))
	}
	if read {
		bitmap[base+at/8] &^= 1 << (at % 8)
	}
	if write {
		bitmap[2048+base+at/8] &^= 1 << (at % 8)
	}
}

// Sync waits until every VCPU that is in the guest has entered it with the
// tables' present generation. Its VCPUs leave their logs when they leave.
func (s *space) Sync() {
	g := s.cfg.Tables.Generation()
	for _, v := range *s.vcpus.Load() {
		kicked := false
		for n := 0; ; n++ {
			cpu, running := v.word.inside()
			if !running || v.generation.Load() >= g {
				break
			}
			if !kicked || n%64 == 0 { // again, should it have moved to another CPU
				s.b.m.kick(cpu)
				kicked = true
			}
			if n < 16 {
				runtime.Gosched()
			} else {
				time.Sleep(20 * time.Microsecond)
			}
		}
	}
}

func (s *space) add(v *VCPU) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("vmx: VM %q is closed", s.cfg.Name)
	}
	old := *s.vcpus.Load()
	for _, o := range old {
		if o.index == v.index {
			return fmt.Errorf("vmx: VM %q has VCPU %d already", s.cfg.Name, v.index)
		}
	}
	n := append(append([]*VCPU{}, old...), v)
	s.vcpus.Store(&n)
	return nil
}

func (s *space) remove(v *VCPU) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n []*VCPU
	for _, o := range *s.vcpus.Load() {
		if o != v {
			n = append(n, o)
		}
	}
	s.vcpus.Store(&n)
}

func (s *space) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := len(*s.vcpus.Load()); {
	case s.closed:
		return fmt.Errorf("vmx: VM %q closed twice", s.cfg.Name)
	case n != 0:
		return fmt.Errorf("vmx: VM %q closed while it has %d VCPUs", s.cfg.Name, n)
	}
	s.closed = true
	s.free()
	return nil
}

func (s *space) free() {
	for _, m := range []*mem.Block{&s.ioA, &s.ioB, &s.msr} {
		if m.Data != nil {
			s.b.m.Free(*m)
			*m = mem.Block{}
		}
	}
}
