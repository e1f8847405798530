package vmm

import (
	"context"
	"time"

	"godwit/vmm/vcpu"
)

// An Info is what there is to see of a machine.
type Info struct {
	Config    Config    `json:"config"`
	Status    string    `json:"status"`
	Health    Health    `json:"health,omitempty"`           // while it runs or is paused
	HealthFor float64   `json:"health_seconds,omitempty"`   // seconds for which that is so; of Well it is not known
	ResetIn   *float64  `json:"reset_in_seconds,omitempty"` // seconds until it is reset after its crash
	Uptime    float64   `json:"up_seconds"`                 // seconds that the guest has run since it booted; 0: it is not booted
	TSC       TSCInfo   `json:"tsc"`
	CPUs      []CPUInfo `json:"cpus"`
	Ports     uint64    `json:"lost_ports"` // accesses that no device answered
	MMIO      uint64    `json:"lost_mmio"`
	Console   int64     `json:"console_bytes"` // bytes written so far
	Events    []Event   `json:"events"`
}

// CPUInfo is one processor's.
type CPUInfo struct {
	Entries  uint64            `json:"entries"`
	Exits    map[string]uint64 `json:"exits"`
	Injected uint64            `json:"injected"`
	Emulated uint64            `json:"emulated"`
	BadMSRs  uint64            `json:"bad_msrs"`
	Halted   float64           `json:"halted_seconds"` // seconds
}

// Info looks at the machine without disturbing it.
func (vm *VM) Info() Info {
	i := Info{Config: vm.cfg, Status: vm.Status().String(), Events: vm.Events()}
	i.Health, i.HealthFor = vm.condition()
	i.ResetIn = vm.resetIn()
	switch vm.Status() {
	case Running, Paused, Crashed:
		i.Uptime = vm.uptime().Seconds()
	}
	i.TSC = *vm.tsc.Load()
	i.Ports, i.MMIO = vm.bus.lostPort.Load(), vm.bus.lostMMIO.Load()
	_, i.Console = vm.ring.Bounds()
	for _, c := range vm.cpus {
		x := CPUInfo{
			Entries: c.stats.entered.Load(), Exits: map[string]uint64{}, Injected: c.stats.injected.Load(),
			Emulated: c.stats.emulated.Load(), BadMSRs: c.stats.badMSR.Load(),
			Halted: time.Duration(c.stats.halted.Load()).Seconds(),
		}
		if since := c.stats.resting.Load(); since != 0 && vm.Status() == Running {
			x.Halted += time.Duration(vm.pace.Load().scale.ns(vm.counter() - since)).Seconds()
		}
		for r := range vcpu.NumReasons {
			if n := c.stats.exits[r].Load(); n > 0 {
				x.Exits[r.String()] = n
			}
		}
		i.CPUs = append(i.CPUs, x)
	}
	return i
}

// ReadConsole copies what the guest wrote to its console from position pos on, and
// returns how much and the position after it.
func (vm *VM) ReadConsole(p []byte, pos int64) (n int, next int64) { return vm.ring.ReadAt(p, pos) }

// FollowConsole is ReadConsole that waits for more.
func (vm *VM) FollowConsole(ctx context.Context, p []byte, pos int64) (n int, next int64, err error) {
	return vm.ring.Follow(ctx, p, pos)
}

// Input types p on the guest's console, and returns how much of it fitted; Room
// tells when more does.
func (vm *VM) Input(p []byte) int { return vm.uart.Input(p) }

// Room has a value when Input takes more.
func (vm *VM) Room() <-chan struct{} { return vm.uart.Room() }

// NMI sends all processors a non-maskable interrupt: a guest that hangs says where.
func (vm *VM) NMI() {
	for _, c := range vm.cpus {
		c.lapic.PostNMI()
	}
}
