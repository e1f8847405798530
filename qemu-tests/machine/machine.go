// Package machine starts emulated machines: QEMU and Bochs (qemu.go, bochs.go, kvm.go), each behind the same few types. A
// Console (console.go) is the serial port, to type on and to wait for.
package machine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Spec says what machine to start.
type Spec struct {
	Name      string // names it in messages and its log file
	CPUs      int    // 0: 1
	MemoryMiB int    // 0: 512
	Boot      Boot
	NIC       *NIC     // nil: none
	Reboots   bool     // a reset starts it again; else it ends the emulator
	Counted   bool     // QEMU's TCG only: one instruction takes one nanosecond, so that times are exact and repeat
	Monitor   bool     // QEMU only: Machine.Monitor works
	Extra     []string // more arguments for QEMU; other grounds refuse them
}

// Boot is where a machine's first program comes from: exactly one of Image, Disc and Network.
type Boot struct {
	Image       string // a kernel that the ground loads by itself
	CommandLine string // for Image
	Modules     []Module
	Disc        string // an ISO image
	Network     bool   // PXE
}

// Module is a file passed beside an image. An image in Linux's format takes one, as its initramfs.
type Module struct{ Path, Name string }

// NIC is one network card, joined to the rig in one of two ways: through a TCP connection that carries each Ethernet
// frame behind its length, or by UDP datagrams that hold one frame each.
type NIC struct {
	Model  string // "": e1000
	MAC    string
	Stream int // TCP port of the rig on 127.0.0.1
	Local  int // UDP port of the emulator on 127.0.0.1; the rig's end is Local+1
}

// Machine is one running emulator.
type Machine struct {
	*Console
	Name  string
	Start time.Time
	proc  *process

	monitor string // the socket of QEMU's monitor, if it has one
}

// Kill ends the machine at once, as pulling its plug would.
func (m *Machine) Kill() { m.proc.kill() }

// Wait waits until the emulator has ended by itself.
func (m *Machine) Wait(ctx context.Context, patience time.Duration) error {
	select {
	case <-m.proc.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Duration(float64(patience) * m.scale)):
		return fmt.Errorf("%s: still running; last lines:\n%s", m.Name, m.Tail(12))
	}
}

// CPUTime is the processor time the emulator has used, when it has ended.
func (m *Machine) CPUTime() time.Duration {
	<-m.proc.done
	s := m.proc.cmd.ProcessState
	return s.UserTime() + s.SystemTime()
}

// Ground is a kind of machine that scenarios run on.
type Ground interface {
	Name() string
	Vendor() Vendor
	// Available tells why this computer cannot offer the ground, or nil.
	Available() error
	// Start starts a machine; it ends when ctx does. Logs go to dir.
	Start(ctx context.Context, dir string, s Spec) (*Machine, error)
	// Scale is how many times slower than QEMU's TCG the ground may be.
	Scale() float64
	// Threads is how many of the computer's processors one machine keeps busy at most; 0: as many as it has itself.
	Threads() int
}

// Vendor is the virtualization extension of a ground.
type Vendor string

const (
	VTx Vendor = "VT-x"
	SVM Vendor = "SVM"
)

// check fills defaults in and refuses contradictions.
func (s *Spec) check() error {
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = 512
	}
	n := 0
	for _, set := range []bool{s.Boot.Image != "", s.Boot.Disc != "", s.Boot.Network} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("machine %q: boot from exactly one of image, disc and network", s.Name)
	}
	if s.Boot.Network && s.NIC == nil {
		return fmt.Errorf("machine %q: boots from the network but has no network card", s.Name)
	}
	return nil
}

// logFiles creates the two logs of a machine: what it prints, and what its emulator says. Whoever starts the emulator
// closes the second, of which the child has its own descriptor.
func logFiles(dir, name string) (serial, messages *os.File, err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, nil, err
	}
	if serial, err = os.Create(filepath.Join(dir, name+".serial")); err != nil {
		return nil, nil, err
	}
	if messages, err = os.Create(filepath.Join(dir, name+".emulator")); err != nil {
		serial.Close()
		return nil, nil, err
	}
	return serial, messages, nil
}

// lookPath tells which package lacks when a program does.
func lookPath(program, pkg string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s is not installed (Debian package %s)", program, pkg)
	}
	return nil
}

// qemuValue escapes a value inside one of QEMU's comma-separated options.
func qemuValue(s string) string { return strings.ReplaceAll(s, ",", ",,") }
