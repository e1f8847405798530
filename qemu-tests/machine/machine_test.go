package machine

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQEMUArguments(t *testing.T) {
	s := Spec{Name: "a,b", CPUs: 4, MemoryMiB: 1024, NIC: &NIC{MAC: "52:54:00:00:00:01", Stream: 3999, Local: 4000},
		Boot: Boot{Image: "x/godwit.img", CommandLine: "name=a", Modules: []Module{{"x/vmlinuz", "vmlinuz"}, {"y,z/initramfs", "initramfs"}}}}
	got := " " + strings.Join(QEMU{}.arguments(s), " ") + " "
	for _, want := range []string{
		" -accel tcg,thread=multi -cpu max ", " -smp 4 -m 1024 ", " -name a,,b ", " -no-reboot ",
		" -kernel x/godwit.img -append name=a -initrd x/vmlinuz,y,,z/initramfs ",
		" socket,id=n0,connect=127.0.0.1:3999 ", " e1000,netdev=n0,mac=52:54:00:00:00:01 ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	s.Reboots = true
	if got := strings.Join(QEMU{KVM: true}.arguments(s), " "); strings.Contains(got, "-no-reboot") || !strings.Contains(got, "-accel kvm -cpu host") {
		t.Errorf("KVM, rebooting: %q", got)
	}
}

func TestBochsConfig(t *testing.T) {
	b := Bochs{CPU: "corei7_icelake_u", Extension: VTx}
	got := b.config(Spec{CPUs: 2, MemoryMiB: 512, NIC: &NIC{MAC: "52:54:00:00:00:01", Local: 4000}}, "d.iso", "127.0.0.1:5000")
	for _, want := range []string{
		"cpu: model=corei7_icelake_u, count=2,", "memory: guest=512, host=512\n", "dev=127.0.0.1:5000\n",
		"mac=52:54:00:00:00:01, ethmod=socket, ethdev=4000\n", "path=d.iso", "boot: cdrom\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	got = b.config(Spec{CPUs: 1, MemoryMiB: 512, NIC: &NIC{}, Boot: Boot{Network: true}}, "", "")
	if !strings.Contains(got, "bootrom=") || !strings.Contains(got, "boot: network, cdrom\n") || strings.Contains(got, "ata0-master") {
		t.Errorf("network boot:\n%s", got)
	}
}

func TestContradictingSpecsAreRefused(t *testing.T) {
	for name, s := range map[string]Spec{
		"nothing to boot":         {},
		"two things to boot":      {Boot: Boot{Image: "a", Disc: "b"}},
		"network without a card":  {Boot: Boot{Network: true}},
		"network and disc, card ": {Boot: Boot{Network: true, Disc: "b"}, NIC: &NIC{}},
	} {
		if err := s.check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNestedVendorIsReadFromKVMsAnswer(t *testing.T) {
	answer := func(leaf, ecx uint32) []byte {
		b := make([]byte, 8+2*kvmCPUIDEntrySize)
		binary.NativeEndian.PutUint32(b, 2)
		binary.NativeEndian.PutUint32(b[8+kvmCPUIDEntrySize:], leaf)
		binary.NativeEndian.PutUint32(b[8+kvmCPUIDEntrySize+20:], ecx)
		return b
	}
	for _, c := range []struct {
		leaf, ecx uint32
		want      Vendor
	}{{1, 1 << 5, VTx}, {0x80000001, 1 << 2, SVM}, {1, ^uint32(1 << 5), ""}, {0x80000001, ^uint32(1 << 2), ""}, {7, ^uint32(0), ""}} {
		if got, err := vendorOf(answer(c.leaf, c.ecx)); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("leaf %#x ecx %#x: %q, %v; want %q", c.leaf, c.ecx, got, err, c.want)
		}
	}
}

func TestEmulatorDiesWithItsContext(t *testing.T) {
	for name, script := range map[string]string{
		"obedient": "echo up; exec sleep 1000",
		"stubborn": "trap '' TERM; echo up; while :; do sleep 0.1; done",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cmd := exec.Command("sh", "-c", script)
			out, err := outputPipe(cmd)
			if err != nil {
				t.Fatal(err)
			}
			p, err := startProcess(ctx, cmd)
			out.closeChildEnd()
			if err != nil {
				t.Fatal(err)
			}
			io.ReadFull(out, make([]byte, 3))
			cancel()
			select {
			case <-p.done:
			case <-time.After(time.Minute):
				t.Fatal("still alive")
			}
			p.kill() // again: harmless
		})
	}
}

func TestLinuxKernelsAreRecognised(t *testing.T) {
	b := make([]byte, 0x206)
	copy(b[0x202:], "HdrS")
	linux, other := filepath.Join(t.TempDir(), "vmlinuz"), filepath.Join(t.TempDir(), "godwit.img")
	for path, data := range map[string][]byte{linux: b, other: make([]byte, 0x206)} {
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if !isLinux(linux) || isLinux(other) || isLinux(other+".none") {
		t.Errorf("Linux %v, other %v, none %v", isLinux(linux), isLinux(other), isLinux(other+".none"))
	}
}

func TestRunClockLeavesWaitingOut(t *testing.T) {
	c := newRunClock(os.Getpid())
	first := c.read()
	time.Sleep(20 * time.Millisecond)
	second := c.read()
	if d := second - first; d < 0 || d > time.Minute {
		t.Errorf("clock moved by %v", d)
	}
	if none := newRunClock(-1); none.longestWait() != 0 {
		t.Error("a process that is not there waits")
	}
}
