package machine

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// QEMU is a ground of QEMU's PC, emulated (TCG) or on the host's KVM.
type QEMU struct {
	KVM bool
	CPU string // "": max for TCG, host for KVM
}

const qemuProgram = "qemu-system-x86_64"

func (q QEMU) Name() string {
	if q.KVM {
		return "QEMU/KVM"
	}
	return "QEMU/SVM"
}

func (q QEMU) Vendor() Vendor {
	if q.KVM {
		v, _ := nestedVendor() // Available reports its error
		return v
	}
	return SVM // TCG emulates SVM and no VT-x
}

func (q QEMU) Scale() float64 { return 1 }

func (q QEMU) Threads() int { return 0 }

func (q QEMU) Available() error {
	if err := lookPath(qemuProgram, "qemu-system-x86"); err != nil || !q.KVM {
		return err
	}
	_, err := nestedVendor()
	return err
}

func (q QEMU) Start(ctx context.Context, dir string, s Spec) (*Machine, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	log, messages, err := logFiles(dir, s.Name)
	if err != nil {
		return nil, err
	}
	defer messages.Close()
	args := q.arguments(s)
	monitor := ""
	if s.Monitor {
		monitor = filepath.Join(dir, s.Name+".monitor")
		args = append(args, "-qmp", "unix:"+qemuValue(monitor)+",server=on,wait=off")
	}
	fmt.Fprintf(messages, "%s '%s'\n", qemuProgram, strings.Join(args, "' '"))
	cmd := exec.Command(qemuProgram, args...)
	cmd.Stderr = messages
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := outputPipe(cmd)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	p, err := startProcess(ctx, cmd)
	out.closeChildEnd()
	if err != nil {
		return nil, err
	}
	clock := newRunClock(cmd.Process.Pid)
	return &Machine{Console: newConsole(s.Name, in, out, log, clock.read, q.Scale()), Name: s.Name, Start: start, proc: p, monitor: monitor}, nil
}

// arguments is the command line for s.
func (q QEMU) arguments(s Spec) []string {
	accel, cpu := "tcg,thread=multi", "max"
	if q.KVM {
		accel, cpu = "kvm", "host"
	}
	if q.CPU != "" {
		cpu = q.CPU
	}
	rtc := "base=utc"
	if s.Counted {
		// "rep stosb" would count once a byte; equal seeds and clocks make equal runs.
		accel, cpu, rtc = "tcg,thread=single", "max,-erms", "base=2026-01-01T00:00:00,clock=vm"
		s.Extra = append([]string{"-icount", "shift=0,sleep=off", "-seed", "1"}, s.Extra...)
	}
	a := []string{
		"-name", qemuValue(s.Name), "-nodefaults", "-accel", accel, "-cpu", cpu,
		"-machine", "pc,graphics=off", "-smp", strconv.Itoa(s.CPUs), "-m", strconv.Itoa(s.MemoryMiB),
		"-display", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio",
		"-rtc", rtc,
	}
	if !s.Reboots {
		a = append(a, "-no-reboot")
	}
	switch {
	case s.Boot.Image != "":
		a = append(a, "-kernel", s.Boot.Image, "-append", s.Boot.CommandLine)
		var modules []string
		for _, m := range s.Boot.Modules {
			modules = append(modules, qemuValue(m.Path)) // the last element of the path is the module's name
		}
		if len(modules) != 0 {
			a = append(a, "-initrd", strings.Join(modules, ","))
		}
	case s.Boot.Disc != "":
		a = append(a, "-cdrom", s.Boot.Disc, "-boot", "d")
	case s.Boot.Network:
		a = append(a, "-boot", "n")
	}
	if n := s.NIC; n != nil {
		model := n.Model
		if model == "" {
			model = "e1000"
		}
		a = append(a, "-netdev", fmt.Sprintf("socket,id=n0,connect=127.0.0.1:%d", n.Stream),
			"-device", fmt.Sprintf("%s,netdev=n0,mac=%s", model, n.MAC))
	}
	return append(a, s.Extra...)
}
