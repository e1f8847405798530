package scenarios

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func guests() []*rig.Scenario {
	var list []*rig.Scenario
	for _, cpus := range []int{1, 2, 4} {
		list = append(list, &rig.Scenario{
			Name: fmt.Sprintf("guest-%dcpus", cpus), Cores: min(cpus, 2), Limit: 8 * time.Minute,
			About: "Debian's cloud kernel boots on " + strings.Replace(processors(cpus), " ", " virtual ", 1) + ", works, resets and powers off",
			Skip: func(g machine.Ground) string {
				if b, ok := g.(machine.Bochs); ok && (cpus > 2 || b.Extension == machine.SVM && cpus > 1) {
					return tooSlow
				}
				return ""
			},
			Run: func(ctx context.Context, t *rig.T) error { return guestLife(ctx, t, cpus) },
		})
	}
	return append(list, &rig.Scenario{
		Name: "guest-native", About: "a guest that sees the host's own processor knows whose it is, and protects itself as there", Limit: 6 * time.Minute,
		Skip: func(g machine.Ground) string {
			if b, ok := g.(machine.Bochs); ok && b.Extension == machine.SVM {
				return tooSlow
			}
			return ""
		},
		Run: guestNative,
	}, &rig.Scenario{
		Name: "guest-legacy", About: "a guest that uses neither x2APIC nor kvmclock works: with the 8259s and the PIT, or the xAPIC's memory", Limit: 4 * time.Minute,
		Cores: 2, Skip: onQEMU, Run: guestLegacy,
	}, &rig.Scenario{
		Name: "guest-crash", About: "a guest that panics is told to the operator, and the host goes on", Limit: 6 * time.Minute,
		Skip: onQEMU, Run: guestCrash,
	}, &rig.Scenario{
		Name: "guest-leak", About: "rounds of create, start, stop and delete end with the memory they began with", Limit: 8 * time.Minute,
		Run: func(ctx context.Context, t *rig.T) error {
			if _, ok := t.Ground.(machine.Bochs); ok {
				return guestLeak(ctx, t, 10)
			}
			return guestLeak(ctx, t, 40)
		},
	})
}

const guestName = "g"

// hostWithGuest starts a host that has the guest's files.
func hostWithGuest(ctx context.Context, t *rig.T, cpus int) (*rig.Host, error) {
	return t.Host(ctx, machine.Spec{Name: "host", CPUs: cpus, MemoryMiB: 768, Boot: image(t, "ip=none", t.GuestModules()...)})
}

// workTime is how long a guest works before it is judged, in its own seconds.
const workTime = 5

var guestHello = regexp.MustCompile(`guest: hello kernel=(\S+) cpus=(\d+) free=\S+ up=(\S+)\n`)

func guestLife(ctx context.Context, t *rig.T, cpus int) error {
	h, err := hostWithGuest(ctx, t, cpus)
	if err != nil {
		return err
	}
	spec := rig.GuestSpec{Name: guestName, CPUs: cpus, MemoryMiB: 256, CommandLine: "guest=workload guest.mem=32M guest.rate=500"}
	if err := h.StartGuest(ctx, spec); err != nil {
		return err
	}
	m, err := h.GuestExpect(ctx, guestName, "", guestHello)
	if err != nil {
		return err
	}
	t.Measure("guest's user space after", "%s s", m.Groups[3])
	if m.Groups[2] != fmt.Sprint(cpus) {
		return fmt.Errorf("the guest sees %s processors, has %d", m.Groups[2], cpus)
	}
	if _, err := h.Judge(ctx, guestName, workTime); err != nil {
		return err
	}
	v, err := h.FinalVerdict(ctx, guestName)
	if err != nil {
		return err
	}
	t.Measure("verdict", "%s", v.Line)
	if _, err := h.Do(ctx, "vm reset "+guestName, rig.CommandPatience); err != nil {
		return err
	}
	if _, err := h.GuestExpect(ctx, guestName, "", regexp.MustCompile(`(?s)guest: final.*guest: hello .*guest: workload .*\n`)); err != nil {
		return fmt.Errorf("after a reset: %w", err)
	}
	if _, err := h.GuestExpect(ctx, guestName, "poweroff\n", regexp.MustCompile(`guest: stopping .*\n`)); err != nil {
		return err
	}
	return awaitStatus(ctx, h, "stopped")
}

// legacies are what kernels did before they knew of hypervisors.
var legacies = []struct {
	cpus    int
	cmdline string
	xapic   bool // its registers are loaded and stored; else there is no local APIC
}{
	{1, "nolapic noapic no-kvmclock", false},
	{2, "nox2apic no-kvmclock", true},
}

func guestLegacy(ctx context.Context, t *rig.T) error {
	h, err := hostWithGuest(ctx, t, 2)
	if err != nil {
		return err
	}
	for _, l := range legacies {
		if err := runLegacy(ctx, t, h, l.cpus, l.cmdline, l.xapic); err != nil {
			return fmt.Errorf("with %s: %w", l.cmdline, err)
		}
	}
	return nil
}

func runLegacy(ctx context.Context, t *rig.T, h *rig.Host, cpus int, cmdline string, xapic bool) error {
	spec := rig.GuestSpec{Name: guestName, CPUs: cpus, MemoryMiB: 192, CommandLine: "guest=workload guest.mem=16M guest.rate=300 " + cmdline}
	if err := h.StartGuest(ctx, spec); err != nil {
		return err
	}
	m, err := h.GuestExpect(ctx, guestName, "", guestHello)
	if err != nil {
		return err
	}
	t.Measure(cmdline+": user space after", "%s s", m.Groups[3])
	if m.Groups[2] != fmt.Sprint(cpus) {
		return fmt.Errorf("the guest sees %s processors, has %d", m.Groups[2], cpus)
	}
	if _, err := h.Judge(ctx, guestName, workTime); err != nil {
		return err
	}
	if _, err := h.FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	// It did what its command line says.
	var v struct {
		CPUs []struct{ Injected, Emulated int }
	}
	if err := h.JSON(ctx, "vm show "+guestName, &v); err != nil {
		return err
	}
	for i, c := range v.CPUs {
		if c.Injected < 100 || (c.Emulated > 100) != xapic {
			return fmt.Errorf("CPU %d took %d interrupts, and %d instructions were emulated for it", i, c.Injected, c.Emulated)
		}
	}
	for _, c := range []string{"vm stop " + guestName + " force", "vm delete " + guestName} {
		if _, err := h.Do(ctx, c, rig.CommandPatience); err != nil {
			return err
		}
	}
	return nil
}

// awaitStatus waits until the guest's state is one of want.
func awaitStatus(ctx context.Context, h *rig.Host, want ...string) error {
	for {
		s, err := h.GuestStatus(ctx, guestName)
		if err != nil {
			return err
		}
		for _, w := range want {
			if s == w {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return h.Explain(ctx, guestName, fmt.Errorf("%s: the guest is %s, not %q: %w", h.Name, s, want, context.Cause(ctx)))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

var guestProtects = regexp.MustCompile(`vendor_id\s*: (\S+)\s+(Mitigation: .*)\n`)

func guestNative(ctx context.Context, t *rig.T) error {
	h, err := hostWithGuest(ctx, t, 1)
	if err != nil {
		return err
	}
	spec := rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 256, CommandLine: "guest=shell", Model: "native"}
	if err := h.StartGuest(ctx, spec); err != nil {
		return err
	}
	if _, err := h.GuestExpect(ctx, guestName, "", guestHello); err != nil {
		return err
	}
	m, err := h.GuestExpect(ctx, guestName, "grep -m1 vendor /proc/cpuinfo; cat /sys/devices/system/cpu/vulnerabilities/spectre_v2\n", guestProtects)
	if err != nil {
		return err
	}
	vendor, does := m.Groups[1], strings.TrimSpace(m.Groups[2])
	t.Measure("Spectre v2", "%s", does)
	if want := map[machine.Vendor]string{machine.VTx: "GenuineIntel", machine.SVM: "AuthenticAMD"}[t.Ground.Vendor()]; vendor != want {
		return fmt.Errorf("the guest sees a processor of %s, the host is %s", vendor, want)
	}
	// Bochs's Ice Lake has the controls; QEMU's processors have none.
	if _, ok := t.Ground.(machine.Bochs); ok && (!strings.Contains(does, "Enhanced / Automatic IBRS") || !strings.Contains(does, "IBPB: conditional")) {
		return fmt.Errorf("the guest does not use enhanced IBRS and IBPB, but: %s", does)
	}
	return nil
}

func guestCrash(ctx context.Context, t *rig.T) error {
	h, err := hostWithGuest(ctx, t, 1)
	if err != nil {
		return err
	}
	if err := h.StartGuest(ctx, rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 256, CommandLine: "guest=panic panic=0"}); err != nil {
		return err
	}
	if _, err := h.GuestExpect(ctx, guestName, "", regexp.MustCompile(`Kernel panic - not syncing: Attempted to kill init`)); err != nil {
		return err
	}
	events, err := h.GuestEvents(ctx, guestName)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(events, func(e string) bool { return strings.Contains(e, "the guest's kernel panicked") }) {
		return h.Explain(ctx, guestName, errors.New("the guest's panic is not among its events"))
	}
	if _, err := h.Do(ctx, "vm stop "+guestName+" force", rig.CommandPatience); err != nil {
		return err
	}
	if _, err := h.Do(ctx, "vm delete "+guestName, rig.CommandPatience); err != nil {
		return err
	}
	var f hostFacts
	return h.JSON(ctx, "host", &f)
}

func guestLeak(ctx context.Context, t *rig.T, rounds int) error {
	h, err := hostWithGuest(ctx, t, 1)
	if err != nil {
		return err
	}
	// Memory that is neither free nor the Go heap's, and the Go heap.
	look := func() (held, heap uint64, err error) {
		var f hostFacts
		err = h.JSON(ctx, "host", &f)
		return f.Memory.Total - f.Memory.Free - f.Memory.GoHeap, f.Memory.GoHeap, err
	}
	round := func() (held, heap uint64, err error) {
		if err := h.StartGuest(ctx, rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 256}); err != nil {
			return 0, 0, err
		}
		for _, c := range []string{"vm stop " + guestName + " force", "vm delete " + guestName} {
			if _, err := h.Do(ctx, c, rig.CommandPatience); err != nil {
				return 0, 0, err
			}
		}
		return look()
	}
	// The threads' stacks and page tables find their number in the first rounds. The Go heap grows to 4 MiB before its
	// first collection, and may double while one runs.
	const warm, slack, heapLimit = 5, 256 << 10, 16 << 20
	var before, after, heap uint64
	for i := range warm + rounds {
		if after, heap, err = round(); err != nil {
			return fmt.Errorf("round %d: %w", i, err)
		}
		if i < warm {
			before = max(before, after)
		}
		if i%100 == 0 && i > 0 {
			t.Logf("round %d: %d KiB held, Go heap %d KiB", i, after>>10, heap>>10)
		}
	}
	for i := 0; i < looks(t) && (after > before+slack || heap > heapLimit); i++ { // what runs beside may hold some for a moment
		if err = sleep(ctx, time.Second); err != nil {
			return err
		}
		if after, heap, err = look(); err != nil {
			return err
		}
	}
	t.Measure("rounds", "%d", rounds)
	t.Measure("held after warm-up and after the last round", "%d and %d KiB", before>>10, after>>10)
	t.Measure("Go heap", "%d KiB", heap>>10)
	if after > before+slack || heap > heapLimit {
		return fmt.Errorf("after %d rounds the host holds %d KiB, %d before; its Go heap has %d", rounds, after>>10, before>>10, heap>>10)
	}
	return nil
}
