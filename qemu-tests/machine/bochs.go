package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"godwit/boot"
)

// Bochs is a ground of Bochs's PC with one of its CPU models.
type Bochs struct {
	CPU       string // corei7_icelake_u, tigerlake, ryzen
	Extension Vendor
}

const bochsProgram = "bochs-bin" // the program itself; bochs is a script around it

func (b Bochs) Name() string     { return "Bochs/" + string(b.Extension) }
func (b Bochs) Vendor() Vendor   { return b.Extension }
func (b Bochs) Scale() float64   { return 10 } // 25 to 90 MIPS against 1,600, but no wait is all work
func (b Bochs) Threads() int     { return 1 }
func (b Bochs) Available() error { return lookPath(bochsProgram, "bochs") }

func (b Bochs) Start(ctx context.Context, dir string, s Spec) (*Machine, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if len(s.Extra) != 0 || s.Counted || s.Monitor {
		return nil, fmt.Errorf("machine %q: Bochs takes none of QEMU's arguments, counts no instructions as time, and has no monitor", s.Name)
	}
	serial, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer serial.Close()
	log, messages, err := logFiles(dir, s.Name)
	if err != nil {
		return nil, err
	}
	defer messages.Close()
	disc, err := b.disc(ctx, dir, s)
	if err != nil {
		return nil, err
	}
	rc := filepath.Join(dir, s.Name+".bochsrc")
	if err := os.WriteFile(rc, []byte(b.config(s, disc, serial.Addr().String())), 0o666); err != nil {
		return nil, err
	}
	// This build has the debugger, which waits for a command, also after each reset: "c" continues.
	script := filepath.Join(dir, s.Name+".debugger")
	if err := os.WriteFile(script, []byte(strings.Repeat("c\n", 16)), 0o666); err != nil {
		return nil, err
	}
	cmd := exec.Command(bochsProgram, "-q", "-f", rc, "-rc", script)
	cmd.Stdout, cmd.Stderr = messages, messages
	start := time.Now()
	p, err := startProcess(ctx, cmd)
	if err != nil {
		return nil, err
	}
	line, err := acceptSerial(serial, p)
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("machine %q: %w; see %s", s.Name, err, messages.Name())
	}
	clock := newRunClock(cmd.Process.Pid)
	return &Machine{Console: newConsole(s.Name, line, line, log, clock.read, b.Scale()), Name: s.Name, Start: start, proc: p}, nil
}

// acceptSerial waits for Bochs to connect its serial port.
func acceptSerial(l net.Listener, p *process) (net.Conn, error) {
	const patience = 3 * time.Minute
	type result struct {
		conn net.Conn
		err  error
	}
	c := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		c <- result{conn, err}
	}()
	select {
	case r := <-c:
		return r.conn, r.err
	case <-p.done:
		return nil, errors.New("Bochs ended before it connected its serial port")
	case <-time.After(patience):
		return nil, fmt.Errorf("Bochs did not connect its serial port in %v", patience)
	}
}

// disc returns what to put into the CD drive: Bochs loads no kernels by itself.
func (b Bochs) disc(ctx context.Context, dir string, s Spec) (string, error) {
	if s.Boot.Image == "" {
		return s.Boot.Disc, nil
	}
	d := boot.Disc{Image: s.Boot.Image, Linux: isLinux(s.Boot.Image), CommandLine: s.Boot.CommandLine}
	for _, m := range s.Boot.Modules {
		d.Files = append(d.Files, boot.File{Path: m.Path, Name: m.Name})
	}
	path := filepath.Join(dir, s.Name+".iso")
	return path, d.Write(ctx, path)
}

// isLinux looks for the x86 boot protocol's "HdrS" (Linux, Documentation/arch/x86/boot.rst).
func isLinux(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // whoever reads it next says why
	}
	defer f.Close()
	var magic [4]byte
	_, err = f.ReadAt(magic[:], 0x202)
	return err == nil && string(magic[:]) == "HdrS"
}

// config is a bochsrc without a display and without questions. Bochs's clock is that of its instructions: ips of them
// are one of its seconds.
func (b Bochs) config(s Spec, disc, serial string) string {
	var c strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&c, format+"\n", a...) }
	line(`config_interface: textconfig`)
	line(`display_library: rfb, options="timeout=0"`)
	line(`plugin_ctrl: unmapped=1, biosdev=1, serial=1`)
	line(`romimage: file=/usr/share/bochs/BIOS-bochs-latest`)
	line(`vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest`)
	reset := 0
	if s.Reboots {
		reset = 1
	}
	// A guest's timer ticks 250 times a second and costs some 20,000 instructions of the host each time: with too few
	// in a second there is nothing left for the guest. But the e1000 takes one frame a millisecond of this clock, so
	// with too many it is slow to load what it boots.
	ips := 50_000_000
	if s.Boot.Network {
		ips = 25_000_000
	}
	// Alone, sync=none runs as fast as it can, and jumps over idle time: its clock then goes some forty times as fast as
	// ours, so that a peer's ten seconds of silence are a quarter of a second. On a network no clock runs ahead of real time.
	sync := "none"
	if s.NIC != nil {
		sync = "slowdown"
	}
	line(`cpu: model=%s, count=%d, ips=%d, reset_on_triple_fault=%d, ignore_bad_msrs=1`, b.CPU, s.CPUs, ips, reset)
	line(`memory: guest=%d, host=%d`, s.MemoryMiB, s.MemoryMiB)
	line(`clock: sync=%s`, sync)
	line(`panic: action=fatal`)
	line(`speaker: enabled=0`)
	line(`com1: enabled=1, mode=socket-client, dev=%s`, serial)
	if n := s.NIC; n != nil {
		line(`pci: enabled=1, chipset=i440fx, slot1=e1000`)
		rom := ""
		if s.Boot.Network {
			rom = ", bootrom=/usr/lib/ipxe/qemu/pxe-e1000.rom"
		}
		// Bochs takes datagrams on the port it is given and sends them to the next (iodev/network/eth_socket.cc).
		line(`e1000: card=0, enabled=1, mac=%s, ethmod=socket, ethdev=%d%s`, n.MAC, n.Local, rom)
	} else {
		line(`pci: enabled=1, chipset=i440fx`)
	}
	if disc != "" {
		line(`ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14`)
		line(`ata0-master: type=cdrom, path=%s, status=inserted`, disc)
		line(`boot: cdrom`)
	} else {
		line(`boot: network, cdrom`)
	}
	return c.String()
}
