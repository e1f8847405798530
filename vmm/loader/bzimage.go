package loader

import (
	"encoding/binary"
	"fmt"

	"godwit/vmm/vcpu"
)

// Offsets in a bzImage and in the zero page alike (boot.rst, "The Real-Mode
// Kernel Header", and zero-page.rst).
const (
	zpRSDP         = 0x070 // acpi_rsdp_addr
	zpExtImage     = 0x0c0 // ext_ramdisk_image: bits 63:32
	zpExtSize      = 0x0c4
	zpExtCmdline   = 0x0c8
	zpE820Entries  = 0x1e8
	hdrSetupSects  = 0x1f1
	hdrSysSize     = 0x1f4 // the protected-mode part's, in paragraphs of 16 bytes
	hdrBootFlag    = 0x1fe // 0xaa55
	hdrJump        = 0x200 // its second byte gives the header's end
	hdrMagic       = 0x202 // "HdrS"
	hdrVersion     = 0x206
	hdrLoaderType  = 0x210
	hdrLoadFlags   = 0x211
	hdrRamdisk     = 0x218
	hdrRamdiskSize = 0x21c
	hdrCmdline     = 0x228
	hdrInitrdMax   = 0x22c
	hdrAlignment   = 0x230
	hdrRelocatable = 0x234
	hdrXLoadFlags  = 0x236
	hdrCmdlineSize = 0x238
	hdrPrefAddress = 0x258
	hdrInitSize    = 0x260
	hdrEnd         = 0x264 // through init_size, protocol 2.10
	zpE820Table    = 0x2d0

	zeroPageSize = 4096
	e820Size     = 20
	entry64      = 0x200 // of the protected-mode kernel

	xlfKernel64   = 1 << 0
	xlfAbove4G    = 1 << 1
	loadedHigh    = 1 << 0
	loaderUnknown = 0xff
)

// linuxHeader is what the loader uses of the setup header.
type linuxHeader struct {
	version     uint16
	wide        bool   // it has a 64-bit entry
	kernel      []byte // the protected-mode part
	header      []byte // bytes hdrSetupSects to the header's end
	relocatable bool
	align       uint64
	pref        uint64
	initSize    uint64
	initrdMax   uint64
	cmdline     int
}

func parseBzImage(b []byte) (h linuxHeader, err error) {
	if len(b) < hdrEnd {
		return h, fmt.Errorf("%d bytes are too few for a setup header", len(b))
	}
	le := binary.LittleEndian
	if f := le.Uint16(b[hdrBootFlag:]); f != 0xaa55 {
		return h, fmt.Errorf("boot flag is %#x, not 0xaa55", f)
	}
	h.version = le.Uint16(b[hdrVersion:])
	if h.version < 0x20a {
		return h, fmt.Errorf("boot protocol %d.%02d is too old: Linux 2.6.31 (2.10) or newer is needed", h.version>>8, h.version&0xff)
	}
	// 64-bit kernels older than the flag have the 32-bit entry too.
	h.wide = h.version >= 0x20c && le.Uint16(b[hdrXLoadFlags:])&xlfKernel64 != 0
	end := hdrMagic + int(b[hdrJump+1])
	if end < hdrEnd || end > zpE820Table || end > len(b) {
		return h, fmt.Errorf("setup header ends at %#x", end)
	}
	h.header = b[hdrSetupSects:end]
	sects := int(b[hdrSetupSects])
	if sects == 0 {
		sects = 4
	}
	setup := (sects + 1) * 512
	if setup+entry64 >= len(b) {
		return h, fmt.Errorf("%d setup sectors, but the file has only %d bytes", sects, len(b))
	}
	h.kernel = b[setup:]
	// The last paragraph may be short: Memtest86+ rounds up.
	if want := uint64(le.Uint32(b[hdrSysSize:])) * 16; uint64(len(h.kernel))+15 < want {
		return h, fmt.Errorf("the file is cut short: it has %d bytes, and its header tells of %d", len(b), uint64(setup)+want)
	}
	h.relocatable = b[hdrRelocatable] != 0
	h.align = uint64(le.Uint32(b[hdrAlignment:]))
	h.pref = le.Uint64(b[hdrPrefAddress:])
	h.initSize = uint64(le.Uint32(b[hdrInitSize:]))
	h.initrdMax = uint64(le.Uint32(b[hdrInitrdMax:])) + 1
	h.cmdline = int(le.Uint32(b[hdrCmdlineSize:]))
	if h.align == 0 || h.align&(h.align-1) != 0 || h.align > 1<<30 {
		return h, fmt.Errorf("kernel_alignment %#x is not a sensible power of two", h.align)
	}
	if h.initSize < uint64(len(h.kernel)) {
		h.initSize = uint64(len(h.kernel))
	}
	return h, nil
}

func (l *load) bzImage() error {
	h, err := parseBzImage(l.im.Kernel)
	if err != nil {
		return err
	}
	if len(l.im.Modules) > 0 {
		return fmt.Errorf("a bzImage takes no modules, only an initrd")
	}
	at := h.pref
	if err := l.places.claim("kernel", at, h.initSize); err != nil {
		if !h.relocatable {
			return err
		}
		// Not below: from there it moves itself up to pref (boot.rst, pref_address), whatever lies there.
		if at, err = l.places.bottom("kernel", h.initSize, max(1<<20, h.pref), 4<<30, h.align); err != nil {
			return err
		}
	}
	if err := l.write("kernel", at, h.kernel); err != nil {
		return err
	}
	initrd, err := l.blob("initrd", l.im.Initrd, min(h.initrdMax, 4<<30))
	if err != nil {
		return err
	}
	if err := l.commandLine(min(h.cmdline, maxCommandLine)); err != nil {
		return err
	}
	if err := l.write("zero page", infoAt, l.zeroPage(h, initrd)); err != nil {
		return err
	}
	if h.wide {
		if err := l.longMode(); err != nil {
			return err
		}
		l.state.Regs.RIP = at + entry64
	} else { // boot.rst, "32-bit Boot Protocol"
		if at+h.initSize > 4<<30 {
			return fmt.Errorf("a kernel without 64-bit entry at %#x+%#x is not below 4 GiB", at, h.initSize)
		}
		if err := l.protectedMode(uint32(at)); err != nil {
			return err
		}
	}
	l.state.Regs.GPR[vcpu.RSI] = infoAt
	return nil
}

func (l *load) zeroPage(h linuxHeader, initrd uint64) []byte {
	z := make([]byte, zeroPageSize)
	le := binary.LittleEndian
	copy(z[hdrSetupSects:], h.header)
	z[hdrLoaderType] = loaderUnknown
	z[hdrLoadFlags] |= loadedHigh
	le.PutUint32(z[hdrRamdisk:], uint32(initrd))
	le.PutUint32(z[zpExtImage:], uint32(initrd>>32))
	le.PutUint32(z[hdrRamdiskSize:], uint32(len(l.im.Initrd)))
	le.PutUint32(z[hdrCmdline:], cmdlineAt)
	le.PutUint64(z[zpRSDP:], l.im.RSDP)
	z[zpE820Entries] = uint8(len(l.im.Map))
	for i, r := range l.im.Map {
		e := z[zpE820Table+i*e820Size:]
		le.PutUint64(e, r.Start)
		le.PutUint64(e[8:], r.Size)
		le.PutUint32(e[16:], uint32(r.Type))
	}
	return z
}
