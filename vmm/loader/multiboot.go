package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"godwit/vmm/vcpu"
)

// Multiboot Specification 0.6.96, sections 3.1 to 3.3.
const (
	mbSearch     = 8192 // the header lies in the first 8 KiB
	mbMagic      = 0x1badb002
	mbBootMagic  = 0x2badb002
	mbPageAlign  = 1 << 0
	mbMemory     = 1 << 1
	mbVideo      = 1 << 2
	mbKludge     = 1 << 16 // the header holds addresses
	mbHeaderSize = 12
	mbKludgeSize = 32

	mbiMemory   = 1 << 0
	mbiCmdline  = 1 << 2
	mbiModules  = 1 << 3
	mbiMap      = 1 << 6
	mbiLoader   = 1 << 9
	mbiSize     = 116
	mbiMapEntry = 20 // the size field's value: it does not count itself
)

// mbHeader is a Multiboot header and where it was found.
type mbHeader struct {
	offset                            int
	flags                             uint32
	header, load, loadEnd, bss, entry uint32
}

func findMultiboot(b []byte) (h mbHeader, err error) {
	le := binary.LittleEndian
	b = b[:min(len(b), mbSearch)]
	for off := 0; off+mbHeaderSize <= len(b); off += 4 {
		p := b[off:]
		h = mbHeader{offset: off, flags: le.Uint32(p[4:])}
		if le.Uint32(p) != mbMagic || mbMagic+h.flags+le.Uint32(p[8:]) != 0 {
			continue
		}
		if h.flags&mbKludge != 0 {
			if len(p) < mbKludgeSize {
				return h, fmt.Errorf("the header at %#x is cut off", off)
			}
			h.header, h.load, h.loadEnd = le.Uint32(p[12:]), le.Uint32(p[16:]), le.Uint32(p[20:])
			h.bss, h.entry = le.Uint32(p[24:]), le.Uint32(p[28:])
		}
		return h, nil
	}
	return mbHeader{}, errors.New("no Multiboot header in the first 8 KiB")
}

// kernel loads the image and returns its entry point.
func (h mbHeader) kernel(l *load) (uint32, error) {
	// Bits 0 to 15 are requirements; we meet the first two, and a kernel
	// that asks for a video mode is told of none.
	if want := h.flags & 0xffff &^ (mbPageAlign | mbMemory | mbVideo); want != 0 {
		return 0, fmt.Errorf("the header requires unknown features %#x", want)
	}
	if h.flags&mbKludge == 0 {
		e, err := parseELF(l.im.Kernel)
		if err != nil {
			return 0, err
		}
		entry := e.physicalEntry()
		if entry >= 1<<32 {
			return 0, fmt.Errorf("entry %#x is above 4 GiB", entry)
		}
		return uint32(entry), e.load(l)
	}
	if h.load > h.header || int64(h.header-h.load) > int64(h.offset) {
		return 0, fmt.Errorf("load address %#x does not fit the header's, %#x, found at file offset %#x", h.load, h.header, h.offset)
	}
	data := l.im.Kernel[h.offset-int(h.header-h.load):]
	if h.loadEnd != 0 {
		if h.loadEnd < h.load || uint64(h.loadEnd-h.load) > uint64(len(data)) {
			return 0, fmt.Errorf("load end address %#x: the file has only %d bytes from %#x on", h.loadEnd, len(data), h.load)
		}
		data = data[:h.loadEnd-h.load]
	}
	size := uint64(len(data))
	if h.bss != 0 {
		if h.bss < h.load || uint64(h.bss-h.load) < size {
			return 0, fmt.Errorf("bss end address %#x lies inside the image", h.bss)
		}
		size = uint64(h.bss - h.load)
	}
	return h.entry, l.segment(uint64(h.load), data, size)
}

func (l *load) multiboot() error {
	h, err := findMultiboot(l.im.Kernel)
	if err != nil {
		return err
	}
	entry, err := h.kernel(l)
	if err != nil {
		return err
	}
	if err := l.commandLine(maxCommandLine); err != nil {
		return err
	}
	mods := l.im.Modules
	if l.im.Initrd != nil {
		mods = append([]Module{{Name: "initrd", Data: l.im.Initrd}}, mods...)
	}
	le := binary.LittleEndian
	lists := listArea{at: listsAt}
	var list []byte
	for _, m := range mods {
		at, err := l.blob("module "+m.Name, m.Data, 4<<30)
		if err != nil {
			return err
		}
		list = le.AppendUint32(list, uint32(at))
		list = le.AppendUint32(list, uint32(at+uint64(len(m.Data))))
		list = le.AppendUint32(list, uint32(lists.add(append([]byte(m.Name), 0))))
		list = le.AppendUint32(list, 0)
	}
	var memmap []byte
	var lower, upper uint64 // KiB from 0 and from 1 MiB on, without holes
	for _, r := range l.im.Map {
		memmap = le.AppendUint32(memmap, mbiMapEntry)
		memmap = le.AppendUint64(memmap, r.Start)
		memmap = le.AppendUint64(memmap, r.Size)
		memmap = le.AppendUint32(memmap, uint32(r.Type))
		if r.Type == Usable && r.Start == 0 {
			lower = min(r.Size, 640<<10) >> 10
		}
		if r.Type == Usable && r.Start <= 1<<20 && r.End() > 1<<20 {
			upper = (min(r.End(), 4<<30) - 1<<20) >> 10
		}
	}
	info := make([]byte, mbiSize)
	le.PutUint32(info[0:], mbiMemory|mbiCmdline|mbiModules|mbiMap|mbiLoader)
	le.PutUint32(info[4:], uint32(lower))
	le.PutUint32(info[8:], uint32(upper))
	le.PutUint32(info[16:], cmdlineAt)
	le.PutUint32(info[20:], uint32(len(mods)))
	le.PutUint32(info[24:], uint32(lists.add(list)))
	le.PutUint32(info[44:], uint32(len(memmap)))
	le.PutUint32(info[48:], uint32(lists.add(memmap)))
	le.PutUint32(info[64:], uint32(lists.add([]byte("godwit\x00"))))
	if err := lists.write(l); err != nil {
		return err
	}
	if err := l.write("Multiboot information", infoAt, info); err != nil {
		return err
	}
	if err := l.protectedMode(entry); err != nil {
		return err
	}
	l.state.Regs.GPR[vcpu.RAX] = mbBootMagic
	l.state.Regs.GPR[vcpu.RBX] = infoAt
	return nil
}
