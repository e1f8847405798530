package bootinfo

import "testing"

// ram is physical memory that begins at address 0.
type ram []byte

func (r ram) Bytes(addr, n uint64) []byte {
	if addr+n < addr || addr+n > uint64(len(r)) {
		return nil
	}
	return r[addr : addr+n]
}

func multiboot(cmdline string) ram {
	m := make(ram, 0x4000)
	le.PutUint32(m[0x100:], mbFlagCmdline|mbFlagMods|mbFlagMmap)
	le.PutUint32(m[0x100+mbCmdline:], 0x1000)
	copy(m[0x1000:], cmdline)
	le.PutUint32(m[0x100+mbModsCount:], 2)
	le.PutUint32(m[0x100+mbModsAddr:], 0x200)
	le.PutUint32(m[0x200:], 0x10000)
	le.PutUint32(m[0x204:], 0x10010)
	le.PutUint32(m[0x208:], 0x2000)
	copy(m[0x2000:], "tftp://10.0.0.1/boot/vmlinuz quiet")
	le.PutUint32(m[0x210:], 0x20000)
	le.PutUint32(m[0x214:], 0x20010)
	le.PutUint32(m[0x100+mbMmapLength:], 48)
	le.PutUint32(m[0x100+mbMmapAddr:], 0x300)
	for i, r := range []Range{{0, 0x9fc00, RAM}, {0x100000, 0x8000000, RAM}} {
		e := m[0x300+24*i:]
		le.PutUint32(e, 20)
		le.PutUint64(e[4:], r.Start)
		le.PutUint64(e[12:], r.End-r.Start)
		le.PutUint32(e[20:], r.Type)
	}
	return m
}

func TestMultiboot(t *testing.T) {
	var i Info
	if why := Parse(multiboot("http://10.0.2.2/godwit.img console=on ip=dhcp"), 0x100, MagicMultiboot, &i); why != "" {
		t.Fatal(why)
	}
	if got := string(i.Cmdline()); got != "console=on ip=dhcp" {
		t.Errorf("command line %q", got)
	}
	if i.NMod != 2 || string(i.Mod[0].Name()) != "vmlinuz" || i.Mod[0].End != 0x10010 || len(i.Mod[1].Name()) != 0 {
		t.Errorf("modules %d, first %q", i.NMod, i.Mod[0].Name())
	}
	if i.NMem != 2 || i.Mem[1] != (Range{0x100000, 0x8000000, RAM}) {
		t.Errorf("memory map %v", i.Mem[:i.NMem])
	}
}

func TestImageNameIsDroppedAndOptionsAreNot(t *testing.T) {
	for in, want := range map[string]string{
		"build/godwit.img a=b":    "a=b",
		"godwit.elf quiet":        "quiet",
		"quiet a=b":               "quiet a=b",
		"config=module:a.conf x":  "config=module:a.conf x",
		"http://h/g?x=1 panic=no": "panic=no",
		"":                        "",
		"godwit.img":              "",
	} {
		var i Info
		Parse(multiboot(in), 0x100, MagicMultiboot, &i)
		if got := string(i.Cmdline()); got != want {
			t.Errorf("%q gave %q, want %q", in, got, want)
		}
	}
}

func pvh() ram {
	m := make(ram, 0x4000)
	le.PutUint32(m[0x100:], MagicPVH)
	le.PutUint32(m[0x100+pvhVersion:], 1)
	le.PutUint32(m[0x100+pvhNModules:], 1)
	le.PutUint64(m[0x100+pvhModules:], 0x400)
	le.PutUint64(m[0x400:], 0x1_0000_0000)
	le.PutUint64(m[0x408:], 0x1234)
	le.PutUint64(m[0x100+pvhCmdline:], 0x1000)
	copy(m[0x1000:], "a=b c")
	le.PutUint64(m[0x100+pvhRSDP:], 0xf5b00)
	le.PutUint64(m[0x100+pvhMmap:], 0x300)
	le.PutUint32(m[0x100+pvhMmapEntries:], 1)
	le.PutUint64(m[0x308:], 0x8000000)
	le.PutUint32(m[0x310:], RAM)
	return m
}

func TestPVH(t *testing.T) {
	var i Info
	if why := Parse(pvh(), 0x100, MagicPVH, &i); why != "" {
		t.Fatal(why)
	}
	if string(i.Cmdline()) != "a=b c" || i.RSDP != 0xf5b00 || i.NMod != 1 || i.Mod[0].End != 0x1_0000_1234 || i.NMem != 1 {
		t.Errorf("%q %#x %d %d", i.Cmdline(), i.RSDP, i.NMod, i.NMem)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, f := range map[string]func() string{
		"magic":     func() string { return Parse(pvh(), 0x100, 7, new(Info)) },
		"address":   func() string { return Parse(pvh(), 1<<40, MagicPVH, new(Info)) },
		"signature": func() string { return Parse(pvh(), 0x104, MagicPVH, new(Info)) },
		"no RAM":    func() string { return Parse(make(ram, 0x1000), 0x100, MagicMultiboot, new(Info)) },
	} {
		if f() == "" {
			t.Errorf("wrong %s accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(multiboot("x y=z")), true)
	f.Add([]byte(pvh()), false)
	f.Fuzz(func(t *testing.T, b []byte, mb bool) {
		magic := uint32(MagicPVH)
		if mb {
			magic = MagicMultiboot
		}
		var i Info
		if Parse(ram(b), 0x100, magic, &i) == "" && i.NMem == 0 {
			t.Fatal("accepted without memory")
		}
		for _, r := range i.Mem[:i.NMem] {
			if r.Start >= r.End {
				t.Fatalf("range %v", r)
			}
		}
		for k := range i.Mod[:i.NMod] {
			if i.Mod[k].End < i.Mod[k].Start {
				t.Fatal("a module ends before it begins")
			}
		}
	})
}
