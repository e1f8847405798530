package scenarios

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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
		{Name: "guest-boot", About: "the guest's kernel on a host against the bare machine, in instructions", Run: benchGuestBoot, Limit: 10 * time.Minute},
		{Name: "host-bench", About: "what the host's own bench command measures, in instructions", Run: benchHost, Limit: 10 * time.Minute},
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
		t.Measure(fmt.Sprintf("%d CPUs", cpus), "prompt after %.0f ms (best of %d), idle host uses %.1f MiB (Go heap %.1f)", best, runs, mib(int(used)), mib(int(heap)))
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
		t.Measure(label, "bare %.3f s, on a host %.3f s (at 1 ns an instruction), ratio %.2f", onBare, onHost, onHost/onBare)
	}
	return nil
}

func benchHost(ctx context.Context, t *rig.T) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", Counted: true, Boot: image(t, "ip=none")})
	if err != nil {
		return err
	}
	text, err := h.Do(ctx, "bench", time.Minute)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			t.Measure("", "%s", line)
		}
	}
	return nil
}
