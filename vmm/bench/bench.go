// Package bench measures what a guest's exits cost: small guests execute one
// instruction many times and count the time-stamp counter's ticks themselves. On
// an emulator that counts instructions with it (qemu-system -icount shift=0) the
// results are instructions, exactly.
package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"time"

	"godwit/vmm"
	"godwit/vmm/gcoff"
)

// A Result is one measurement.
type Result struct {
	Name  string `json:"name"`
	Count uint32 `json:"count"`
	Ticks uint64 `json:"ticks"` // for each, of the TSC; the loop around it taken off
}

// test is one guest.
type test struct {
	name  string
	count uint32
	setup code
	op    code
}

func build(f func(c *code)) (c code) {
	f(&c)
	return c
}

const (
	rounds     = 2000
	fewRounds  = 200
	touchFrom  = 4 << 20
	benchBytes = 256 << 20
)

// hypercalls are VMMCALL and VMCALL.
var hypercalls = map[string]code{"svm": {0x0f, 0x01, 0xd9}, "vmx": {0x0f, 0x01, 0xc1}}

func tests(vendor string) []test {
	ebx := build(func(c *code) { c.movEBX(touchFrom) })
	return []test{
		{"cpuid", rounds, nil, build(func(c *code) { c.movEAX(0x40000000); c.cpuid() })},
		{"rdmsr", rounds, nil, build(func(c *code) { c.movECX(0x8b); c.rdmsr() })},
		{"wrmsr", rounds, nil, build(func(c *code) { c.wrmsr(0xc0011029, 2) })},
		{"in (8259)", rounds, nil, code{0xe4, 0x21}},
		{"out (16550)", rounds, nil, build(func(c *code) { c.movDX(0x3ff); c.b(0xee) })},
		{"mmio read (IOAPIC)", rounds, nil, build(func(c *code) { c.imm(0xfec00000, 0xa1) })},
		{"mmio write (IOAPIC)", rounds, nil, build(func(c *code) { c.imm(0xfec00000, 0xa3) })},
		{"hypercall", rounds, nil, hypercalls[vendor]},
		{"self-IPI, handler, EOI", rounds, interrupts(), build(func(c *code) { c.wrmsr(0x83f, vector) })},
		{"hlt, timer after 1 us", fewRounds, interrupts(), build(func(c *code) {
			c.b(0xfa) // cli: the timer may be quicker than we are
			c.wrmsr(0x838, 1000)
			c.b(0xfb, 0xf4) // sti; hlt
		})},
		{"first touch, 2M", 100, ebx, build(func(c *code) { c.b(0x89, 0x03); c.imm(2<<20, 0x81, 0xc3) })},
	}
}

// Run measures those whose name contains filter, telling each result as it comes.
// Its machines are no one else's and say nothing.
func Run(ctx context.Context, h *vmm.Host, filter string, tell func(Result)) error {
	defer gcoff.Off()() // no collection falls into a measurement
	quiet := *h
	quiet.Log, quiet.Quiet = nil, true
	r := vmm.NewRegistry(&quiet)
	empty, err := one(ctx, r, test{name: "empty", count: rounds})
	if err != nil {
		return err
	}
	for _, t := range tests(h.Backend.Name()) {
		if !strings.Contains(t.name, filter) {
			continue
		}
		ticks, err := one(ctx, r, t)
		if err != nil {
			return fmt.Errorf("bench: %s: %w", t.name, err)
		}
		ticks -= min(ticks, empty*uint64(t.count)/rounds)
		tell(Result{t.name, t.count, ticks / uint64(t.count)})
	}
	if strings.Contains(wakeUps, filter) {
		mean, worst, err := latency(ctx, h, r)
		if err != nil {
			return fmt.Errorf("bench: %s: %w", wakeUps, err)
		}
		tell(Result{wakeUps, 1, mean})
		tell(Result{wakeUps + ", worst", 1, worst})
	}
	return nil
}

// wakeUps is the name of the measurement of latency.
const wakeUps = "wake-up beside spinning guests"

// latency measures how late a goroutine goes on that slept in the kernel, while a
// guest on each of the host's CPUs computes for ever: the mean, and the worst.
func latency(ctx context.Context, h *vmm.Host, r *vmm.Registry) (mean, worst uint64, err error) {
	const (
		naps = 200
		nap  = 300 * time.Microsecond
	)
	var vms []*vmm.VM
	defer func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		for i, vm := range vms {
			vm.Stop(now)
			r.Delete(spinner(i))
		}
	}()
	for i := range runtime.NumCPU() {
		vm, err := r.Create(vmm.Config{Name: spinner(i), Memory: spinBytes, CPUs: 1, Kernel: "built in"}, vmm.Files{Kernel: image(code{0xeb, 0xfe}, nil, 1)}) // jmp $
		if err != nil {
			return 0, 0, err
		}
		vms = append(vms, vm)
		if err := vm.Start(); err != nil {
			return 0, 0, err
		}
	}
	var sum uint64
	ts := syscall.NsecToTimespec(int64(nap))
	ticks := h.TSCHz / uint64(time.Second/nap)
	for range naps {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		from := h.TSC()
		// Not time.Sleep: the runtime's timers wait in other ways.
		if err := syscall.Nanosleep(&ts, nil); err != nil && err != syscall.EINTR {
			return 0, 0, err
		}
		took := h.TSC() - from
		late := took - min(took, ticks)
		sum, worst = sum+late, max(worst, late)
	}
	return sum / naps, worst, nil
}

const spinBytes = 64 << 20

func spinner(i int) string { return fmt.Sprintf("spin%d", i) }

// limit is what one guest may take.
const limit = time.Minute

// one runs a guest and returns the ticks that it counted.
func one(ctx context.Context, r *vmm.Registry, t test) (uint64, error) {
	const name = "bench"
	vm, err := r.Create(vmm.Config{Name: name, Memory: benchBytes, CPUs: 1, Kernel: "built in"}, vmm.Files{Kernel: image(t.setup, t.op, t.count)})
	if err != nil {
		return 0, err
	}
	defer func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		vm.Stop(now)
		r.Delete(name)
	}()
	if err := vm.Start(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out []byte
	buf := make([]byte, 4)
	for pos := int64(0); len(out) < 4; {
		n, next, err := vm.FollowConsole(ctx, buf, pos)
		if err != nil {
			return 0, fmt.Errorf("its guest is %v and has not reported: %w", vm.Status(), err)
		}
		out, pos = append(out, buf[:n]...), next
	}
	return uint64(binary.LittleEndian.Uint32(out)), nil
}
