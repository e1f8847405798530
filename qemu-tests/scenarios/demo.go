package scenarios

import (
	"context"
	"fmt"
	"strings"
	"time"

	"godwit/boot"
	"godwit/qemu-tests/machine"
	"godwit/qemu-tests/rig"
)

// Demo is the story of `make demo`: two hosts boot from the network, a guest starts on the first and moves, under load,
// to the second and back.
var Demo = &rig.Scenario{Name: "demo", About: "two hosts boot from the network; a guest moves between them", Cores: 2, Machines: 2, Limit: 20 * time.Minute, Run: demo}

func demo(ctx context.Context, t *rig.T) error {
	dir, err := folder(t, "migrate=insecure-tcp\n")
	if err != nil {
		return err
	}
	lan, err := t.LAN(ctx, dir, "http://10.77.0.1/"+boot.ScriptName)
	if err != nil {
		return err
	}
	p := &pair{ground: [2]machine.Ground{t.Ground, t.Ground}}
	for i, name := range []string{"host1", "host2"} {
		if p.nic[i], p.addr[i], err = lan.NIC(); err != nil {
			return err
		}
		t.Logf("%s: power on, boots from the network as %s", name, p.addr[i])
		h, err := t.Host(ctx, machine.Spec{Name: name, CPUs: 1, MemoryMiB: 768, NIC: p.nic[i], Boot: machine.Boot{Network: true}})
		if err != nil {
			return err
		}
		var f hostFacts
		if err := h.JSON(ctx, "host", &f); err != nil {
			return err
		}
		p.hosts[i] = h
		t.Logf("%s: ready", name)
		t.Measure(name+" power to prompt", "%.1f s, of which from its first instruction %.0f ms", h.Ready.Seconds(), f.ReadyMillis)
	}
	t.Logf("host1: starts a guest, %s", "Debian's cloud kernel with a workload that hashes its memory")
	begin := time.Now()
	spec := rig.GuestSpec{Name: guestName, CPUs: 1, MemoryMiB: 192, CommandLine: "guest=workload guest.mem=48M guest.rate=200"}
	if err := p.hosts[0].StartGuest(ctx, spec); err != nil {
		return err
	}
	m, err := p.hosts[0].GuestExpect(ctx, guestName, "", guestHello)
	if err != nil {
		return err
	}
	t.Measure("guest", "kernel %s, user space after %s s of its time, %.1f s of ours", m.Groups[1], m.Groups[3], time.Since(begin).Seconds())
	v, err := p.hosts[0].Judge(ctx, guestName, 0)
	if err != nil {
		return err
	}
	for from := range 2 {
		v, err = p.hosts[from].Judge(ctx, guestName, v.Up+2)
		if err != nil {
			return err
		}
		t.Logf("%s: %s", p.hosts[from].Name, v.Line)
		way := fmt.Sprintf("%s to %s", p.hosts[from].Name, p.hosts[1-from].Name)
		t.Logf("moving the guest from %s", way)
		r, err := p.move(ctx, from)
		if err != nil {
			return err
		}
		t.Logf("moved in %.1f s, downtime %.1f ms", r.Total.Seconds(), float64(r.Downtime.Total.Microseconds())/1000)
		t.Measure("move from "+way, "%v", r)
		if v, err = p.hosts[1-from].Judge(ctx, guestName, v.Up+1); err != nil {
			return err
		}
		t.Logf("%s: %s", p.hosts[1-from].Name, v.Line)
	}
	t.Logf("host1: the guest checks all its memory")
	if v, err = p.hosts[0].FinalVerdict(ctx, guestName); err != nil {
		return err
	}
	t.Measure("guest's verdict", "%s", strings.TrimPrefix(v.Line, "guest: "))
	return nil
}
