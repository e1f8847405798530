package scenarios

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

// Benches measure; each runs alone.
func Benches() []*rig.Scenario {
	return []*rig.Scenario{
		{Name: "image", About: "the image's size", Run: benchImage},
		{Name: "boot", About: "from the first instruction to the prompt, and the idle host's memory", Run: benchBoot, Limit: 2 * time.Minute},
		{Name: "guest-boot", About: "the guest's kernel on a host against the bare machine, until its first process; an instruction is a nanosecond, and waiting counts", Run: benchGuestBoot, Limit: 10 * time.Minute},
		{Name: "host-bench", About: "what the host's own bench command measures, in instructions, against KVM's figures on the same emulator", Run: benchHost, Limit: 10 * time.Minute},
	}
}

func benchImage(_ context.Context, t *rig.T) error {
	raw, err := os.ReadFile(t.Files.Image)
	if err != nil {
		return err
	}
	size := func(compress func(io.Writer) (io.WriteCloser, error)) (int, error) {
		var n counter
		w, err := compress(&n)
		if err != nil {
			return 0, err
		}
		if _, err := w.Write(raw); err != nil {
			return 0, err
		}
		err = w.Close()
		return int(n), err
	}
	gz, err := size(func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestCompression) })
	if err != nil {
		return err
	}
	zst, err := size(func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	})
	if err != nil {
		return err
	}
	t.Measure("raw", "%.2f MiB", mib(len(raw)))
	t.Measure("gzip", "%.2f MiB", mib(gz))
	t.Measure("zstd", "%.2f MiB", mib(zst))
	return nil
}

func mib(n int) float64 { return float64(n) / (1 << 20) }

// counter is a Writer that only counts.
type counter int

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }

func benchBoot(ctx context.Context, t *rig.T) error {
	for _, cpus := range []int{1, 2, 4} {
		const runs = 5
		best := 0.0
		var used, heap uint64
		for i := range runs {
			h, err := t.Host(ctx, machine.Spec{Name: fmt.Sprintf("boot%d-%d", cpus, i), CPUs: cpus, Boot: image(t, "ip=none")})
			if err != nil {
				return err
			}
			var f hostFacts
			if err := h.JSON(ctx, "host", &f); err != nil {
				return err
			}
			if best == 0 || f.ReadyMillis < best {
				best = f.ReadyMillis
			}
			used, heap = f.Memory.Total-f.Memory.Free, f.Memory.GoHeap
			h.Kill()
		}
		t.Measure(processors(cpus), "prompt after %.0f ms (best of %d), idle host uses %.1f MiB (Go heap %.1f)", best, runs, mib(int(used)), mib(int(heap)))
	}
	return nil
}

// benchGuestBoot compares the guest's own uptime at its first process.
func benchGuestBoot(ctx context.Context, t *rig.T) error {
	const commandLine = "guest=poweroff"
	for _, verbose := range []bool{false, true} {
		words, label := "console=ttyS0 panic=1 ", "verbose"
		if !verbose {
			words, label = words+"quiet ", "quiet"
		}
		bare, err := t.Start(ctx, machine.Spec{Name: "bare-" + label, MemoryMiB: 256, Counted: true, Boot: machine.Boot{
			Image: t.Files.Guest.Kernel, CommandLine: words + commandLine, Modules: t.GuestModules()[1:]}})
		if err != nil {
			return err
		}
		m, err := bare.Expect(ctx, guestHello, time.Minute)
		if err != nil {
			return err
		}
		bare.Kill()
		h, err := t.Host(ctx, machine.Spec{Name: "host-" + label, MemoryMiB: 768, Counted: true, Boot: image(t, "ip=none", t.GuestModules()...)})
		if err != nil {
			return err
		}
		create := fmt.Sprintf(`vm create g kernel=module:vmlinuz initrd=module:initramfs mem=256M cmdline="%s"`, words+commandLine)
		for _, c := range []string{create, "vm start g"} {
			if _, err := h.Do(ctx, c, rig.CommandPatience); err != nil {
				return err
			}
		}
		n, err := h.GuestExpect(ctx, guestName, "", guestHello)
		if err != nil {
			return err
		}
		h.Kill()
		onBare, err1 := strconv.ParseFloat(m.Groups[3], 64)
		onHost, err2 := strconv.ParseFloat(n.Groups[3], 64)
		if err1 != nil || err2 != nil || onBare == 0 {
			return fmt.Errorf("the guest reports uptimes %q and %q", m.Groups[3], n.Groups[3])
		}
		t.Measure(label, "bare %.3f s, on a host %.3f s, ratio %.2f", onBare, onHost, onHost/onBare)
	}
	return nil
}

// kvm is what Linux 6.1's KVM takes for the same on the same emulator, in instructions: the mark.
var kvm = map[string]int{
	"cpuid": 2854, "rdmsr": 2922, "wrmsr": 2931,
	"in (8259)": 1524, "out (16550)": 3141, "mmio read (IOAPIC)": 3891,
	"hypercall": 3085, "self-IPI, handler, EOI": 7766, "hlt, timer after 1 us": 20000,
	"first touch, 2M": 3764, "first touch of a 4K page": 3581,
	"write fault of tracking": 1622, "write fault of tracking, and collecting it": 1622 + 295,
}

// hostCost is what the rig reads of each of the host's measurements.
type hostCost struct {
	Part  string `json:"part"` // vm: a whole machine, measured by its guest; backend: the virtualization alone
	Name  string `json:"name"`
	Ticks int    `json:"ticks"`
}

func benchHost(ctx context.Context, t *rig.T) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", Counted: true, Boot: image(t, "ip=none")})
	if err != nil {
		return err
	}
	var r struct {
		Results []hostCost `json:"results"`
	}
	if err := h.JSONWithin(ctx, "bench", &r, time.Minute); err != nil {
		return err
	}
	for _, x := range r.Results {
		against := ""
		if mark, ok := kvm[x.Name]; ok {
			against = fmt.Sprintf("   KVM %6d: %3.0f %%", mark, 100*float64(x.Ticks)/float64(mark))
		}
		t.Measure(fmt.Sprintf("%-8s %-44s", x.Part, x.Name), "%6d%s", x.Ticks, against)
	}
	for name := range kvm {
		if !slices.ContainsFunc(r.Results, func(x hostCost) bool { return x.Name == name && x.Ticks > 0 }) {
			return fmt.Errorf("the host's bench has not measured %q", name)
		}
	}
	return nil
}
