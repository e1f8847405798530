package vmm

import (
	"fmt"

	"godwit/vmm/vcpu"
)

// A machine has a counter, which is its host's TSC at the rate that the guest knows;
// each processor's TSC is the counter plus an offset of its own. The machine's clock and
// kvmclock are made of the counter too, so whatever a ratio's last bit cuts off, it cuts
// off from all of them. Only deadlines are turned back into the host's TSC.
//
// The guest knows the rate of the host on which it booted: it has measured it. On a host
// with another rate the processor scales the TSC. Where it can not, the counter has the
// host's rate and kvmclock says so; a guest that counts on its TSC must notice by itself,
// and Linux does.

// A pace is how the counter runs: beside the host's TSC, and in nanoseconds. It changes
// as a whole, because anybody may ask for the time while a machine boots anew.
type pace struct {
	ratio vcpu.TSCRatio
	scale scale
}

// counter is the machine's counter now.
func (vm *VM) counter() uint64 { return vm.pace.Load().ratio.Guest(vm.host.TSC()) }

// now is the source of the machine's clock: the counter, which it does not call, in nanoseconds.
func (vm *VM) now() int64 {
	p := vm.pace.Load()
	return p.scale.ns(p.ratio.Guest(vm.host.TSC()))
}

// countAt is the counter at a time of the machine.
func (vm *VM) countAt(at int64) uint64 { return vm.pace.Load().scale.tsc(at - vm.offset) }

// hostTSC is the host's TSC at a time of the machine.
func (vm *VM) hostTSC(at int64) uint64 { return vm.pace.Load().ratio.Host(vm.countAt(at)) }

// Rates that a TSC can have. A counter at the highest takes eight years to wrap.
const (
	leastTSCHz = 1e5
	mostTSCHz  = 1 << 36
)

// A TSCInfo is how a guest's TSC runs.
type TSCInfo struct {
	Hz     uint64 `json:"hz"`      // as the guest knows it
	HostHz uint64 `json:"host_hz"` // of the host
	Scaled bool   `json:"scaled"`
	// OffRate: the guest's TSC runs at the host's rate, though the guest knows another.
	OffRate bool `json:"off_rate"`
}

// setTSC gives the machine the rate that its guest knows. ctl is held, and the clock
// stands still.
func (vm *VM) setTSC(hz uint64) error {
	h := vm.host
	r, can := h.Backend.Capabilities().TSCScaling.Ratio(hz, h.TSCHz)
	for _, c := range vm.cpus {
		if err := c.v.SetTSCRatio(r); err != nil {
			return fmt.Errorf("CPU %d: %w", c.index, err)
		}
	}
	p := &pace{r, newScale(h.TSCHz)}
	if r != vcpu.Unscaled {
		p.scale = newScale(hz)
	}
	vm.pace.Store(p)
	vm.tsc.Store(&TSCInfo{Hz: hz, HostHz: h.TSCHz, Scaled: r != vcpu.Unscaled, OffRate: !can})
	return nil
}

// String is what the operator sees of it.
func (i TSCInfo) String() string {
	switch {
	case i.Scaled:
		return fmt.Sprintf("%s, scaled from %s", rate(i.Hz), rate(i.HostHz))
	case i.OffRate:
		return fmt.Sprintf("%s, which is this host's rate: the guest knows %s, and this host can not scale it", rate(i.HostHz), rate(i.Hz))
	}
	return rate(i.Hz)
}

func rate(hz uint64) string {
	if hz >= 1e9 {
		return fmt.Sprintf("%.3f GHz", float64(hz)/1e9)
	}
	return fmt.Sprintf("%.3f MHz", float64(hz)/1e6)
}

// tellTSC tells of a TSC that runs at another rate than the host's, or than it should.
func (vm *VM) tellTSC() {
	if i := vm.tsc.Load(); i.Scaled || i.OffRate {
		vm.event("its TSC: %v", *i)
	}
}
