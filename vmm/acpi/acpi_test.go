package acpi

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"godwit/vmm/device/acpipm"
	"godwit/vmm/device/apic"
	"godwit/vmm/device/pci"
)

func machine() Config {
	return Config{
		Base:     DefaultBase,
		CPUs:     4,
		IOAPICID: 4,
		IO:       pci.Window{Base: 0xc000, Size: 0x4000},
		Memory32: pci.Window{Base: 0xc0000000, Size: 0x3ec00000},
		Memory64: pci.Window{Base: 1 << 38, Size: 1 << 34},
		PCIGSIs:  []int{16, 17, 18, 19, 20, 21, 22, 23},
	}
}

// A guest's view of the tables.
type guest struct {
	t     testing.TB
	base  uint64
	image []byte
}

func (g guest) at(addr uint64, n int) []byte {
	g.t.Helper()
	if addr < g.base || addr+uint64(n) > g.base+uint64(len(g.image)) {
		g.t.Fatalf("a table at %#x lies outside of the image", addr)
	}
	return g.image[addr-g.base:][:n]
}

func sum(b []byte) (s byte) {
	for _, v := range b {
		s += v
	}
	return s
}

func (g guest) table(addr uint64) (sig string, body []byte) {
	g.t.Helper()
	n := binary.LittleEndian.Uint32(g.at(addr, headerSize)[4:])
	b := g.at(addr, int(n))
	if sum(b) != 0 {
		g.t.Fatalf("table %q has a wrong checksum", b[:4])
	}
	return string(b[:4]), b[headerSize:]
}

// tables follows the RSDP through both roots, which must agree.
func tables(t testing.TB, c Config) (guest, map[string][]byte) {
	t.Helper()
	image, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	g := guest{t, c.Base, image}
	r := g.at(c.Base, rsdpSize)
	if string(r[:8]) != "RSD PTR " || sum(r[:20]) != 0 || sum(r) != 0 || r[15] != 2 {
		t.Fatalf("no RSDP: % x", r)
	}
	found := map[string][]byte{}
	sig, rsdt := g.table(uint64(binary.LittleEndian.Uint32(r[16:])))
	sig2, xsdt := g.table(binary.LittleEndian.Uint64(r[24:]))
	if sig != "RSDT" || sig2 != "XSDT" || len(rsdt)*2 != len(xsdt) {
		t.Fatalf("roots are %q and %q, %d and %d bytes", sig, sig2, len(rsdt), len(xsdt))
	}
	for i := 0; i < len(xsdt); i += 8 {
		a := binary.LittleEndian.Uint64(xsdt[i:])
		if uint64(binary.LittleEndian.Uint32(rsdt[i/2:])) != a {
			t.Fatalf("entry %d differs between RSDT and XSDT", i/8)
		}
		sig, body := g.table(a)
		found[sig] = body
	}
	fadt := found["FACP"]
	if fadt == nil {
		t.Fatal("no FADT")
	}
	le := binary.LittleEndian
	dsdt := uint64(le.Uint32(fadt[40-headerSize:]))
	if dsdt != le.Uint64(fadt[140-headerSize:]) {
		t.Error("DSDT and X_DSDT differ")
	}
	sig, found["DSDT"] = g.table(dsdt)
	if sig != "DSDT" {
		t.Errorf("the DSDT's signature is %q", sig)
	}
	facs := uint64(le.Uint32(fadt[36-headerSize:]))
	if facs&63 != 0 || string(g.at(facs, 64)[:4]) != "FACS" {
		t.Errorf("no FACS at %#x", facs)
	}
	return g, found
}

func TestTablesAreFoundFromTheRSDP(t *testing.T) {
	_, f := tables(t, machine())
	if f["APIC"] == nil || f["MCFG"] != nil {
		t.Errorf("found %d tables; want an MADT, and no MCFG without ECAM", len(f))
	}
	c := machine()
	c.ECAM = 0xe0000000
	_, f = tables(t, c)
	if m := f["MCFG"]; len(m) != 24 || binary.LittleEndian.Uint64(m[8:]) != c.ECAM {
		t.Errorf("MCFG is % x", m)
	}
}

func TestFADTNamesTheFixedHardware(t *testing.T) {
	_, f := tables(t, machine())
	b := append(make([]byte, headerSize), f["FACP"]...)
	le := binary.LittleEndian
	for _, c := range []struct {
		what      string
		got, want uint64
	}{
		{"length", uint64(len(b)), fadtSize},
		{"SCI", uint64(le.Uint16(b[46:])), SCI},
		{"SMI command", uint64(le.Uint32(b[48:])), 0},
		{"PM1 event", uint64(le.Uint32(b[56:])), acpipm.Base},
		{"X PM1 event", le.Uint64(b[152:]), acpipm.Base},
		{"PM1 control", uint64(le.Uint32(b[64:])), acpipm.Base + 4},
		{"X PM1 control", le.Uint64(b[176:]), acpipm.Base + 4},
		{"PM timer", uint64(le.Uint32(b[76:])), acpipm.Base + 8},
		{"X PM timer", le.Uint64(b[212:]), acpipm.Base + 8},
		{"reset register", le.Uint64(b[120:]), acpipm.Base + 12},
		{"reset value", uint64(b[128]), acpipm.ResetValue},
		{"8042 flag", uint64(le.Uint16(b[109:]) >> 1 & 1), 0},
		{"power button is a device", uint64(le.Uint32(b[112:]) >> 4 & 1), 0},
		{"hardware-reduced", uint64(le.Uint32(b[112:]) >> 20 & 1), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.what, c.got, c.want)
		}
	}
}

func TestMADTListsProcessorsAndOverrides(t *testing.T) {
	c := machine()
	c.CPUs = apic.MaxCPUs
	_, f := tables(t, c)
	m := f["APIC"][8:]
	kinds := map[byte]int{}
	overrides := map[byte]uint32{}
	for len(m) > 0 {
		if len(m) < 2 || int(m[1]) > len(m) || m[1] < 2 {
			t.Fatalf("broken entry % x", m)
		}
		e := m[:m[1]]
		if e[0] == 0 && (e[3] != byte(kinds[0]) || e[4] != 1) {
			t.Errorf("processor %d is % x", kinds[0], e)
		}
		if e[0] == 2 {
			overrides[e[3]] = binary.LittleEndian.Uint32(e[4:])
		}
		kinds[e[0]]++
		m = m[m[1]:]
	}
	if kinds[0] != apic.MaxCPUs || kinds[1] != 1 || kinds[4] != 1 {
		t.Errorf("entries by kind: %v", kinds)
	}
	if overrides[0] != 2 || overrides[SCI] != SCI {
		t.Errorf("overrides: %v", overrides)
	}
}

func TestWholeBIOSAreaIsEnoughForTheLargestMachine(t *testing.T) {
	c := machine()
	c.CPUs, c.ECAM = apic.MaxCPUs, 0xe0000000
	if b, err := Build(c); err != nil || len(b) > DefaultSize {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestImpossibleMachinesAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no processor":        func(c *Config) { c.CPUs = 0 },
		"too many processors": func(c *Config) { c.CPUs = apic.MaxCPUs + 1 },
		"unaligned":           func(c *Config) { c.Base++ },
		"base too high":       func(c *Config) { c.Base = 1 << 32 },
		"ports beyond 64K":    func(c *Config) { c.IO.Size++ },
		"window beyond 4G":    func(c *Config) { c.Memory32.Size = 1 << 30 << 1 },
		"ECAM beyond 4G":      func(c *Config) { c.ECAM = 1 << 32 },
	} {
		c := machine()
		change(&c)
		if _, err := Build(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAMLEncodings(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want AML
	}{
		{"EISA ID", eisaID("PNP0A03"), AML{0x0c, 0x41, 0xd0, 0x0a, 0x03}},
		{"zero", integer(0), AML{0}},
		{"byte", integer(0x80), AML{0x0a, 0x80}},
		{"word", integer(0x1234), AML{0x0b, 0x34, 0x12}},
		{"dword", integer(0x12345678), AML{0x0c, 0x78, 0x56, 0x34, 0x12}},
		{"qword", integer(1 << 32), AML{0x0e, 0, 0, 0, 0, 1, 0, 0, 0}},
		{"segment", name("_S5"), AML("_S5_")},
		{"root", name(`\_SB`), AML(`\_SB_`)},
		{"dual", name(`\_SB.PCI0`), AML("\\\x2e_SB_PCI0")},
		{"multi", name("A.B.C"), AML("\x2f\x03A___B___C___")},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s is % x, want % x", c.what, c.got, c.want)
		}
	}
}

// The package length counts itself; its own size changes at 63, 4095 bytes.
func TestPackageLengthDecodes(t *testing.T) {
	for _, n := range []int{0, 1, 61, 62, 63, 64, 4092, 4093, 4094, 4095, 4096, 70000} {
		p := pkgLength(make(AML, n))
		follow := int(p[0] >> 6)
		got := int(p[0] & 63)
		if follow > 0 {
			got = int(p[0] & 15)
			for i := range follow {
				got |= int(p[1+i]) << (4 + 8*i)
			}
		}
		if got != len(p) || len(p) != n+1+follow {
			t.Errorf("%d bytes: the length reads %d, the term is %d long", n, got, len(p))
		}
	}
}

// ACPICA's own compiler takes the tables apart, and what it made of the DSDT
// compiles again without a remark.
func TestIASLAcceptsTheTables(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		t.Skip("iasl (Debian package acpica-tools) is not installed")
	}
	dir := t.TempDir()
	c := machine()
	c.ECAM = 0xe0000000
	g, f := tables(t, c)
	run := func(args ...string) string {
		cmd := exec.Command(iasl, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("iasl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for sig, body := range f {
		at := bytes.Index(g.image, body) - headerSize
		if err := os.WriteFile(filepath.Join(dir, sig+".aml"), g.image[at:at+headerSize+len(body)], 0o644); err != nil {
			t.Fatal(err)
		}
		if out := run("-d", sig+".aml"); strings.Contains(out, "Warning") || strings.Contains(out, "Invalid") {
			t.Errorf("%s: %s", sig, out)
		}
	}
	if out := run("DSDT.dsl"); !strings.Contains(out, "0 Errors, 0 Warnings, 0 Remarks") {
		t.Errorf("the DSDT does not compile again:\n%s", out)
	}
}
