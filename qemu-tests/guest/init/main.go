// Command init is the first process of the rig's Linux guest. It is the whole user space but for busybox.
//
// The kernel's command line chooses what it does:
//
//	guest=workload  work on memory, clocks, timers and signals, check every result, report every second (default)
//	guest=shell     busybox's shell on the console
//	guest=poweroff  say hello and power off; guest=reboot and guest=panic likewise
//	guest.mem=64M   workload: memory to work on (default: half of what is free)
//	guest.rate=2000 workload: pages written each second (0: as fast as it goes)
//	guest.report=1s workload: time between verdicts
//
// Its lines begin "guest: "; a verdict is one line of key=value pairs (see report.go).
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is the test guest's first process; it does nothing elsewhere")
		os.Exit(2)
	}
	mountAll()
	o, complaints := parseOptions(readFile("/proc/cmdline"))
	say("hello kernel=%s cpus=%d free=%dM up=%.3f", release(), runtime.NumCPU(), freeMemory()>>20, uptime().Seconds())
	for _, c := range complaints {
		say("option %s", c)
	}
	switch o.mode {
	case modeWorkload:
		workload(o)
	case modeShell:
		shell()
	case modePowerOff:
		stop(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case modeReboot:
		stop(unix.LINUX_REBOOT_CMD_RESTART)
	case modePanic:
		say("panic asked for: the first process exits")
		os.Exit(1)
	}
}

func say(format string, a ...any) { fmt.Printf("guest: "+format+"\n", a...) }

// mountAll mounts what the workload and the shell read. A failure shows where it hurts: here nothing depends on it.
func mountAll() {
	for _, m := range []struct{ kind, path string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			say("mount %s: %v", m.path, err)
		}
	}
}

// stop ends the machine; it returns only if the kernel refuses.
func stop(how int) {
	say("stopping up=%.3f", uptime().Seconds())
	drainConsole()
	unix.Sync()
	err := unix.Reboot(how)
	say("the kernel refused to stop: %v", err)
	select {}
}

// drainConsole waits until the console's last bytes are out: the kernel stops the port with the machine.
func drainConsole() {
	// As tcdrain(3) does: TCSBRK with an argument that is not zero sends no break (tty_ioctl(4)).
	if err := unix.IoctlSetInt(1, unix.TCSBRK, 1); err != nil {
		say("wait for the console: %v", err)
	}
	time.Sleep(50 * time.Millisecond) // what the UART holds itself
}

// shell gives the console to busybox and powers off when it ends.
func shell() {
	for _, a := range [][]string{{"--install", "-s", "/bin"}, {"cttyhack", "sh"}} {
		cmd := exec.Command("/bin/busybox", a...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = []string{"PATH=/bin", "HOME=/", "TERM=vt100", "PS1=guest# "}
		if err := cmd.Run(); err != nil {
			say("busybox %v: %v", a, err)
		}
	}
	stop(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func readFile(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		say("%v", err)
	}
	return string(b)
}

func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // the clock exists since Linux 2.6.39 and the pointer is good
	}
	return time.Duration(t.Nano())
}

func freeMemory() uint64 {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		panic(err) // fails only for a bad pointer
	}
	return s.Freeram * uint64(s.Unit)
}
