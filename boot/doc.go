// Package boot turns the freestanding Go program cmd/godwit into files that loaders start on a bare machine.
//
// The Go linker leaves an ELF executable for physical addresses from 0x110000 upwards. Link puts a 64 KiB head below
// it: a Multiboot header, a GDT, the first page tables and the stub, which takes the processor from 32-bit protected
// mode to long mode and jumps to the program's entry. Two files come of it, both holding the same bytes:
//
//	Image.Flat  a flat Multiboot 1 image with address fields, for QEMU -kernel, GRUB and iPXE
//	Image.ELF   an ELF with a PVH note, for QEMU -kernel and other hypervisors
//
// References:
//
//	MB   Multiboot Specification version 0.6.96
//	PVH  Xen x86/HVM direct boot ABI (docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h)
//	SDM  Intel 64 and IA-32 Architectures Software Developer's Manual, vol. 2 and 3, order number 325462
//	ELF  System V ABI, chapters 4 and 5, with the AMD64 supplement
package boot
