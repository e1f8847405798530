package acpi

import "testing"

type ram []byte

func (r ram) Bytes(addr, n uint64) []byte {
	if addr+n < addr || addr+n > uint64(len(r)) {
		return nil
	}
	return r[addr : addr+n]
}

// table completes a table's header.
func table(sig string, body []byte) []byte {
	t := append(make([]byte, headerSize), body...)
	copy(t, sig)
	le.PutUint32(t[4:], uint32(len(t)))
	t[9] = -sum(t)
	return t
}

func madtBody() []byte {
	b := make([]byte, 8)
	le.PutUint32(b, 0xfee00000)
	b[4] = 1
	b = append(b, 0, 8, 0, 0, 1, 0, 0, 0)                          // CPU, APIC ID 0
	b = append(b, 0, 8, 1, 3, 1, 0, 0, 0)                          // CPU, APIC ID 3
	b = append(b, 0, 8, 2, 5, 0, 0, 0, 0)                          // disabled
	b = append(b, 0, 8, 6, 0xff, 1, 0, 0, 0)                       // none, though it says enabled
	b = append(b, 9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0) // x2APIC ID 256
	b = append(b, 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0)       // I/O APIC
	b = append(b, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0)                   // IRQ 0 is GSI 2
	return append(b, 2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0)             // IRQ 9: level, active high
}

// firmware is a memory with an RSDP in the BIOS area, an RSDT and tables.
func firmware() ram {
	m := make(ram, 0x100000)
	copy(m[0xf5b00:], rsdpSig)
	copy(m[0xf5b09:], "ALASKA")
	le.PutUint32(m[0xf5b10:], 0x1000)
	m[0xf5b08] = -sum(m[0xf5b00:][:20])
	madt, hpet := table("APIC", madtBody()), table("HPET", make([]byte, 20))
	copy(m[0x2000:], madt)
	copy(m[0x3000:], hpet)
	copy(m[0x1000:], table("RSDT", []byte{0, 0x20, 0, 0, 0, 0x30, 0, 0, 0xff, 0xff, 0xff, 0xff}))
	return m
}

func TestTablesAreFoundFromTheBIOSArea(t *testing.T) {
	m := firmware()
	p := FindRSDP(m)
	if p != 0xf5b00 {
		t.Fatalf("RSDP at %#x", p)
	}
	if id := OEM(m, p); string(id[:]) != "ALASKA" {
		t.Errorf("made by %q", id)
	}
	if OEM(m, 0) != [6]byte{} || OEM(m, p+16) != [6]byte{} {
		t.Error("a maker without an RSDP")
	}
	if b := Table(m, p, "HPET", 0); len(b) != headerSize+20 {
		t.Errorf("HPET table of %d bytes", len(b))
	}
	if Table(m, p, "HPET", 1) != nil || Table(m, p, "NONE", 0) != nil {
		t.Error("a table that is not there was found")
	}
	m[0x3010]++
	if Table(m, p, "HPET", 0) != nil {
		t.Error("a wrong checksum was accepted")
	}
}

func TestABrokenXSDTLeavesTheRSDT(t *testing.T) {
	m := firmware()
	rsdp := m[0xf5b00:]
	rsdp[15] = 2
	le.PutUint32(rsdp[20:], 36)
	le.PutUint64(rsdp[24:], 0x4000)
	rsdp[8] -= sum(rsdp[:20])
	rsdp[32] -= sum(rsdp[:36])
	copy(m[0x4000:], table("XSDT", []byte{0, 0x30, 0, 0, 0, 0, 0, 0}))
	if Table(m, 0xf5b00, "APIC", 0) != nil || Table(m, 0xf5b00, "HPET", 0) == nil {
		t.Error("the XSDT is not what counts")
	}
	m[0x4020]++
	if Table(m, 0xf5b00, "APIC", 0) == nil {
		t.Error("no table without the XSDT")
	}
	m[0x1020]++
	if Table(m, 0xf5b00, "APIC", 0) != nil {
		t.Error("a table from a broken RSDT")
	}
}

func TestMADT(t *testing.T) {
	var m MADT
	if !ParseMADT(table("APIC", madtBody()), &m) {
		t.Fatal("refused")
	}
	if m.NCPU != 3 || m.CPU[1] != 3 || m.CPU[2] != 256 || m.NIOAPIC != 1 || m.IOAPIC[0].Address != 0xfec00000 {
		t.Errorf("%d CPUs %v, %d I/O APICs", m.NCPU, m.CPU[:3], m.NIOAPIC)
	}
	if g, level, low := m.Route(0); g != 2 || level || low {
		t.Errorf("IRQ 0 goes to %d %v %v", g, level, low)
	}
	if g, level, low := m.Route(9); g != 9 || !level || low {
		t.Errorf("IRQ 9 goes to %d %v %v", g, level, low)
	}
	if g, _, _ := m.Route(4); g != 4 {
		t.Errorf("IRQ 4 goes to %d", g)
	}
}

func TestRegistersThatCrossAPageAreNotUsed(t *testing.T) {
	for address, want := range map[uint32]bool{0xfed00000: true, 0xfed00c00: true, 0xfed00ff8: false, 0xffffffff: false} {
		b := make([]byte, 20)
		le.PutUint32(b[8:], address)
		if _, ok := HPETBase(table("HPET", b)); ok != want {
			t.Errorf("an HPET at %#x: %v", address, ok)
		}
		ioapic := []byte{0, 0, 0, 0, 0, 0, 0, 0, madtIOAPIC, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		le.PutUint32(ioapic[12:], address)
		var m MADT
		if ParseMADT(table("APIC", ioapic), &m); m.NIOAPIC == 1 != want {
			t.Errorf("an I/O APIC at %#x: %d", address, m.NIOAPIC)
		}
	}
}

// Firmware that cannot do with x2APIC says so, in a flag that another makes valid.
func TestX2APICOptOut(t *testing.T) {
	for flags, want := range map[byte]bool{0: false, 1: false, 2: false, 3: true, 7: true} {
		if got := X2APICOptOut(table("DMAR", []byte{38, flags, 0, 0})); got != want {
			t.Errorf("flags %#x: %v", flags, got)
		}
	}
	if X2APICOptOut(nil) || X2APICOptOut(table("DMAR", []byte{38})) {
		t.Error("asked for by what is no whole table")
	}
}

func TestS5IsFoundInTheDSDT(t *testing.T) {
	for name, aml := range map[string][]byte{
		"bytes": {amlName, '_', 'S', '5', '_', amlPackage, 6, 4, amlByte, 5, amlByte, 7, 0, 0},
		"root":  {amlName, '\\', '_', 'S', '5', '_', amlPackage, 6, 4, amlByte, 5, amlByte, 7, 0, 0},
		"long":  {amlName, '_', 'S', '5', '_', amlPackage, 0x46, 0, 4, amlByte, 5, amlByte, 7, 0, 0},
	} {
		if a, b, ok := S5(table("DSDT", aml)); !ok || a != 5 || b != 7 {
			t.Errorf("%s: %d %d %v", name, a, b, ok)
		}
	}
	if _, _, ok := S5(table("DSDT", []byte("_S5__S5_"))); ok {
		t.Error("found where there is none")
	}
}

func FuzzTables(f *testing.F) {
	f.Add(table("APIC", madtBody()), uint64(0))
	f.Add([]byte(firmware()[0xf0000:]), uint64(0x5b00))
	f.Add(table("DSDT", []byte{amlName, '_', 'S', '5', '_', amlPackage, 6, 4, amlByte, 5}), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint64) {
		m := ram(b)
		FindRSDP(m)
		Table(m, at, "APIC", 0)
		At(m, at)
		var x MADT
		ParseMADT(b, &x)
		if x.NCPU > MaxCPUs || x.NIOAPIC > MaxIOAPICs || x.NOverride > MaxOverrides {
			t.Fatal("counts beyond the arrays")
		}
		S5(b)
		DSDT(b)
		PMTimer(b)
		PowerPorts(b)
		ResetPort(b)
		ACPIMode(b)
		X2APICOptOut(b)
		HPETBase(b)
	})
}
