package boot

// The head of the image, in physical addresses. Its contents are constant but for the entry address and the sizes in
// the Multiboot header, so the page tables are data in the file rather than code in the stub.
//
// What the program finds at its entry (the contract with package kernel):
//
//	CS:RIP  64-bit code at the ELF's entry, interrupts off, A20 open, no stack (RSP undefined), no IDT
//	CR3     PML4Address: 0..4 GiB mapped at 0 and again at DirectMap, 2 MiB pages, writable, executable
//	CR0     PE MP NE PG; CR4 PAE OSFXSR OSXMMEXCPT; EFER SCE LME LMA
//	GDT     SelectorCode64, SelectorData (in DS ES SS; FS and GS hold 0), SelectorCode32
//	RDI     physical address of the loader's information
//	RSI     MultibootMagic (RDI: Multiboot information) or PVHMagic (RDI: hvm_start_info)
//	memory  TSCAddress holds the time-stamp counter as it was at the stub's first instruction
const (
	Base         = 0x100000 // first byte of the image
	gdtAddress   = 0x100080
	gdtrAddress  = 0x1000a0
	TSCAddress   = 0x1000f8
	headerAddr   = 0x100100 // Multiboot header: in the first 8192 bytes, 4-byte aligned (MB 3.1)
	stubAddress  = 0x100200
	stubEnd      = 0x101000
	PML4Address  = 0x101000
	pdptAddress  = 0x102000
	pdAddress    = 0x103000 // four pages, one for each GiB
	tablesEnd    = 0x107000
	ProgramStart = 0x110000 // the Go program's ELF header; its text follows at TextAddress
	TextAddress  = 0x111000 // for the linker's -T

	DirectMap = 0xffff800000000000 // physical memory's second mapping

	SelectorCode64 = 0x08
	SelectorData   = 0x10
	SelectorCode32 = 0x18
)

// gdt is the global descriptor table at gdtAddress (SDM vol. 3, 3.4.5).
var gdt = [4]uint64{
	SelectorCode64 / 8: 0x00af9a000000ffff, // G L   P DPL0 code read
	SelectorData / 8:   0x00cf92000000ffff, // G D/B P DPL0 data write
	SelectorCode32 / 8: 0x00cf9a000000ffff, // G D   P DPL0 code read
}

// Bits of page-table entries (SDM vol. 3, 4.5).
const (
	pagePresent  = 1 << 0
	pageWritable = 1 << 1
	pageLarge    = 1 << 7

	largePage = 2 << 20
	pageSize  = 4096
)

// writeTables fills the first page tables in img, which begins at Base.
func writeTables(img []byte) {
	const link = pagePresent | pageWritable
	entry := func(table, index, value uint64) { le.PutUint64(img[table-Base+8*index:], value) }

	entry(PML4Address, 0, pdptAddress|link)
	entry(PML4Address, (DirectMap>>39)&511, pdptAddress|link)
	for gib := uint64(0); gib < 4; gib++ {
		entry(pdptAddress, gib, (pdAddress+gib*pageSize)|link)
	}
	for i := uint64(0); i < 4*512; i++ { // the four directories are adjacent
		entry(pdAddress, i, i*largePage|pageLarge|link)
	}
}

// writeGDT fills the descriptor table and its pseudo-descriptor (SDM vol. 3, 2.4.1).
func writeGDT(img []byte) {
	for i, d := range gdt {
		le.PutUint64(img[gdtAddress-Base+8*i:], d)
	}
	le.PutUint16(img[gdtrAddress-Base:], uint16(8*len(gdt)-1))
	le.PutUint32(img[gdtrAddress-Base+2:], gdtAddress)
}
