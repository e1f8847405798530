package scenarios

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func hardwareReports() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "nmi", About: "NMIs are told, with and without a guest, and host and guest go on", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: nmi,
		},
		{
			Name: "machine-check", About: "a corrected machine check is told, and the host goes on; any other ends in a readable report", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: machineChecks,
		},
	}
}

// hostWithMonitor starts a host with two processors whose hardware can be made to fail.
func hostWithMonitor(ctx context.Context, t *rig.T, name, options string) (*rig.Host, error) {
	return t.Host(ctx, machine.Spec{Name: name, CPUs: 2, MemoryMiB: 768, Reboots: true, Monitor: true, Boot: image(t, "ip=none "+options, t.GuestModules()...)})
}

// cause gives a command to the host's monitor and waits for what the host says of it.
func cause(ctx context.Context, h *rig.Host, command, pattern string) (machine.Match, error) {
	h.Discard()
	if err := h.Monitor(ctx, command); err != nil {
		return machine.Match{}, err
	}
	return h.Await(ctx, fmt.Sprintf("%q after %s", pattern, command), regexp.MustCompile(pattern), reportPatience)
}

// reportPatience is longer than the ten seconds between two looks at the machine-check banks.
const reportPatience = time.Minute

// startWork starts a guest and waits until it works.
func startWork(ctx context.Context, h *rig.Host) error {
	spec := rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 256, CommandLine: "guest=workload guest.mem=32M guest.rate=500"}
	if err := h.StartGuest(ctx, spec); err != nil {
		return err
	}
	_, err := h.GuestExpect(ctx, guestName, "", regexp.MustCompile(`guest: verdict ok .*\n`))
	return err
}

func nmi(ctx context.Context, t *rig.T) error {
	h, err := hostWithMonitor(ctx, t, "host", "")
	if err != nil {
		return err
	}
	// QEMU gives each to all processors. Those told of together stand on one line.
	if err := h.Monitor(ctx, "nmi"); err != nil {
		return err
	}
	if err := awaitNMIs(ctx, h, 1); err != nil {
		return err
	}
	if err := startWork(ctx, h); err != nil {
		return err
	}
	// The next is sent when both processors have told of the last: one that comes while another waits is lost, in the
	// processor, and one that comes before the other's interrupt has been taken is told as a hang.
	const more = 8
	for n := range more {
		if err := h.Monitor(ctx, "nmi"); err != nil {
			return err
		}
		if err := awaitNMIs(ctx, h, 2+n); err != nil {
			return err
		}
	}
	v, err := h.Judge(ctx, guestName, workTime)
	if err != nil {
		return err
	}
	t.Measure("verdict after NMIs", "%s", v.Line)
	if _, err := h.FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("NMIs told", "%d of each processor", 1+more)
	if err := awaitNMIs(ctx, h, 1+more); err != nil { // and not one more
		return err
	}
	if strings.Contains(h.Text(), "has taken no interrupt") {
		return fmt.Errorf("the host took itself for stuck:\n%s", h.Tail(40))
	}
	return nil
}

// awaitNMIs waits until the host has told of want NMIs on each processor. More are an error.
func awaitNMIs(ctx context.Context, h *rig.Host, want int) error {
	limited, cancel := context.WithTimeoutCause(ctx, 2*reportPatience, errors.New("it tells of no more"))
	defer cancel()
	for {
		counts, err := countNMIs(h.Text())
		switch {
		case err != nil:
			return err
		case counts == [2]int{want, want}:
			return nil
		case max(counts[0], counts[1]) > want:
			return fmt.Errorf("%d NMIs were sent, %d told of CPU 0, %d of CPU 1", want, counts[0], counts[1])
		}
		if err := sleep(limited, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%d NMIs were sent, %d told of CPU 0, %d of CPU 1: %w", want, counts[0], counts[1], err)
		}
	}
}

var (
	nmiLine = regexp.MustCompile(`kernel: NMI on CPU ([^;:\n]*)[^\n]*\n`)
	nmiCPU  = regexp.MustCompile(`([01])(?: \((\d+) times\))?`)
)

// countNMIs adds up what the host told of its two processors.
func countNMIs(text string) (counts [2]int, err error) {
	for _, line := range nmiLine.FindAllStringSubmatch(text, -1) {
		for _, who := range strings.Split(line[1], ", ") {
			m := nmiCPU.FindStringSubmatch(who)
			if m == nil || m[0] != who {
				return counts, fmt.Errorf("what does %q tell of which processor?", line[0])
			}
			n := 1
			if m[2] != "" {
				fmt.Sscan(m[2], &n)
			}
			counts[m[1][0]-'0'] += n
		}
	}
	return counts, nil
}

// Statuses of a bank (SDM vol. 3, 16.3.2.2), as QEMU's monitor and as the host writes them. 90h and 134h are error codes
// of memory and of a cache.
const (
	corrected   = "9c00000000000090"
	uncorrected = "be00000000000134"
)

func machineChecks(ctx context.Context, t *rig.T) error {
	h, err := hostWithMonitor(ctx, t, "host", "")
	if err != nil {
		return err
	}
	for cpu := range 2 {
		if _, err := cause(ctx, h, fmt.Sprintf("mce %d 3 0x%s 0 0x12345000 0", cpu, corrected),
			fmt.Sprintf("kernel: corrected machine check on CPU %d, bank 3: status %s, address 0000000012345000\n", cpu, corrected)); err != nil {
			return err
		}
	}
	if err := startWork(ctx, h); err != nil {
		return err
	}
	// To CPU 0, where no guest runs under TCG: that gives a machine check to a guest that it hits, whatever is intercepted.
	m, err := cause(ctx, h, fmt.Sprintf("mce 0 2 0x%s 4 0x12345000 0", uncorrected), `(?m)^godwit: rebooting`)
	if err != nil {
		return err
	}
	bank := fmt.Sprintf(", bank 2: status %s, address 0000000012345000", uncorrected)
	if err := has(m.Before, `godwit: fatal: machine check on CPU 0, status 0000000000000004\n`, "  CPU 0"+bank, registers, `godwit/kernel\.\w+  godwit/kernel/\w+\.(s|go):\d+`,
		`(?m)^last lines of the log:\n(?s:.*)corrected machine check on CPU 1`); err != nil {
		return err
	}
	// The banks outlive a reset.
	if _, err := h.Await(ctx, "what the banks still hold", regexp.MustCompile("kernel: uncorrected machine check on CPU 0"+bank+", from before this boot\n"), reportPatience); err != nil {
		return err
	}
	// One that all processors are told of, on a host that shall halt.
	if h, err = hostWithMonitor(ctx, t, "halting", "panic=halt"); err != nil {
		return err
	}
	if m, err = cause(ctx, h, fmt.Sprintf("mce -b 1 2 0x%s 4 0x12345000 0", uncorrected), `(?m)^godwit: halted \(panic=halt\)\n`); err != nil {
		return err
	}
	if err := has(m.Before, `godwit: fatal: machine check on CPU [01], status`, "  CPU 1"+bank, `  CPU 0, bank 1: status a000000000000000\n`, registers); err != nil {
		return err
	}
	return silent(ctx, h)
}

// has is an error if text lacks one of the regular expressions.
func has(text string, want ...string) error {
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(text) {
			return fmt.Errorf("nothing like %q in\n%s", w, text)
		}
	}
	return nil
}
