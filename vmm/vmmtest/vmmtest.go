// Package vmmtest is a host of machines for tests on Linux: memory is Go's, and the
// guest is a Go function.
package vmmtest

import (
	"encoding/binary"
	"time"

	"godwit/vmm"
	"godwit/vmm/cpuid"
	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/mem"
	"godwit/vmm/vcpu"
)

// A VCPU is a processor that executes a Program.
type VCPU = fakecpu.VCPU

// A Program is called at each entry of a processor and fills in the exit.
type Program = fakecpu.Program

// A Host is a vmm.Host on which leaks show.
type Host struct {
	*vmm.Host
	backend *fakecpu.Backend
	memory  mem.Simulated
}

// New makes a host with so much memory for guests; zero: 1 TiB.
func New(p Program, memory uint64) *Host {
	h := &Host{backend: &fakecpu.Backend{Program: p}}
	h.memory.Limit = memory
	start := time.Now()
	h.Host = &vmm.Host{
		Backend: h.backend, Memory: &h.memory, CPU: cpuid.NewHost(fakecpu.CPUID, h.backend.Capabilities()),
		TSC: func() uint64 { return uint64(time.Since(start)) + 12345678 }, TSCHz: 1e9, WallClock: time.Now, Quiet: true,
	}
	return h
}

// Left is what has not been given back.
func (h *Host) Left() (spaces, vcpus int, bytes uint64) {
	spaces, vcpus = h.backend.Open()
	return spaces, vcpus, h.memory.Live()
}

// Kernel is a flat Multiboot image of a few bytes at 1 MiB.
func Kernel() []byte {
	b := make([]byte, 0x100)
	const kludge = 1 << 16
	for i, v := range []uint32{0x1badb002, kludge, 1<<32 - 0x1badb002 - kludge, 1 << 20, 1 << 20, 0, 0, 1<<20 + 0x40} {
		binary.LittleEndian.PutUint32(b[i*4:], v)
	}
	b[0x40] = 0xf4 // hlt
	return b
}

// Out is a guest's OUT of one byte.
func Out(v *VCPU, e *vcpu.Exit, port uint16, x byte) error {
	e.Reason, e.Port, e.Size, e.In, e.Len = vcpu.ExitIO, port, 1, false, 1
	v.Regs().GPR[vcpu.RAX] = uint64(x)
	return nil
}
