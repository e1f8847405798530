package vmm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"godwit/vmm/cpuid"
	"godwit/vmm/state"
	"godwit/vmm/vcpu"
)

// A machine's state is a "machine" section, which says what it is, then one for
// each device and one for each processor ("vcpu/0", ...), in any order.

// spec is what another host needs to build the same machine.
type spec struct {
	Config   Config   `json:"config"`
	Model    string   `json:"model"`
	PhysBits uint8    `json:"phys_bits"`
	Features []string `json:"features"`
	// Identity is there for models that show a real processor's.
	Identity *cpuid.Identity `json:"identity,omitempty"`
	// Files are those that Config names: kernel, initrd, modules.
	Files []fileSum `json:"files"`
}

func (vm *VM) spec() spec {
	vm.sumOnce.Do(func() {
		if vm.sums == nil {
			vm.sums = vm.files.sums()
		}
	})
	return spec{vm.cfg, vm.model.Name, vm.model.PhysBits, vm.model.Features(), vm.model.ID, vm.sums}
}

// Spec describes the machine to the host it will move to.
func (vm *VM) Spec() []byte {
	b, err := json.Marshal(vm.spec())
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

// NewFromSpec builds the empty machine that b, from another host, describes. It is
// Arriving: LoadState and then StartLoaded, or Abandon, are for whoever called this,
// and no operator's command touches it before. What this host lacks for it is named in
// the error.
func NewFromSpec(h *Host, b []byte) (*VM, error) {
	var s spec
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("vm specification: %w", err)
	}
	if err := s.Config.Check(); err != nil {
		return nil, err
	}
	if n := 2 + len(s.Config.Modules); len(s.Files) != n {
		return nil, fmt.Errorf("vm %s: it names %d files and describes %d", s.Config.Name, n, len(s.Files))
	}
	m, err := cpuid.FromFeatures(s.Model, s.PhysBits, s.Features, s.Identity)
	if err == nil {
		err = h.CPU.Check(m)
	}
	var vm *VM
	if err == nil {
		vm, err = build(h, s.Config, Files{}, m)
	}
	if err != nil {
		return nil, fmt.Errorf("vm %s: %w", s.Config.Name, err)
	}
	vm.sums = s.Files
	vm.status.Store(uint32(Arriving))
	return vm, nil
}

// machineState is the "machine" section: it must describe the machine that loads it.
type machineState struct{ vm *VM }

func (m machineState) StateName() string    { return "machine" }
func (m machineState) StateVersion() uint16 { return 1 }

func (m machineState) SaveState(w *state.Writer) {
	w.Blob(m.vm.Spec())
	w.U64(m.vm.tsc.Load().Hz)
}

func (m machineState) LoadState(_ uint16, r *state.Reader) error {
	b := r.Blob(256 << 10)
	hz := r.U64()
	if r.Err() != nil {
		return r.Err()
	}
	var s spec
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	have := m.vm.spec()
	switch {
	case s.Config.Memory != have.Config.Memory || s.Config.CPUs != have.Config.CPUs:
		return fmt.Errorf("it is of a machine with %d MiB and %d CPUs; this one has %d MiB and %d",
			s.Config.Memory>>20, s.Config.CPUs, have.Config.Memory>>20, have.Config.CPUs)
	case s.Model != have.Model || s.PhysBits != have.PhysBits || !slices.Equal(s.Features, have.Features) || !s.Identity.Equal(have.Identity):
		return fmt.Errorf("it is of a machine with another CPU model (%q)", s.Model)
	case hz < leastTSCHz || hz > mostTSCHz:
		return fmt.Errorf("its TSC can not run at %d Hz", hz)
	}
	if err := m.vm.setTSC(hz); err != nil {
		return err
	}
	m.vm.stoppedAt = m.vm.counter()
	return nil
}

// cpuState is a processor's section.
type cpuState struct{ *cpu }

func (c cpuState) StateName() string { return fmt.Sprintf("vcpu/%d", c.index) }

// StateVersion: 2 has SPEC_CTRL, which only machines have whose model does. The state of
// all others is as it was.
func (c cpuState) StateVersion() uint16 {
	if c.vm.controls.SpecCtrl != 0 {
		return 2
	}
	return 1
}

// registers is how many of vcpu.Reg a version's section holds.
func registers(version uint16) int {
	if version < 2 {
		return int(vcpu.SpecCtrl)
	}
	return int(vcpu.NumRegs)
}

func (c cpuState) SaveState(w *state.Writer) {
	var s vcpu.State
	c.v.Save(&s)
	s.Activity = c.activity
	s.TSC = c.vm.stoppedAt + c.tscOffset // one moment for all processors
	putState(w, &s, registers(c.StateVersion()))
	for _, v := range c.msrs {
		w.U64(v)
	}
	w.U64(c.systemTime)
	w.U64(c.wallClock)
	w.U32(c.clockVersion)
}

func (c cpuState) LoadState(v uint16, r *state.Reader) error {
	var s vcpu.State
	getState(r, &s, registers(v))
	var bank msrBank
	for i := range bank {
		bank[i] = r.U64()
		if d := &msrs[i]; d.kind == stored && bank[i]&^d.mask != 0 || d.kind != stored && bank[i] != d.value {
			r.Fail(fmt.Errorf("MSR %s can not hold %#x", d.name, bank[i]))
		}
	}
	system, wall, version := r.U64(), r.U64(), r.U32()
	if system&clockEnable != 0 {
		gpa := system &^ clockEnable
		if gpa%clockAlignment != 0 || !c.vm.ram.each(gpa, clockInfoSize, func([]byte) {}) {
			r.Fail(fmt.Errorf("the clock page can not be at %#x", gpa))
		}
	}
	if version&1 != 0 {
		r.Fail(errors.New("the clock page's version is odd"))
	}
	if r.Err() != nil {
		return r.Err()
	}
	if err := c.v.Load(&s); err != nil {
		return err
	}
	c.activity = s.Activity
	c.tscOffset = s.TSC - c.vm.stoppedAt
	c.msrs = bank
	c.systemTime, c.wallClock, c.clockVersion = system, wall, version
	c.windowSince = 0
	c.hangs.Store(0)
	return nil
}

// bootState is the "boot" section, which a reader may do without: since when the guest
// runs, and how often it crashed before.
type bootState struct{ vm *VM }

const bootSection = "boot"

func (b bootState) StateName() string    { return bootSection }
func (b bootState) StateVersion() uint16 { return 1 }

func (b bootState) SaveState(w *state.Writer) {
	w.I64(b.vm.restart.bootedAt.Load())
	w.U32(uint32(b.vm.restart.crashes))
}

func (b bootState) LoadState(_ uint16, r *state.Reader) error {
	at, crashes := r.I64(), r.U32()
	if at < 0 || at > b.vm.clock.Now() || crashes > math.MaxInt32 {
		r.Fail(fmt.Errorf("%d crashes, booted at %d ns of %d", crashes, at, b.vm.clock.Now()))
	}
	if r.Err() == nil {
		b.vm.restart.bootedAt.Store(at)
		b.vm.restart.crashes = int(crashes)
	}
	return r.Err()
}

// putState encodes s: all its fields, in the order of their declaration, with the first
// of the registers.
func putState(w *state.Writer, s *vcpu.State, registers int) {
	for _, v := range s.Regs.GPR {
		w.U64(v)
	}
	w.U64(s.Regs.RIP)
	w.U64(s.Regs.RFLAGS)
	w.U64(s.Regs.CR8)
	w.U16(uint16(registers))
	for _, v := range s.Reg[:registers] {
		w.U64(v)
	}
	for _, g := range s.Seg {
		w.U16(g.Selector)
		w.U32(g.Attr)
		w.U32(g.Limit)
		w.U64(g.Base)
	}
	w.U64(s.TSC)
	w.U8(uint8(s.Activity))
	w.Bool(s.STI)
	w.Bool(s.MovSS)
	w.Bool(s.NMIBlock)
	e := s.Pending
	w.Bool(e.Valid)
	w.U8(uint8(e.Type))
	w.U8(e.Vector)
	w.Bool(e.HasError)
	w.U32(e.Error)
	w.U8(e.Len)
	w.U64(e.CR2)
	for _, v := range s.PDPTE {
		w.U64(v)
	}
	w.Blob(s.XSAVE)
}

func getState(r *state.Reader, s *vcpu.State, registers int) {
	for i := range s.Regs.GPR {
		s.Regs.GPR[i] = r.U64()
	}
	s.Regs.RIP = r.U64()
	s.Regs.RFLAGS = r.U64()
	s.Regs.CR8 = r.U64()
	if n := r.U16(); int(n) != registers {
		r.Fail(fmt.Errorf("it has %d control registers, not %d", n, registers))
	}
	for i := range s.Reg[:registers] {
		s.Reg[i] = r.U64()
	}
	for i := range s.Seg {
		g := &s.Seg[i]
		g.Selector, g.Attr, g.Limit, g.Base = r.U16(), r.U32(), r.U32(), r.U64()
	}
	s.TSC = r.U64()
	s.Activity = vcpu.Activity(r.U8())
	if s.Activity > vcpu.Shutdown {
		r.Fail(fmt.Errorf("activity %d does not exist", s.Activity))
	}
	s.STI, s.MovSS, s.NMIBlock = r.Bool(), r.Bool(), r.Bool()
	e := &s.Pending
	e.Valid, e.Type, e.Vector, e.HasError = r.Bool(), vcpu.EventType(r.U8()), r.U8(), r.Bool()
	e.Error, e.Len, e.CR2 = r.U32(), r.U8(), r.U64()
	for i := range s.PDPTE {
		s.PDPTE[i] = r.U64()
	}
	s.XSAVE = bytes.Clone(r.Blob(vcpu.XSAVEMax))
	if n := len(s.XSAVE); n < 576 && r.Err() == nil {
		r.Fail(fmt.Errorf("the XSAVE area has %d bytes, fewer than 576", n))
	}
}

// parts are all sections of the machine, in saving order.
func (vm *VM) parts() []state.Device {
	p := []state.Device{machineState{vm}}
	for _, d := range vm.devices {
		p = append(p, d)
	}
	for _, c := range vm.cpus {
		p = append(p, cpuState{c})
	}
	return append(p, bootState{vm}, healthState{vm})
}

// optional tells the sections that a reader may do without.
func optional(name string) bool { return name == bootSection || name == healthSection }

// SaveState writes all of a paused machine but its memory.
func (vm *VM) SaveState(w io.Writer) error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() != Paused && !(vm.Status() == Arriving && vm.loaded) {
		return vm.wrong("saved", "pause it first")
	}
	for _, d := range vm.parts() {
		save := state.Save
		if optional(d.StateName()) {
			save = state.SaveOptional
		}
		if err := save(w, d); err != nil {
			return fmt.Errorf("vm %s: %w", vm.cfg.Name, err)
		}
	}
	return nil
}

// LoadState loads what SaveState wrote into a machine that has never run. It is
// paused then, or still Arriving. After an error the machine can only be deleted.
func (vm *VM) LoadState(r io.Reader) error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	arriving := vm.Status() == Arriving
	if !arriving && vm.Status() != Stopped || vm.loaded {
		return vm.wrong("loaded", "only a new machine can")
	}
	if err := vm.load(r); err != nil {
		return fmt.Errorf("vm %s: %w", vm.cfg.Name, err)
	}
	vm.loaded = true
	if arriving {
		return nil
	}
	return vm.become(Paused)
}

func (vm *VM) load(r io.Reader) error {
	missing := map[string]state.Device{}
	parts := vm.parts()
	for _, d := range parts {
		missing[d.StateName()] = d
	}
	known := len(missing)
	sections := map[string]state.Section{}
	for {
		s, err := state.ReadSection(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if missing[s.Name] == nil {
			if s.Required {
				return fmt.Errorf("state: section %q is required and unknown to this release, or there twice", s.Name)
			}
			continue
		}
		delete(missing, s.Name)
		sections[s.Name] = s
	}
	maps.DeleteFunc(missing, func(name string, _ state.Device) bool { return optional(name) })
	if len(missing) > 0 {
		names := make([]string, 0, known)
		for n := range missing {
			names = append(names, n)
		}
		slices.Sort(names)
		return fmt.Errorf("state: sections %q are missing", names)
	}
	// In our order, whatever the order they came in: the TSC's rate and the clock first.
	for _, d := range parts {
		s, ok := sections[d.StateName()]
		if !ok {
			continue
		}
		if err := s.Load(d); err != nil {
			return err
		}
	}
	return nil
}
