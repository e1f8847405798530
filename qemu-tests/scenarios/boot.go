package scenarios

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"godwit/boot"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func boots() []*rig.Scenario {
	list := []*rig.Scenario{
		{
			Name: "boot-options", About: "unknown and bad options are named, and the host comes up; the command line wins over the config",
			Skip: notOnSecondBochs, Run: bootOptions,
		},
		{
			Name: "boot-pvh", About: "the ELF boots through its PVH entry",
			Skip: onQEMU, Run: func(ctx context.Context, t *rig.T) error {
				_, err := t.Host(ctx, machine.Spec{Name: "host", Boot: machine.Boot{Image: t.Files.ELF}})
				return err
			},
		},
		{
			Name: "boot-disc", About: "the ISO boots, with the config and modules on it",
			Skip: onQEMU, Run: bootDisc, // Bochs boots from discs in all scenarios
		},
		{
			Name: "boot-typing", About: "what was typed before the host began is not lost, nor part of it",
			Skip: onQEMU, Run: bootTyping,
		},
		{
			Name: "boot-noacpi", About: "a host without ACPI tables, so with one processor and without an I/O APIC, comes up and runs a guest", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: bootWithoutACPI,
		},
		{
			Name: "reboot", About: "the host reboots and powers off when told",
			Skip: notOnSecondBochs, Run: reboot,
		},
	}
	for _, cpus := range []int{1, 2, 4, 8} {
		list = append(list, &rig.Scenario{
			Name: fmt.Sprintf("boot-%dcpus", cpus), About: "the host finds and uses " + processors(cpus), Cores: min(cpus, 2),
			Skip: func(g machine.Ground) string {
				if _, ok := g.(machine.Bochs); ok && cpus > 2 {
					return tooSlow
				}
				return ""
			},
			Run: func(ctx context.Context, t *rig.T) error { return bootAndCount(ctx, t, cpus, 512) },
		})
	}
	for _, mib := range []int{256, 8192} {
		list = append(list, &rig.Scenario{
			Name: fmt.Sprintf("boot-%dm", mib), About: fmt.Sprintf("the host finds and uses %d MiB of memory", mib),
			Skip: func(g machine.Ground) string {
				if _, ok := g.(machine.Bochs); ok && mib > 2048 {
					return "Bochs 2.7 offers no memory above 4 GiB in the way its BIOS reports it"
				}
				return notOnSecondBochs(g)
			},
			Run: func(ctx context.Context, t *rig.T) error { return bootAndCount(ctx, t, 2, mib) },
		})
	}
	return list
}

// processors is "1 processor" or "N processors".
func processors(n int) string {
	if n == 1 {
		return "1 processor"
	}
	return fmt.Sprintf("%d processors", n)
}

// hostFacts is what scenarios read of `host -json`.
type hostFacts struct {
	Name        string  `json:"name"`
	ReadyMillis float64 `json:"ready_ms"`
	CPUs        int     `json:"cpus"`
	Memory      struct {
		Total  uint64 `json:"total_bytes"`
		Free   uint64 `json:"free_bytes"`
		Kernel uint64 `json:"kernel_bytes"`
		GoHeap uint64 `json:"go_heap_bytes"`
	} `json:"memory"`
	Modules []struct {
		Name  string `json:"name"`
		Bytes int    `json:"bytes"`
	} `json:"modules"`
}

func image(t *rig.T, commandLine string, modules ...machine.Module) machine.Boot {
	return machine.Boot{Image: t.Files.Image, CommandLine: commandLine, Modules: modules}
}

func bootAndCount(ctx context.Context, t *rig.T, cpus, mib int) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: cpus, MemoryMiB: mib, Boot: image(t, "ip=none")})
	if err != nil {
		return err
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	t.Measure("prompt after", "%.0f ms", f.ReadyMillis)
	if f.CPUs != cpus {
		return fmt.Errorf("the host sees %d CPUs, has %d", f.CPUs, cpus)
	}
	// Firmware and the video hole take a little.
	const hole = 4
	if total := int(f.Memory.Total >> 20); total > mib || total < mib-hole {
		return fmt.Errorf("the host sees %d MiB, has %d", total, mib)
	}
	if used := f.Memory.Total - f.Memory.Free; used > 64<<20 && mib <= 512 {
		return fmt.Errorf("the idle host uses %d MiB", used>>20)
	}
	return nil
}

func writeFile(t *rig.T, name, text string) (machine.Module, error) {
	if err := os.MkdirAll(t.Dir, 0o777); err != nil {
		return machine.Module{}, err
	}
	m := machine.Module{Path: t.Path(name), Name: name}
	return m, os.WriteFile(m.Path, []byte(text), 0o666)
}

func bootOptions(ctx context.Context, t *rig.T) error {
	conf, err := writeFile(t, "godwit.conf", "# a comment\nname=fromconfig\ncolour=red\n")
	if err != nil {
		return err
	}
	h, err := t.Host(ctx, machine.Spec{Name: "host", Boot: image(t, "name=fromcommandline ip=999.1.2.3 warp=9", conf)})
	if err != nil {
		return err
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	if f.Name != "fromcommandline" {
		return fmt.Errorf("the host is named %q; the command line should win", f.Name)
	}
	for _, want := range []string{"999.1.2.3", "warp", "colour"} {
		if !strings.Contains(h.Text(), want) {
			return fmt.Errorf("the console does not name the bad option %q:\n%s", want, h.Tail(20))
		}
	}
	return nil
}

func bootDisc(ctx context.Context, t *rig.T) error {
	conf, err := writeFile(t, "godwit.conf", "name=fromdisc\nip=none\n")
	if err != nil {
		return err
	}
	d := boot.Disc{Image: t.Files.Image, CommandLine: "panic=halt", Files: []boot.File{
		{Path: conf.Path, Name: conf.Name}, {Path: t.Files.Guest.Kernel, Name: "vmlinuz"}}}
	if err := d.Write(ctx, t.Path("godwit.iso")); err != nil {
		return err
	}
	h, err := t.Host(ctx, machine.Spec{Name: "host", Boot: machine.Boot{Disc: t.Path("godwit.iso")}})
	if err != nil {
		return err
	}
	return checkModules(ctx, h, "fromdisc", t.Files.Guest.Kernel)
}

// checkModules compares the host's name, which stood in its config, and the size of the module vmlinuz.
func checkModules(ctx context.Context, h *rig.Host, name, kernel string) error {
	info, err := os.Stat(kernel)
	if err != nil {
		return err
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	if f.Name != name {
		return fmt.Errorf("the host is named %q, its config says %q", f.Name, name)
	}
	for _, m := range f.Modules {
		if m.Name == "vmlinuz" {
			if m.Bytes != int(info.Size()) {
				return fmt.Errorf("module vmlinuz has %d bytes, the file %d", m.Bytes, info.Size())
			}
			return nil
		}
	}
	return fmt.Errorf("no module vmlinuz among %+v", f.Modules)
}

func reboot(ctx context.Context, t *rig.T) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", Boot: image(t, "ip=none"), Reboots: true})
	if err != nil {
		return err
	}
	if err := h.Restart(ctx); err != nil {
		return err
	}
	if err := h.Send("reboot poweroff\r"); err != nil {
		return err
	}
	return h.Wait(ctx, time.Minute)
}

func bootTyping(ctx context.Context, t *rig.T) error {
	// The machine waits while its UART, whose FIFOs are off, takes the first byte. Firmware that uses the line itself would
	// take it away.
	m, err := t.Start(ctx, machine.Spec{Name: "host", Monitor: true, Boot: image(t, "ip=none"), Extra: []string{"-machine", "graphics=on", "-S"}})
	if err != nil {
		return err
	}
	if err := m.Send("help reboot\r"); err != nil {
		return err
	}
	for m.Monitor(ctx, "cont") != nil { // until QEMU has made its socket
		select {
		case <-ctx.Done():
			return m.Monitor(ctx, "cont")
		case <-time.After(50 * time.Millisecond):
		}
	}
	_, err = m.Await(ctx, "the answer to what was typed", regexp.MustCompile(`godwit> help reboot\n((godwit|kernel): [^\n]*\n)*reboot`), rig.CommandPatience)
	return err
}

func bootWithoutACPI(ctx context.Context, t *rig.T) error {
	h, err := t.Host(ctx, machine.Spec{Name: "host", CPUs: 2, MemoryMiB: 768, Reboots: true, Boot: image(t, "ip=none", t.GuestModules()...),
		Extra: []string{"-machine", "acpi=off"}})
	if err != nil {
		return err
	}
	if !strings.Contains(h.Text(), "no ACPI MADT") {
		return fmt.Errorf("the host does not tell that it found no tables:\n%s", h.Tail(20))
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	if f.CPUs != 1 {
		return fmt.Errorf("the host sees %d CPUs, and can know of 1", f.CPUs)
	}
	if err := startWork(ctx, h); err != nil {
		return err
	}
	if _, err := h.Judge(ctx, guestName, workTime); err != nil {
		return err
	}
	v, err := h.FinalVerdict(ctx, guestName)
	if err != nil {
		return err
	}
	t.Measure("verdict", "%s", v.Line)
	h.Discard()
	if err := h.Send("reboot force\r"); err != nil {
		return err
	}
	return h.AwaitReady(ctx)
}
