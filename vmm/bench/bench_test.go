package bench

import (
	"bytes"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"godwit/vmm/loader"
)

// TestGuestsDecode reads every guest back: each byte belongs to an instruction
// that x86asm knows, and the jump leads to an instruction's start.
func TestGuestsDecode(t *testing.T) {
	for _, vendor := range []string{"svm", "vmx"} {
		for _, b := range append(tests(vendor), test{name: "empty", count: 1}) {
			img := image(b.setup, b.op, b.count)
			if k, err := loader.Detect(img); err != nil || k != loader.Multiboot {
				t.Fatalf("%s: %v, %v", b.name, k, err)
			}
			starts := map[int]bool{}
			target := -1
			for at := headSize; at < len(img); {
				starts[at] = true
				if bytes.HasPrefix(img[at:], hypercalls[vendor]) { // x86asm knows neither
					at += 3
					continue
				}
				x, err := x86asm.Decode(img[at:], 32)
				if err != nil {
					t.Fatalf("%s: at %#x (% x): %v", b.name, at, img[at:min(len(img), at+8)], err)
				}
				at += x.Len
				if x.Op == x86asm.JNE {
					target = at + int(x.Args[0].(x86asm.Rel))
				}
			}
			if !starts[target] {
				t.Errorf("%s: the loop jumps to %#x, inside an instruction", b.name, target)
			}
		}
	}
}
