// Package fakecpu is a vcpu.Backend for tests on Linux: its processors execute
// a Go function instead of guest code, one call an entry.
package fakecpu

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

// A Program is what a processor executes: called once for each Run that is not
// answered otherwise, it fills in the exit at which the guest "stops".
type Program func(v *VCPU, e *vcpu.Exit) error

// A Backend makes processors that run Program.
type Backend struct {
	Program Program
	Caps    vcpu.Capabilities

	mu     sync.Mutex
	spaces int
	vcpus  int
}

// Open is how many Spaces and VCPUs are not closed.
func (b *Backend) Open() (spaces, vcpus int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spaces, b.vcpus
}

func (b *Backend) Name() string { return "fake" }

func (b *Backend) Capabilities() vcpu.Capabilities {
	c := b.Caps
	if c.GuestPhysBits == 0 {
		c.GuestPhysBits, c.XCR0, c.Page2M = 46, 3, true
		c.Controls = x86.FindControls(CPUID)
	}
	return c
}

func (b *Backend) NewSpace(cfg vcpu.SpaceConfig) (vcpu.Space, error) {
	if cfg.Tables == nil || cfg.Tables.Root() == 0 {
		return nil, errors.New("fakecpu: no second-level tables")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spaces++
	return &Space{b: b, Config: cfg}, nil
}

// A Space of a Backend.
type Space struct {
	Config vcpu.SpaceConfig
	b      *Backend
	Syncs  atomic.Uint64
}

func (s *Space) NewVCPU(index int) (vcpu.VCPU, error) {
	v := New(s.b.Program)
	v.Index, v.space = index, s
	v.s.Reset(index == 0)
	v.regs = v.s.Regs
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.vcpus++
	return v, nil
}

func (s *Space) Sync() { s.Syncs.Add(1) }

func (s *Space) Close() error {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.spaces--
	return nil
}

// A VCPU executes its Program.
type VCPU struct {
	Index    int
	Now      func() uint64 // the host's TSC, for deadlines; nil: none are kept
	Injected []vcpu.Event  // that "the guest" has taken
	Ratio    vcpu.TSCRatio // as SetTSCRatio had it

	program  Program
	space    *Space
	s        vcpu.State
	regs     vcpu.Regs
	stats    vcpu.Stats
	kicked   chan struct{}
	class    uint8
	nmi      bool
	deadline uint64
	offset   uint64
	inRun    atomic.Bool
}

// New makes a processor that is in no Space.
func New(p Program) *VCPU {
	v := &VCPU{program: p, kicked: make(chan struct{}, 1)}
	v.s.Reset(true)
	v.regs = v.s.Regs
	return v
}

// Block "executes" until a kick or for at most d; true if kicked.
func (v *VCPU) Block(d time.Duration) bool {
	select {
	case <-v.kicked:
		return true
	case <-time.After(d):
		return false
	}
}

func (v *VCPU) Run(e *vcpu.Exit) error {
	if !v.inRun.CompareAndSwap(false, true) {
		return errors.New("fakecpu: Run entered twice")
	}
	defer v.inRun.Store(false)
	v.stats.Entries++
	select {
	case <-v.kicked:
		e.Reason = vcpu.ExitKicked
		return nil
	default:
	}
	if v.deadline != 0 && v.Now != nil && v.Now() >= v.deadline {
		e.Reason = vcpu.ExitDeadline
		return nil
	}
	if p := &v.s.Pending; p.Valid {
		v.Injected = append(v.Injected, *p)
		*p = vcpu.Event{}
	}
	*e = vcpu.Exit{}
	err := v.program(v, e)
	if int(e.Reason) < len(v.stats.Exits) {
		v.stats.Exits[e.Reason]++
	}
	return err
}

func (v *VCPU) Kick() {
	select {
	case v.kicked <- struct{}{}:
	default:
	}
}

func (v *VCPU) Regs() *vcpu.Regs { return &v.regs }

func (v *VCPU) Skip(n uint8) {
	v.regs.RIP += uint64(n)
	v.regs.RFLAGS &^= 1 << 16
	v.s.STI, v.s.MovSS = false, false
}

func (v *VCPU) Get(r vcpu.Reg) uint64 { return v.s.Reg[r] }

func (v *VCPU) Set(r vcpu.Reg, x uint64) error {
	if r >= vcpu.NumRegs {
		return fmt.Errorf("fakecpu: no register %d", r)
	}
	if r == vcpu.XCR0 && x&1 == 0 {
		return errors.New("XCR0 without x87")
	}
	if err := v.checkControls(r, x); err != nil {
		return err
	}
	v.s.Reg[r] = x
	return nil
}

func (v *VCPU) checkControls(r vcpu.Reg, x uint64) error {
	if r == vcpu.SpecCtrl && x != 0 && (v.space == nil || x&^v.space.Config.CPUID.Controls.SpecCtrl != 0) {
		return fmt.Errorf("fakecpu: SPEC_CTRL %#x: the CPU model does not have it", x)
	}
	return nil
}

func (v *VCPU) Segment(s vcpu.SegReg) vcpu.Segment { return v.s.Seg[s] }

func (v *VCPU) SetSegment(s vcpu.SegReg, x vcpu.Segment) error {
	v.s.Seg[s] = x
	return nil
}

func (v *VCPU) Inject(e vcpu.Event) bool {
	if v.s.Pending.Valid {
		return false
	}
	v.s.Pending = e
	return true
}

func (v *VCPU) Pending() vcpu.Event { return v.s.Pending }

func (v *VCPU) CanInterrupt() bool {
	return !v.s.Pending.Valid && v.regs.RFLAGS&(1<<9) != 0 && !v.s.STI && !v.s.MovSS
}

func (v *VCPU) CanNMI() bool { return !v.s.Pending.Valid && !v.s.NMIBlock }

func (v *VCPU) WantInterrupt(class uint8) { v.class = class }
func (v *VCPU) WantNMI(on bool)           { v.nmi = on }

// Wanted is what was asked for last.
func (v *VCPU) Wanted() (class uint8, nmi bool) { return v.class, v.nmi }

func (v *VCPU) SetDeadline(t uint64) { v.deadline = t }

// SetTSCRatio takes what the Backend's capabilities have.
func (v *VCPU) SetTSCRatio(r vcpu.TSCRatio) error {
	if v.space == nil || !v.space.b.Capabilities().TSCScaling.Has(r) {
		return fmt.Errorf("fakecpu: no TSC ratio %#x", uint64(r))
	}
	v.Ratio = r
	return nil
}

func (v *VCPU) SetTSCOffset(off uint64) { v.offset = off }
func (v *VCPU) TSCOffset() uint64       { return v.offset }

func (v *VCPU) Save(s *vcpu.State) {
	x := append(s.XSAVE[:0], v.s.XSAVE...)
	*s = v.s
	s.XSAVE, s.Regs = x, v.regs
}

func (v *VCPU) Load(s *vcpu.State) error {
	if s.Regs.RFLAGS&2 == 0 {
		return errors.New("fakecpu: RFLAGS bit 1 is clear")
	}
	if err := v.checkControls(vcpu.SpecCtrl, s.Reg[vcpu.SpecCtrl]); err != nil {
		return err
	}
	x := append(v.s.XSAVE[:0], s.XSAVE...)
	v.s, v.regs = *s, s.Regs
	v.s.XSAVE = x
	return nil
}

func (v *VCPU) Stats() *vcpu.Stats { return &v.stats }

func (v *VCPU) Close() error {
	if v.space == nil {
		return nil
	}
	v.space.b.mu.Lock()
	defer v.space.b.mu.Unlock()
	v.space.b.vcpus--
	return nil
}

// CPUID answers as a processor that has all there is.
func CPUID(leaf, sub uint32) (a, b, c, d uint32) {
	switch leaf {
	case 0:
		return 0x20, 0, 0, 0
	case 0x80000000:
		return 0x80000021, 0, 0, 0
	case 0x80000008:
		return 46, 0, 0, 0
	}
	return ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)
}
