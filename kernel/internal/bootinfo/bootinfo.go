// Package bootinfo reads what the boot loader left: Multiboot 1 information
// (Multiboot Specification 0.6.96, section 3.3) or a PVH hvm_start_info (Xen
// public header arch-x86/hvm/start_info.h). It runs before the Go runtime does:
// it allocates nothing and copies everything into one flat structure.
package bootinfo

import "encoding/binary"

// What the boot stub passes as magic.
const (
	MagicMultiboot = 0x2BADB002
	MagicPVH       = 0x336ec578
)

// Limits of what is kept. More is dropped and Truncated says so.
const (
	MaxCmdline = 4096
	MaxRanges  = 128
	MaxModules = 64
	MaxName    = 128
)

// E820 memory types (ACPI 6.5, table 15.4).
const (
	RAM         = 1
	Reserved    = 2
	ACPIReclaim = 3
	ACPINVS     = 4
)

// A Range is one entry of the memory map.
type Range struct {
	Start, End uint64
	Type       uint32
}

// A Module is one file the boot loader loaded.
type Module struct {
	Start, End uint64
	nameLen    int
	name       [MaxName]byte
}

// Name is the last element of the module's path, without arguments.
func (m *Module) Name() []byte { return m.name[:m.nameLen] }

// Info is all of it.
type Info struct {
	Magic      uint32
	RSDP       uint64 // 0: not told
	Truncated  bool
	NMem, NMod int
	Mem        [MaxRanges]Range
	Mod        [MaxModules]Module
	cmdLen     int
	cmd        [MaxCmdline]byte
}

// Cmdline is the command line as the loader passed it, without a leading image
// name.
func (i *Info) Cmdline() []byte { return i.cmd[:i.cmdLen] }

// Memory gives access to physical memory: n bytes at addr, nil if they are not
// all there.
type Memory interface {
	Bytes(addr, n uint64) []byte
}

var le = binary.LittleEndian

// Parse fills out from the boot information at addr. Its result is empty, or says
// what is wrong; out then holds what could be read.
func Parse(mem Memory, addr uint64, magic uint32, out *Info) string {
	out.Magic = magic
	why := "unknown boot magic"
	switch magic {
	case MagicMultiboot:
		why = parseMultiboot(mem, addr, out)
	case MagicPVH:
		why = parsePVH(mem, addr, out)
	}
	if why != "" {
		return why
	}
	out.settle()
	return out.checkRAM()
}

// Multiboot information: flags and offsets of table 3.3.
const (
	mbFlagMem     = 1 << 0
	mbFlagCmdline = 1 << 2
	mbFlagMods    = 1 << 3
	mbFlagMmap    = 1 << 6

	mbMemUpper   = 8
	mbCmdline    = 16
	mbModsCount  = 20
	mbModsAddr   = 24
	mbMmapLength = 44
	mbMmapAddr   = 48
	mbSize       = 52
)

func parseMultiboot(mem Memory, addr uint64, out *Info) string {
	b := mem.Bytes(addr, mbSize)
	if b == nil {
		return "Multiboot information is not in memory"
	}
	flags := le.Uint32(b)
	if flags&mbFlagCmdline != 0 {
		out.setCmdline(mem, uint64(le.Uint32(b[mbCmdline:])))
		out.dropImageName()
	}
	if flags&mbFlagMods != 0 {
		n, a := le.Uint32(b[mbModsCount:]), uint64(le.Uint32(b[mbModsAddr:]))
		for i := uint32(0); i < n; i++ {
			// mod_start, mod_end, string, reserved
			m := mem.Bytes(a+16*uint64(i), 16)
			if m == nil || !out.addModule(mem, uint64(le.Uint32(m)), uint64(le.Uint32(m[4:])), uint64(le.Uint32(m[8:]))) {
				out.Truncated = true
				break
			}
		}
	}
	if flags&mbFlagMmap != 0 {
		a := uint64(le.Uint32(b[mbMmapAddr:]))
		end := a + uint64(le.Uint32(b[mbMmapLength:]))
		for a < end {
			// size, base, length, type; size does not count itself
			e := mem.Bytes(a, 24)
			if e == nil {
				return "Multiboot memory map is not in memory"
			}
			if size := le.Uint32(e); size >= 20 && size < 1<<16 {
				out.addRange(le.Uint64(e[4:]), le.Uint64(e[12:]), le.Uint32(e[20:]))
				a += uint64(size) + 4
			} else {
				return "Multiboot memory map has an entry of impossible size"
			}
		}
	} else if flags&mbFlagMem != 0 {
		out.addRange(0, 640<<10, RAM)
		out.addRange(1<<20, uint64(le.Uint32(b[mbMemUpper:]))<<10, RAM)
	}
	return ""
}

// hvm_start_info, version 1 (version 0 has no memory map).
const (
	pvhVersion      = 4
	pvhNModules     = 12
	pvhModules      = 16
	pvhCmdline      = 24
	pvhRSDP         = 32
	pvhMmap         = 40
	pvhMmapEntries  = 48
	pvhSize         = 56
	pvhModSize      = 32 // paddr, size, cmdline paddr, reserved
	pvhMmapSize     = 24 // addr, size, type, reserved
	pvhMaxModules   = 1024
	pvhMaxMmapEntry = 4096
)

func parsePVH(mem Memory, addr uint64, out *Info) string {
	b := mem.Bytes(addr, pvhSize)
	if b == nil || le.Uint32(b) != MagicPVH {
		return "PVH start information is not in memory"
	}
	if le.Uint32(b[pvhVersion:]) < 1 {
		return "PVH start information has no memory map (version 0)"
	}
	out.RSDP = le.Uint64(b[pvhRSDP:])
	if a := le.Uint64(b[pvhCmdline:]); a != 0 {
		out.setCmdline(mem, a)
	}
	a := le.Uint64(b[pvhModules:])
	for i := uint64(0); i < uint64(min(le.Uint32(b[pvhNModules:]), pvhMaxModules)); i++ {
		m := mem.Bytes(a+pvhModSize*i, pvhModSize)
		if m == nil {
			out.Truncated = true
			break
		}
		start := le.Uint64(m)
		if !out.addModule(mem, start, start+le.Uint64(m[8:]), le.Uint64(m[16:])) {
			out.Truncated = true
			break
		}
	}
	a = le.Uint64(b[pvhMmap:])
	for i := uint64(0); i < uint64(min(le.Uint32(b[pvhMmapEntries:]), pvhMaxMmapEntry)); i++ {
		e := mem.Bytes(a+pvhMmapSize*i, pvhMmapSize)
		if e == nil {
			return "PVH memory map is not in memory"
		}
		out.addRange(le.Uint64(e), le.Uint64(e[8:]), le.Uint32(e[16:]))
	}
	return ""
}

func (i *Info) checkRAM() string {
	for k := range i.Mem[:i.NMem] {
		if i.Mem[k].Type == RAM {
			return ""
		}
	}
	return "the boot loader reported no RAM"
}

// addRange keeps one memory map entry; an empty or wrapping one is dropped.
func (i *Info) addRange(start, size uint64, typ uint32) {
	if size == 0 || start+size < start {
		return
	}
	if i.NMem == MaxRanges {
		i.Truncated = true
		return
	}
	i.Mem[i.NMem] = Range{start, start + size, typ}
	i.NMem++
}

// addModule keeps one module. It reports false when there is no room.
func (i *Info) addModule(mem Memory, start, end, name uint64) bool {
	if i.NMod == MaxModules {
		return false
	}
	if end < start {
		return true
	}
	m := &i.Mod[i.NMod]
	i.NMod++
	m.Start, m.End = start, end
	m.nameLen = 0
	if name == 0 {
		return true
	}
	for k := uint64(0); k < MaxCmdline; k++ { // first word, from its last slash on
		c := mem.Bytes(name+k, 1)
		if c == nil || c[0] == 0 || c[0] == ' ' {
			break
		}
		if c[0] == '/' {
			m.nameLen = 0
		} else if m.nameLen < MaxName {
			m.name[m.nameLen] = c[0]
			m.nameLen++
		}
	}
	return true
}

func (i *Info) setCmdline(mem Memory, addr uint64) {
	for i.cmdLen = 0; ; i.cmdLen++ {
		c := mem.Bytes(addr+uint64(i.cmdLen), 1)
		if c == nil || c[0] == 0 {
			return
		}
		if i.cmdLen == MaxCmdline {
			i.Truncated = true
			return
		}
		i.cmd[i.cmdLen] = c[0]
	}
}

// dropImageName removes a leading image name. QEMU and iPXE pass one (a path, a
// file name or a URL), GRUB does not; options are words or name=value without a
// slash before the equals sign, so that a name is a first word that has a slash
// or a dot before any equals sign.
func (i *Info) dropImageName() {
	n := 0
	for n < i.cmdLen && i.cmd[n] == ' ' {
		n++
	}
	name := false
	end := n
	for ; end < i.cmdLen && i.cmd[end] != ' '; end++ {
		switch i.cmd[end] {
		case '/', '.':
			name = true
		case '=':
			if !name {
				return
			}
		}
	}
	if name {
		for end < i.cmdLen && i.cmd[end] == ' ' {
			end++
		}
		i.cmdLen = copy(i.cmd[:], i.cmd[end:i.cmdLen])
	}
}
