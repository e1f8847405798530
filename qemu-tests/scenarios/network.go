package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"godwit/qemu-tests/lan"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

func networks() []*rig.Scenario {
	return []*rig.Scenario{
		{
			Name: "download-refused", About: "after downloads as large as a host takes, which it refuses, machines as large as before fit", Limit: 6 * time.Minute,
			Skip: onQEMU, Run: refusedDownloads,
		},
		{
			Name: "flood", About: "a host full of guests bears a hostile machine on its network: console and guest go on, and its memory comes back", Limit: 6 * time.Minute,
			Skip: notOnSecondBochs, Run: flood,
		},
	}
}

// hostOnLAN starts a host, which has the guest's files, on a network whose station serves dir.
func hostOnLAN(ctx context.Context, t *rig.T, dir string, s machine.Spec, options string) (*lan.LAN, netip.Addr, *rig.Host, error) {
	l, err := t.LAN(ctx, dir, "")
	if err != nil {
		return nil, netip.Addr{}, nil, err
	}
	var addr netip.Addr
	if s.NIC, addr, err = l.NIC(); err != nil {
		return nil, addr, nil, err
	}
	s.Name, s.Boot = "host", image(t, fmt.Sprintf("ip=%s/24 %s", addr, options), t.GuestModules()...)
	h, err := t.Host(ctx, s)
	return l, addr, h, err
}

// smallHost is so small that a download takes most of its memory.
const smallHost = 280

func refusedDownloads(ctx context.Context, t *rig.T) error {
	dir := t.Path("www")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	lan, _, h, err := hostOnLAN(ctx, t, dir, machine.Spec{CPUs: 2, MemoryMiB: smallHost}, "")
	if err != nil {
		return err
	}
	lan.Handle("/endless", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}))
	const whole = 64 << 20 // is taken, and is no kernel
	if err := os.WriteFile(dir+"/zeroes", nil, 0o666); err != nil {
		return err
	}
	if err := os.Truncate(dir+"/zeroes", whole); err != nil {
		return err
	}
	before, err := largestMachine(ctx, h)
	if err != nil {
		return err
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	t.Measure("Go heap and kernel before", "%d and %d KiB", f.Memory.GoHeap>>10, f.Memory.Kernel>>10)
	for _, d := range []struct{ file, refusal string }{
		{"/endless", "larger than allowed"},
		{"/zeroes", "neither a bzImage nor an ELF"},
	} {
		_, err := h.Do(ctx, "vm create refused mem=32M kernel="+lan.URL()+d.file, rig.CommandPatience)
		var refused *rig.CommandError
		if !errors.As(err, &refused) || !strings.Contains(refused.Message, d.refusal) {
			return fmt.Errorf("the download of %s: %v; want it refused with %q", d.file, err, d.refusal)
		}
	}
	// What stays of the host's own, such as a connection that ends (its buffer may be 8 MiB), is no more than this.
	const allowance = 16
	after, err := largestMachine(ctx, h)
	if err != nil {
		return err
	}
	for look := 1; after < before-allowance; look++ { // the last download's end may have to wait for its turn
		if look == looks(t) {
			return fmt.Errorf("before the downloads a machine of %d MiB fitted, after them one of %d", before, after)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if after, err = largestMachine(ctx, h); err != nil {
			return err
		}
	}
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	t.Measure("Go heap and kernel after", "%d and %d KiB", f.Memory.GoHeap>>10, f.Memory.Kernel>>10)
	t.Measure("largest machine before and after", "%d and %d MiB of %d", before, after, smallHost)
	return nil
}

// largestMachine is how many MiB a machine can have that is made now.
func largestMachine(ctx context.Context, h *rig.Host) (int, error) {
	fits := func(mib int) (bool, error) {
		_, err := h.Do(ctx, fmt.Sprintf("vm create size mem=%dM kernel=module:vmlinuz", mib), rig.CommandPatience)
		var refused *rig.CommandError
		if errors.As(err, &refused) && strings.Contains(refused.Message, "no memory for the machine") {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		_, err = h.Do(ctx, "vm delete size", rig.CommandPatience)
		return true, err
	}
	low, high := 80, 1024 // the kernel needs that much; does not fit
	if ok, err := fits(low); err != nil || !ok {
		return 0, fmt.Errorf("%s: not even a machine of %d MiB fits: %w\n%s", h.Name, low, err, h.Tail(20))
	}
	for high-low > 2 {
		mid := (low + high) / 2 &^ 1
		ok, err := fits(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			low = mid
		} else {
			high = mid
		}
	}
	return low, nil
}

const migratePort = 4774

// netFacts is what scenarios read of `net -json`.
type netFacts struct {
	Interfaces []struct {
		Counters map[string]uint64 `json:"counters"`
	} `json:"interfaces"`
	Stack struct {
		Received uint64 `json:"packets_received"`
	} `json:"stack"`
}

func flood(ctx context.Context, t *rig.T) error {
	dir := t.Path("www")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/small", make([]byte, 100<<10), 0o666); err != nil {
		return err
	}
	lan, addr, h, err := hostOnLAN(ctx, t, dir, machine.Spec{CPUs: 2, MemoryMiB: 512}, fmt.Sprintf("control=insecure-tcp:%d migrate=insecure-tcp:%d", controlPort, migratePort))
	if err != nil {
		return err
	}
	if err := startWork(ctx, h); err != nil {
		return err
	}
	if err := fill(ctx, h); err != nil {
		return err
	}
	before, err := usedMemory(ctx, h)
	if err != nil {
		return err
	}
	var net netFacts
	if err := h.JSON(ctx, "net", &net); err != nil {
		return err
	}
	received := net.Stack.Received
	v, err := h.Judge(ctx, guestName, 0)
	if err != nil {
		return err
	}

	// Bochs takes a frame a millisecond.
	burst, enough := 50, uint64(20000)
	if _, ok := t.Ground.(machine.Bochs); ok {
		burst, enough = 10, 1000
	}
	f := lan.Flood(addr, []uint16{controlPort, migratePort}, burst)
	peak, answered := uint64(0), 0
	for round := 0; ; round++ {
		var host hostFacts
		if err := h.JSON(ctx, "host", &host); err != nil {
			return fmt.Errorf("in the flood: %w", err)
		}
		peak = max(peak, host.Memory.GoHeap)
		for _, c := range []string{"vm list", "log 5", "vm show " + guestName, "help vm create", "options"} {
			if _, err := h.Do(ctx, c, rig.CommandPatience); err != nil {
				return fmt.Errorf("in the flood: %w", err)
			}
		}
		if err := h.JSON(ctx, "net", &net); err != nil {
			return fmt.Errorf("in the flood: %w", err)
		}
		answered += 7
		now, err := h.Judge(ctx, guestName, 0)
		if err != nil {
			return fmt.Errorf("in the flood: %w", err)
		}
		if round >= 5 && now.Up >= v.Up+workTime && net.Stack.Received >= received+enough {
			break
		}
	}
	sent := f.Stop()
	for kind, n := range sent {
		if n == 0 {
			return fmt.Errorf("the flood had no %s", kind)
		}
	}
	t.Measure("commands answered in the flood", "%d", answered)
	t.Measure("IP packets of the flood taken", "%d", net.Stack.Received-received)
	t.Measure("Go heap in the flood, at most", "%d KiB", peak>>10)
	t.Measure("interface", "%v", net.Interfaces)

	pinging, cancel := context.WithTimeout(ctx, patience(t))
	defer cancel()
	if err := lan.Ping(pinging, addr); err != nil {
		return fmt.Errorf("after the flood: %w", err)
	}
	for { // the host waits three seconds for an answer
		_, err := h.Do(ctx, "ping 10.77.0.1 1", rig.CommandPatience)
		if err == nil {
			break
		}
		if pinging.Err() != nil {
			return fmt.Errorf("after the flood: %w", err)
		}
	}
	_, err = h.Do(ctx, "vm create small mem=32M kernel="+lan.URL()+"/small", rig.CommandPatience)
	if err == nil || !strings.Contains(err.Error(), "neither a bzImage nor an ELF") { // it was fetched, and looked at
		return fmt.Errorf("after the flood: a file is fetched: %v", err)
	}
	for _, port := range []uint16{controlPort, migratePort} {
		conn, err := lan.Dial(pinging, netip.AddrPortFrom(addr, port))
		if err != nil {
			return fmt.Errorf("after the flood: a connection to port %d: %w", port, err)
		}
		conn.Close()
	}
	if v, err = h.FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("verdict", "%s", v.Line)
	// Packets to neighbours that do not answer are kept for seconds and pieces of packets for half a minute, 11 MiB in all;
	// 128 half-open connections a port, which take 2 MiB, for longer, and the threads' stacks stay.
	const allowance = 6 << 20
	after := before + allowance + 1
	for i := 0; after > before+allowance; i++ {
		if i == looks(t) {
			return fmt.Errorf("the host used %d KiB before the flood, %d after it, and does not give them back", before>>10, after>>10)
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if after, err = usedMemory(ctx, h); err != nil {
			return err
		}
	}
	t.Measure("memory in use before and after", "%d and %d KiB", before>>10, after>>10)
	return nil
}

// patience is how long the network may take for an answer that must come.
func patience(t *rig.T) time.Duration {
	return time.Duration(float64(2*time.Minute) * t.Ground.Scale())
}

// looks is how many times, a second apart, one looks whether a host has given back what it must.
func looks(t *rig.T) int { return int(120 * t.Ground.Scale()) }

// fill makes a machine of all the memory that machines can have.
func fill(ctx context.Context, h *rig.Host) error {
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return err
	}
	const reserve, rounding = 64 << 20, 4 << 20
	if f.Memory.Free < reserve+rounding+16<<20 {
		return nil
	}
	mib := (f.Memory.Free - reserve - rounding) >> 20 &^ 1
	_, err := h.Do(ctx, fmt.Sprintf("vm create filler mem=%dM kernel=module:vmlinuz", mib), rig.CommandPatience)
	return err
}

// usedMemory is what a host holds that is not garbage: it collects that before it refuses a machine.
func usedMemory(ctx context.Context, h *rig.Host) (uint64, error) {
	_, err := h.Do(ctx, "vm create enormous mem=64G kernel=module:vmlinuz", rig.CommandPatience)
	if err == nil || !strings.Contains(err.Error(), "no memory for the machine") {
		return 0, fmt.Errorf("%s: a machine of 64 GiB: %v; want it refused", h.Name, err)
	}
	var f hostFacts
	if err := h.JSON(ctx, "host", &f); err != nil {
		return 0, err
	}
	return f.Memory.Total - f.Memory.Free, nil
}
