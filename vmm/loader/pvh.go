package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"godwit/vmm/vcpu"
)

const (
	notePhys32Entry = 18 // XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h)
	pvhMagic        = 0x336ec578
	startInfoSize   = 56 // struct hvm_start_info, version 1
	modlistSize     = 32
	memmapSize      = 24
)

var errNoNote = errors.New("the ELF file has no PHYS32_ENTRY note")

// pvhEntry finds the entry point in the notes.
func (e *elfFile) pvhEntry() (uint32, error) {
	le := binary.LittleEndian
	for _, s := range e.segments {
		if s.kind != ptNote {
			continue
		}
		for b := s.data; len(b) >= 12; {
			namesz, descsz, kind := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
			desc := 12 + (namesz+3)&^3
			next := desc + (descsz+3)&^3
			if desc+descsz > uint64(len(b)) {
				break
			}
			if kind == notePhys32Entry && namesz == 4 && string(b[12:16]) == "Xen\x00" {
				return entry32(b[desc : desc+descsz])
			}
			b = b[min(next, uint64(len(b))):]
		}
	}
	return 0, errNoNote
}

func entry32(desc []byte) (uint32, error) {
	switch len(desc) {
	case 4:
		return binary.LittleEndian.Uint32(desc), nil
	case 8:
		if v := binary.LittleEndian.Uint64(desc); v < 1<<32 {
			return uint32(v), nil
		}
	}
	return 0, fmt.Errorf("PHYS32_ENTRY note holds % x", desc[:min(16, len(desc))])
}

func (l *load) pvh() error {
	e, err := parseELF(l.im.Kernel)
	if err != nil {
		return err
	}
	entry, err := e.pvhEntry()
	if err != nil {
		return err
	}
	if err := e.load(l); err != nil {
		return err
	}
	if err := l.commandLine(maxCommandLine); err != nil {
		return err
	}
	mods := l.im.Modules
	if l.im.Initrd != nil {
		// The first module is the initrd (pvh.pandoc; Linux takes only that).
		mods = append([]Module{{Data: l.im.Initrd}}, mods...)
	}
	le := binary.LittleEndian
	lists := listArea{at: listsAt}
	var modlist []byte
	for _, m := range mods {
		at, err := l.blob("module "+m.Name, m.Data, 4<<30)
		if err != nil {
			return err
		}
		name := uint64(0)
		if m.Name != "" {
			name = lists.add(append([]byte(m.Name), 0))
		}
		modlist = le.AppendUint64(modlist, at)
		modlist = le.AppendUint64(modlist, uint64(len(m.Data)))
		modlist = le.AppendUint64(modlist, name)
		modlist = le.AppendUint64(modlist, 0)
	}
	var memmap []byte
	for _, r := range l.im.Map {
		memmap = le.AppendUint64(memmap, r.Start)
		memmap = le.AppendUint64(memmap, r.Size)
		memmap = le.AppendUint64(memmap, uint64(r.Type))
	}
	info := le.AppendUint32(nil, pvhMagic)
	info = le.AppendUint32(info, 1) // version
	info = le.AppendUint32(info, 0) // flags
	info = le.AppendUint32(info, uint32(len(mods)))
	info = le.AppendUint64(info, lists.add(modlist))
	info = le.AppendUint64(info, cmdlineAt)
	info = le.AppendUint64(info, l.im.RSDP)
	info = le.AppendUint64(info, lists.add(memmap))
	info = le.AppendUint64(info, uint64(len(l.im.Map)))
	if err := lists.write(l); err != nil {
		return err
	}
	if err := l.write("hvm_start_info", infoAt, info); err != nil {
		return err
	}
	if err := l.protectedMode(entry); err != nil {
		return err
	}
	l.state.Regs.GPR[vcpu.RBX] = infoAt
	return nil
}

// listArea collects the small tables and strings that a boot information
// structure points to.
type listArea struct {
	at  uint64
	buf []byte
}

// add returns the guest-physical address that b will have; 0 for none.
func (a *listArea) add(b []byte) uint64 {
	if len(b) == 0 {
		return 0
	}
	for len(a.buf)%8 != 0 {
		a.buf = append(a.buf, 0)
	}
	at := a.at + uint64(len(a.buf))
	a.buf = append(a.buf, b...)
	return at
}

func (a *listArea) write(l *load) error {
	if len(a.buf) > listsEnd-listsAt {
		return fmt.Errorf("%d bytes of module names and lists, more than %d", len(a.buf), listsEnd-listsAt)
	}
	return l.write("boot lists", a.at, a.buf)
}
