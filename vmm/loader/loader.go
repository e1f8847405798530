// Package loader puts an operating system's kernel into a guest's memory and
// its first processor into the state that the kernel's boot protocol asks for:
//
//   - bzImage: the 64-bit entry of the Linux/x86 boot protocol, or the 32-bit one of
//     kernels without (Documentation/arch/x86/boot.rst, sections "64-bit" and "32-bit
//     Boot Protocol");
//   - PVH: an ELF with a PHYS32_ENTRY note, entered with an hvm_start_info
//     (Xen's misc/pvh.pandoc and public/arch-x86/hvm/start_info.h);
//   - Multiboot1: an ELF or flat image with a Multiboot header
//     (Multiboot Specification 0.6.96).
//
// Images come from the network: every number in them is checked, and an image
// that does not fit is refused with an error that says what and where.
package loader

import (
	"bytes"
	"fmt"

	"godwit/vmm/vcpu"
)

// RAM is the guest's memory as loaders write it. Both methods fail unless the
// whole range is RAM.
type RAM interface {
	WriteAt(p []byte, gpa uint64) error
	Zero(gpa, n uint64) error
}

// A RegionType is what a part of the guest-physical address space is, numbered
// as in ACPI 6.5, section 15 ("System Address Map Interfaces").
type RegionType uint32

const (
	Usable   RegionType = 1
	Reserved RegionType = 2
	ACPI     RegionType = 3 // tables, reclaimable
)

// A Region of the guest's memory map.
type Region struct {
	Start, Size uint64
	Type        RegionType
}

// End is the first address after r.
func (r Region) End() uint64 { return r.Start + r.Size }

// A Module is a file handed to the kernel.
type Module struct {
	Name string // with its arguments, where the protocol carries a string
	Data []byte
}

// An Image is all that a loader needs to know.
type Image struct {
	Kernel      []byte
	Initrd      []byte // nil: none
	Modules     []Module
	CommandLine string
	Map         []Region // sorted, not overlapping
	RSDP        uint64   // guest-physical; 0: no ACPI
}

// A Kind of kernel image.
type Kind uint8

const (
	Unknown Kind = iota
	BzImage
	PVH
	Multiboot
)

func (k Kind) String() string {
	switch k {
	case BzImage:
		return "bzImage"
	case PVH:
		return "PVH"
	case Multiboot:
		return "Multiboot"
	}
	return "unknown"
}

// Detect tells what kernel is. An image that is several things at once is
// booted by the richest protocol: bzImage, then PVH, then Multiboot.
func Detect(kernel []byte) (Kind, error) {
	if len(kernel) >= hdrEnd && bytes.Equal(kernel[hdrMagic:hdrMagic+4], []byte("HdrS")) {
		return BzImage, nil
	}
	if e, err := parseELF(kernel); err == nil {
		if _, err := e.pvhEntry(); err == nil {
			return PVH, nil
		}
	}
	if _, err := findMultiboot(kernel); err == nil {
		return Multiboot, nil
	}
	switch {
	case len(kernel) == 0:
		return Unknown, fmt.Errorf("loader: the kernel image is empty")
	case bytes.HasPrefix(kernel, []byte(elfMagic)):
		return Unknown, fmt.Errorf("loader: the kernel is an ELF file with neither a PVH note nor a Multiboot header: build it with CONFIG_PVH, or use its bzImage")
	case bytes.HasPrefix(kernel, []byte{0x1f, 0x8b}):
		return Unknown, fmt.Errorf("loader: the kernel is gzip-compressed: unpack it first")
	}
	return Unknown, fmt.Errorf("loader: the kernel is neither a bzImage nor an ELF with a PVH note or a Multiboot header (it begins with % x)", kernel[:min(8, len(kernel))])
}

// Load puts im into ram and makes s the state of the first processor.
func Load(ram RAM, im *Image, s *vcpu.State) (Kind, error) {
	k, err := Detect(im.Kernel)
	if err != nil {
		return k, err
	}
	l := &load{ram: ram, im: im, state: s}
	if err := l.places.init(im.Map); err != nil {
		return k, err
	}
	switch k {
	case BzImage:
		err = l.bzImage()
	case PVH:
		err = l.pvh()
	case Multiboot:
		err = l.multiboot()
	}
	if err != nil {
		return k, fmt.Errorf("loader: %v: %w", k, err)
	}
	return k, nil
}

// Check tells whether Load would put im into the memory of im.Map, without any memory.
func Check(im *Image) error {
	_, err := Load(nowhere{}, im, new(vcpu.State))
	return err
}

// nowhere is RAM of any size. What is written lies inside the map: places sees to that.
type nowhere struct{}

func (nowhere) WriteAt([]byte, uint64) error { return nil }
func (nowhere) Zero(gpa, n uint64) error     { return nil }

// load is one loading in progress.
type load struct {
	ram    RAM
	im     *Image
	state  *vcpu.State
	places places
}

// Where the loaders put what they make: the first MiB below the EBDA is free
// for them in every protocol, and kernels reserve or copy what they need of it.
const (
	gdtAt     = 0x6000
	infoAt    = 0x7000 // zero page, hvm_start_info or Multiboot information
	tablesAt  = 0x9000 // PML4, PDPT, 4 PDs
	listsAt   = 0x10000
	listsEnd  = 0x1f000
	cmdlineAt = 0x20000
	stackTop  = 0x90000
	lowEnd    = 0x90000
)

// commandLine writes the command line, at most max bytes and its terminator.
func (l *load) commandLine(max int) error {
	c := l.im.CommandLine
	if len(c) > max {
		return fmt.Errorf("the command line has %d bytes; this kernel takes at most %d", len(c), max)
	}
	if i := bytes.IndexByte([]byte(c), 0); i >= 0 {
		return fmt.Errorf("the command line has a zero byte at %d", i)
	}
	return l.write("command line", cmdlineAt, append([]byte(c), 0))
}

func (l *load) write(what string, gpa uint64, p []byte) error {
	if err := l.ram.WriteAt(p, gpa); err != nil {
		return fmt.Errorf("%s at %#x: %w", what, gpa, err)
	}
	return nil
}

// blob claims the highest free place below limit for p and writes it there.
func (l *load) blob(what string, p []byte, limit uint64) (uint64, error) {
	at, err := l.places.top(what, uint64(len(p)), limit, 4096)
	if err != nil {
		return 0, err
	}
	return at, l.write(what, at, p)
}

// maxCommandLine bounds command lines of protocols that name no limit.
const maxCommandLine = 32 << 10
