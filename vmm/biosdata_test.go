package vmm

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"godwit/vmm/internal/fakecpu"
	"godwit/vmm/vcpu"
)

func TestKernelsFindWhatABIOSLeavesBehind(t *testing.T) {
	r := newRig(func(*fakecpu.VCPU, *vcpu.Exit) error { return nil })
	vm := r.vm(t, 1)
	defer vm.Delete()
	if err := vm.firmware(); err != nil {
		t.Fatal(err)
	}
	word := func(at uint64) uint64 {
		var b [2]byte
		if err := vm.ram.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		return uint64(binary.LittleEndian.Uint16(b[:]))
	}
	// As Linux' and Xen's start do it: low memory ends where the EBDA begins.
	if ebda := word(bdaEBDA) << 4; ebda != ebdaStart || word(bdaMemory)<<10 != ebda || word(ebda)&0xff<<10+ebda != 0xa0000 {
		t.Errorf("EBDA at %#x of %d KiB, %d KiB below it", ebda, word(ebda)&0xff, word(bdaMemory))
	}
	if word(bdaSerial) != 0x3f8 || word(bdaSerial+2) != 0 || word(bdaEquipment)>>9&7 != 1 {
		t.Errorf("serial ports %#x, equipment %#x", word(bdaSerial), word(bdaEquipment))
	}
	for n, want := range map[uint64]string{
		0x08: "iret", 0x0d: "iret", 0x76: "iret", 0xff: "iret",
		0x10: "push bp; mov bp, sp; or byte ptr [bp+0x6], 0x1; pop bp; mov ah, 0x86; iret",
		0x11: "mov ax, 0x202; iret",
		0x12: "mov ax, 0x27f; iret",
		0x13: "push bp; mov bp, sp; or byte ptr [bp+0x6], 0x1; pop bp; mov ah, 0x86; iret",
	} {
		if got := disassemble(t, vm, word(4*n+2)<<4+word(4*n)); got != want {
			t.Errorf("interrupt %#x leads to: %s", n, got)
		}
	}
	if got := disassemble(t, vm, 0xffff0); !strings.HasPrefix(got, "mov dx, 0xcf9; mov al, 0x6; out dx, al; jmp") {
		t.Errorf("the reset vector has: %s", got)
	}
}

// disassemble reads 16-bit code up to its end.
func disassemble(t *testing.T, vm *VM, at uint64) string {
	t.Helper()
	var b [32]byte
	if err := vm.ram.ReadAt(b[:min(32, romEnd-at)], at); err != nil {
		t.Fatal(err)
	}
	var text []string
	for code := b[:]; ; {
		in, err := x86asm.Decode(code, 16)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, strings.ToLower(x86asm.IntelSyntax(in, 0, nil)))
		if in.Op == x86asm.IRET || in.Op == x86asm.JMP {
			return strings.Join(text, "; ")
		}
		code = code[in.Len:]
	}
}
