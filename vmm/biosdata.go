package vmm

import (
	"encoding/binary"
	"fmt"

	"godwit/vmm/device/uart"
)

// There is no firmware, but what a BIOS leaves in memory kernels look for: Linux for the
// EBDA (arch/x86/kernel/ebda.c), Xen for a place for its trampoline below the end of low
// memory, others for the serial port. Reference: IBM Personal System/2 and Personal
// Computer BIOS Interface Technical Reference, section 2 "Interrupts" and section 3
// "ROM BIOS data area" and "Extended BIOS data area".
const (
	bdaSerial    = 0x400 // four words: ports
	bdaEBDA      = 0x40e // word: segment
	bdaEquipment = 0x410 // word
	bdaMemory    = 0x413 // word: KiB below the EBDA

	equipment   = 1<<1 | 1<<9 // an FPU; one serial port
	lowMemory   = ebdaStart >> 10
	biosSegment = 0xf000
	biosCode    = 0xff00 // offset in it: the last 256 bytes below 1 MiB
)

// What is called in real mode by interrupt. Services answer that they do not exist, as
// BIOSes do of those that they lack: with AH 86h and CF set in the caller's flags. So a
// kernel that asks the BIOS (Xen for disks and the memory map) goes on without.
var biosRoutines = []struct {
	offset uint16
	code   []byte
}{
	{biosReturn, []byte{0xcf}},
	{biosRefuse, []byte{
		0x55,       // push bp
		0x89, 0xe5, // mov bp, sp
		0x80, 0x4e, 6, 1, // or byte ptr [bp+6], 1
		0x5d,       // pop bp
		0xb4, 0x86, // mov ah, 86h
		0xcf, // iret
	}},
	{biosEquipment, []byte{0xb8, equipment & 0xff, equipment >> 8, 0xcf}}, // mov ax, ...; iret
	{biosMemory, []byte{0xb8, lowMemory & 0xff, lowMemory >> 8, 0xcf}},
	// Where a processor begins after a reset: who jumps there wants one.
	{biosReset, []byte{
		0xba, 0xf9, 0x0c, // mov dx, 0cf9h
		0xb0, 0x06, // mov al, 6
		0xee,       // out dx, al
		0xeb, 0xfe, // jmp to itself
	}},
}

const (
	biosReturn    = biosCode
	biosRefuse    = biosCode + 0x10
	biosEquipment = biosCode + 0x20
	biosMemory    = biosCode + 0x30
	biosReset     = biosCode + 0xf0
)

// interruptVector is where a real-mode interrupt leads. Those of hardware and exceptions
// must change nothing.
func interruptVector(n int) uint16 {
	switch {
	case n == 0x11:
		return biosEquipment
	case n == 0x12:
		return biosMemory
	case n >= 0x10 && n <= 0x1a:
		return biosRefuse
	}
	return biosReturn
}

// biosData writes the interrupt vectors, the data areas and what the vectors lead to.
func (vm *VM) biosData() error {
	le := binary.LittleEndian
	var low [bdaMemory + 2]byte
	for n := range 256 {
		le.PutUint16(low[4*n:], interruptVector(n))
		le.PutUint16(low[4*n+2:], biosSegment)
	}
	le.PutUint16(low[bdaSerial:], uart.COM1)
	le.PutUint16(low[bdaEBDA:], ebdaStart>>4)
	le.PutUint16(low[bdaEquipment:], equipment)
	le.PutUint16(low[bdaMemory:], lowMemory)
	var code [0x100]byte
	for _, r := range biosRoutines {
		copy(code[r.offset-biosCode:], r.code)
	}
	const ebdaSize = (0xa0000 - ebdaStart) >> 10 // KiB, in its first byte
	for _, w := range []struct {
		at   uint64
		data []byte
	}{
		{0, low[:]},
		{ebdaStart, []byte{ebdaSize}},
		{biosSegment<<4 + biosCode, code[:]},
	} {
		if err := vm.ram.WriteAt(w.data, w.at); err != nil {
			return fmt.Errorf("BIOS data at %#x: %w", w.at, err)
		}
	}
	return nil
}
