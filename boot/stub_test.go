package boot

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// disassemble decodes code in 32-bit mode up to the far jump and in 64-bit mode up to the jump through EAX, with an
// assembler that is not ours.
func disassemble(t *testing.T, code []byte) string {
	t.Helper()
	var b strings.Builder
	mode := 32
	for pc := 0; pc < len(code); {
		in, err := x86asm.Decode(code[pc:], mode)
		if err != nil {
			t.Fatalf("offset %#x, mode %d, % x: %v", pc, mode, code[pc:min(len(code), pc+8)], err)
		}
		fmt.Fprintf(&b, "%s\n", strings.ToLower(x86asm.IntelSyntax(in, uint64(stubAddress+pc), nil)))
		pc += in.Len
		switch {
		case in.Op == x86asm.LJMP:
			mode = 64
		case in.Op == x86asm.JMP && mode == 64:
			return b.String()
		}
	}
	t.Fatal("the stub never jumps to the program")
	return ""
}

func TestStubTakesTheStepsToLongModeInOrder(t *testing.T) {
	st, err := assembleStub(testEntry)
	if err != nil {
		t.Fatal(err)
	}
	listing := disassemble(t, st.code)
	at := 0
	for _, step := range []string{
		"cli",
		"mov esi, 0x336ec578",      // the PVH entry
		"mov edi, ebx",             // the loader's information, before CPUID overwrites EBX
		"rdtsc",                    //
		"[0x1000f8], eax",          // TSCAddress
		"[0x1000fc], edx",          //
		"cpuid",                    // is there long mode?
		"test edx, 0x20000000",     //
		"mov eax, 0x620",           // PAE OSFXSR OSXMMEXCPT
		"mov cr4, eax",             //
		"mov eax, 0x101000",        // the page tables
		"mov cr3, eax",             //
		"mov ecx, 0xc0000080",      // EFER, after PAE and before paging
		"wrmsr",                    //
		"mov eax, 0x80000023",      // PG NE MP PE
		"mov cr0, eax",             //
		"lgdt",                     //
		"jmp far",                  // into the 64-bit segment
		"mov ds, ax",               //
		"mov ss, ax",               //
		"mov edi, edi",             // clears the upper halves
		"mov esi, esi",             //
		"mov eax, 0x111040\njmp r", // the program
	} {
		i := strings.Index(listing[at:], step)
		if i < 0 {
			t.Fatalf("no %q after offset %d of\n%s", step, at, listing)
		}
		at += i
	}
}

func TestAssemblerReportsBadJumps(t *testing.T) {
	a := &assembler{labels: map[string]uint32{}}
	a.jmp("nowhere")
	if _, err := a.finish(); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("undefined label: %v", err)
	}
	a = &assembler{labels: map[string]uint32{}}
	a.jmp("far")
	a.code = append(a.code, make([]byte, 128)...)
	a.label("far")
	if _, err := a.finish(); err == nil || !strings.Contains(err.Error(), "too far") {
		t.Errorf("jump over 128 bytes: %v", err)
	}
}
