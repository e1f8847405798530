package vmx

import (
	"strings"
	"testing"
	"time"

	"godwit/vmm/vcpu"
	"godwit/vmm/vcpu/x86"
)

func TestGenerationFlushesOncePerCPU(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	m.guest = func(g *guest) { g.exit(reasonCPUID, 0) }
	flushes := func() int {
		n := len(m.invepts)
		run(t, v)
		return len(m.invepts) - n
	}
	if n := flushes(); n != 1 {
		t.Errorf("first entry: %d flushes", n)
	}
	if n := flushes(); n != 0 {
		t.Errorf("second entry: %d", n)
	}
	tab.generation.Add(1)
	if n := flushes(); n != 1 {
		t.Errorf("after a change: %d", n)
	}
	m.at.Store(1)
	if n := flushes(); n != 1 {
		t.Errorf("on another CPU: %d", n)
	}
	if e := m.invepts[len(m.invepts)-1]; e != 0x7000|eptpAD|eptpFourLevel|eptpWriteBack {
		t.Errorf("EPT pointer %#x", e)
	}
}

func TestSyncWaitsForOldEntries(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	v.s.Sync() // nobody is inside
	done := make(chan struct{})
	m.guest = func(g *guest) {
		tab.generation.Add(1)
		go func() { v.s.Sync(); close(done) }()
		select {
		case <-done:
			t.Error("Sync returned while a VCPU used old translations")
		case <-time.After(5 * time.Millisecond):
		}
		m.guest = halt
		g.exit(reasonInterrupt, 0)
	}
	run(t, v)
	<-done
	if len(m.kicks) == 0 {
		t.Error("nobody was interrupted")
	}
}

func TestPageModificationLogIsDrained(t *testing.T) {
	m, tab, v := start(t)
	load(t, v, long())
	log := logEntries(v.pml.Data)
	m.guest = func(g *guest) {
		if g.r.fields[fPMLIndex] != 511 || g.r.fields[fPMLAddress] != v.pml.Phys {
			t.Errorf("index %d", g.r.fields[fPMLIndex])
		}
		log[511], log[510] = 0x1000, 0x2000
		g.r.fields[fPMLIndex] = 509
		g.exit(reasonCPUID, 0)
	}
	run(t, v)
	if len(tab.logged) != 2 || tab.logged[0] != 0x2000 || tab.logged[1] != 0x1000 {
		t.Errorf("logged %#x", tab.logged)
	}
	tab.logged = nil
	n := 0
	m.guest = func(g *guest) {
		if n++; n > 1 {
			halt(g)
			return
		}
		g.r.fields[fPMLIndex] = 0xffff
		g.exit(reasonPMLFull, 0)
	}
	run(t, v)
	if len(tab.logged) != 512 {
		t.Errorf("%d entries of a full log", len(tab.logged))
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	m := newMachine(t, "tigerlake")
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Live()
	for range 3 {
		s, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: wide})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.NewVCPU(0)
		if err != nil {
			t.Fatal(err)
		}
		if s.Close() == nil {
			t.Error("closed with a VCPU in it")
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if v.Close() == nil || v.Run(&vcpu.Exit{}) == nil {
			t.Error("a closed VCPU is used")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if m.Live() != before {
		t.Errorf("%d bytes live, %d before", m.Live(), before)
	}
	m.Limit = before + 5*4096
	s, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: wide})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewVCPU(0); err == nil {
		t.Error("a VCPU without memory")
	}
	s.Close()
	if m.Live() != before {
		t.Errorf("%d bytes live after running out, %d before", m.Live(), before)
	}
}

func TestSpaceRefusesWhatTheHostLacks(t *testing.T) {
	m := newMachine(t, "corei7_sandy_bridge_2600k")
	b, err := open(m, x86.Untrusted)
	if err != nil {
		t.Fatal(err)
	}
	plain := vcpu.Policy{CR4: 0x6f0, XCR0: 7, EFER: 0xd01, PhysBits: 36, RDTSCP: true}
	for want, change := range map[string]func(*vcpu.SpaceConfig){
		"page tables":  func(c *vcpu.SpaceConfig) { c.Tables = nil },
		"INVPCID":      func(c *vcpu.SpaceConfig) { c.CPUID.INVPCID = true },
		"XSAVES":       func(c *vcpu.SpaceConfig) { c.CPUID.XSAVES = true },
		"supervisor":   func(c *vcpu.SpaceConfig) { c.CPUID.XSS = 1 << 11 },
		"XSAVE":        func(c *vcpu.SpaceConfig) { c.CPUID.XCR0 |= 1 << 17 },
		"VMX":          func(c *vcpu.SpaceConfig) { c.CPUID.CR4 |= cr4VMXE },
		"CR4 bits 0x2": func(c *vcpu.SpaceConfig) { c.CPUID.CR4 |= 1 << 21 },
	} {
		c := vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: plain}
		change(&c)
		if _, err := b.NewSpace(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	if _, err := b.NewSpace(vcpu.SpaceConfig{Name: "x", Tables: &tables{}, CPUID: plain}); err != nil {
		t.Error(err)
	}
}
