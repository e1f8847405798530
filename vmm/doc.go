// Package vmm is one virtual machine: its memory, processors and platform, what
// happens at each exit, its life from creation to deletion, and its state on the
// way to another host. It knows the hardware only through package vcpu.
//
// docs/guests.md says what a guest sees. A Registry (registry.go) holds a host's
// machines; vm.go is one, life.go its states, cpu.go the loop of each processor and
// exits.go what each exit leads to; platform.go puts devices in their places, state.go
// saves and loads all of it.
//
// # Goroutines and locks
//
// Each virtual processor is a goroutine that enters the guest, looks at the exit
// and enters again (cpu.go). It holds no lock while it does: ports and MMIO ranges
// are found in tables that are replaced whole (bus.go), and what others want of it (an
// interrupt, a pause) is bits in one word (cpu.req). Pausing a machine ends the
// goroutines; resuming starts new ones. So a machine whose state is looked at,
// saved, reset or freed has no processor that could be in the way.
//
// VM.ctl serialises what an operator or a migration does to a machine; the guest's
// own requests (power-off, reset, its crash) are noted in VM.asked by whichever
// processor made them, and settled under VM.ctl by a goroutine of their own.
package vmm
