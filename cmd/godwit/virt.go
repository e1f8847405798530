package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"godwit/cmd/internal/shell"
	"godwit/kernel"
	"godwit/svm"
	"godwit/vmm"
	"godwit/vmm/cpuid"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
	"godwit/vmx"
)

// openBackend enables whichever virtualization this processor has, for guests that are so
// far trusted.
func openBackend(g x86.Guests) (vcpu.Backend, error) {
	_, b, c, d := kernel.CPUID(0, 0)
	vendor := ""
	for _, w := range []uint32{b, d, c} {
		vendor += string([]byte{byte(w), byte(w >> 8), byte(w >> 16), byte(w >> 24)})
	}
	_, _, ecx1, _ := kernel.CPUID(1, 0)
	hasVMX := ecx1&(1<<5) != 0 // SDM vol. 2A, CPUID leaf 1
	hasSVM := false
	if top, _, _, _ := kernel.CPUID(0x80000000, 0); top >= 0x80000001 {
		_, _, ecx, _ := kernel.CPUID(0x80000001, 0)
		hasSVM = ecx&(1<<2) != 0 // APM vol. 3, CPUID Fn8000_0001
	}
	switch {
	case hasVMX:
		return vmx.Open(g)
	case hasSVM:
		be, err := svm.Open(g)
		if err != nil {
			return nil, err
		}
		return be, nil
	}
	return nil, fmt.Errorf("this processor (%s) shows neither VT-x nor AMD-V: switch it on in the firmware's set-up, or, in an emulator, choose a CPU model that has it", vendor)
}

// physMemory is the kernel's memory as machines ask for it.
type physMemory struct{}

// hostReserve is what machines may not have: the host's own heap and tables live on it, and without it the host ends.
// The runtime may let the heap grow to 32 MiB before it collects (kernel/heaplimit.go), and passes that for a moment, as when
// packets to neighbours that do not answer and pieces of packets wait: with no more than that left, a flood of them ended the host.
const hostReserve = 64 << 20

func (physMemory) Alloc(size, align uint64) (mem.Block, error) {
	if size >= 2<<20 {
		if err := (physMemory{}).Fits(size); err != nil {
			return mem.Block{}, err
		}
	}
	phys, data, err := kernel.AllocPhys(size, align)
	return mem.Block{Phys: phys, Data: data}, err
}

func (physMemory) Fits(size uint64) error {
	free := kernel.Memory().Free
	if free < size+hostReserve {
		debug.FreeOSMemory() // garbage of the host's own, such as a file that was fetched and refused
		free = kernel.Memory().Free
	}
	if free < size+hostReserve {
		return fmt.Errorf("%s are wanted; %s are free here, of which the host keeps %s", shell.Bytes(size), shell.Bytes(free), shell.Bytes(hostReserve))
	}
	return nil
}

func (physMemory) Free(b mem.Block) { kernel.FreePhys(b.Phys, uint64(len(b.Data))) }

// startVirt makes the host fit for machines. Without virtualization all else goes
// on; every command about machines then says why.
func (h *host) startVirt() {
	be, err := openBackend(h.cfg.Guests == "own")
	if err != nil {
		h.virtErr = fmt.Errorf("this host can not run machines: %w", err)
		h.logf("%v", h.virtErr)
		return
	}
	caps := be.Capabilities()
	for _, n := range caps.Notes {
		h.logf("%s: %s", be.Name(), n)
	}
	h.backend = be
	h.vms = vmm.NewRegistry(&vmm.Host{
		Backend: be, Memory: physMemory{}, CPU: cpuid.NewHost(kernel.CPUID, caps),
		TSC: kernel.TSC, TSCHz: kernel.TSCFrequency(), WallClock: time.Now,
		Log: func(line string) { h.logf("%s", line) },
		File: func(ctx context.Context, name string) ([]byte, error) {
			// Nobody sees how far it is.
			ctx, cancel := context.WithTimeout(ctx, resetFetch)
			defer cancel()
			return h.open(&shell.Call{Ctx: ctx, Out: io.Discard}, name)
		},
	})
}

// resetFetch is how long a machine that resets itself may wait for a file that it was
// booted from on another host.
const resetFetch = 10 * time.Minute

// clockSettles is when the TSC's rate is known well enough for machines, whose
// clocks must agree between hosts. It is less than the shortest reference counter
// takes to wrap (ACPI's timer, 4.7 s).
const clockSettles = time.Second

// settleClock gives machines the exact rate.
func (h *host) settleClock() {
	defer close(h.settled)
	time.Sleep(clockSettles - time.Duration(kernel.Nanotime()))
	kernel.RefineTSC()
	if h.vms != nil {
		h.vms.Host().TSCHz = kernel.TSCFrequency()
	}
}

// machines is the registry, or why there is none.
func (h *host) machines() (*vmm.Registry, error) {
	<-h.settled
	if h.vms == nil {
		return nil, h.virtErr
	}
	return h.vms, nil
}
