package conformance

import (
	"context"
	"encoding/hex"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// Instructions that x86asm does not know, by their bytes: SDM vol. 2, APM vol. 3.
var unknown = map[string]string{
	"0f01c1": "vmcall", "0f01d9": "vmmcall", "0f01d8": "vmrun", "0f01da": "vmload", "0f01db": "vmsave",
	"0f01dc": "stgi", "0f01dd": "clgi", "0f01df": "invlpga", "0f37": "getsec",
	"f30fc733": "vmxon [rbx]", "0fc733": "vmptrld [rbx]", "660f388003": "invept rax, [rbx]",
	"c4e27d1803": "vbroadcastss ymm0, [rbx]", "c5fc1103": "vmovups [rbx], ymm0",
}

// listings finds every guest in the source, so that none is forgotten here.
func listings(t *testing.T) map[string]guest {
	f, err := parser.ParseFile(token.NewFileSet(), "guests.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]guest{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		c := v.Values[0].(*ast.CompositeLit)
		bits, _ := strconv.Atoi(c.Elts[0].(*ast.BasicLit).Value)
		text, err := strconv.Unquote(c.Elts[1].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		all[v.Names[0].Name] = guest{bits, text}
		return true
	})
	return all
}

func TestAnEndedContextStopsTheSuite(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if s := Run(ctx, nil, nil, "", func(r Result) { t.Errorf("%s ran", r.Name) }); s != (Summary{}) {
		t.Error(s)
	}
}

func TestGuestsDecodeAsTheirListingsSay(t *testing.T) {
	all := listings(t)
	if len(all) < 40 {
		t.Fatalf("only %d guests found", len(all))
	}
	for name, g := range all {
		for line := range strings.Lines(g.listing) {
			code, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			text = strings.TrimSpace(text)
			if code == "" {
				continue
			}
			b, err := hex.DecodeString(code)
			if err != nil {
				t.Errorf("%s: %q: %v", name, line, err)
				continue
			}
			if raw, ok := strings.CutPrefix(text, "raw "); ok {
				if unknown[code] != raw {
					t.Errorf("%s: %s is %q, not %q", name, code, unknown[code], raw)
				}
				continue
			}
			in, err := x86asm.Decode(b, g.bits)
			if err != nil || in.Len != len(b) {
				t.Errorf("%s: %s: %v, %d bytes", name, code, err, in.Len)
				continue
			}
			if got := x86asm.IntelSyntax(in, 0, nil); got != text {
				t.Errorf("%s: %s decodes to %q, not %q", name, code, got, text)
			}
		}
	}
}

// Guests for every mode must mean the same in 16, 32 and 64 bits.
func TestNeutralGuestsDecodeAlikeInEveryMode(t *testing.T) {
	for name, g := range map[string]guest{
		"CPUID": gCPUID, "MSR": gMSR, "HLT": gHLT, "WBINVD": gWBINVD, "UD2": gUD2, "INT3": gINT3, "INT80": gINT80,
		"Nops": gNops, "Spin": gSpin, "STI": gSTI, "STIHLT": gSTIHLT, "Divide": gDivide,
	} {
		for b := g.bytes(); len(b) > 0; {
			var op [3]string
			var n [3]int
			for i, bits := range []int{16, 32, 64} {
				in, err := x86asm.Decode(b, bits)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				op[i], n[i] = in.Op.String(), in.Len
			}
			if op[0] != op[1] || op[1] != op[2] || n[0] != n[1] || n[1] != n[2] {
				t.Errorf("%s: %v, %v bytes in 16, 32, 64 bits", name, op, n)
			}
			b = b[n[0]:]
		}
	}
}

func TestTestsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, x := range tests() {
		if x.name == "" || x.run == nil || seen[x.name] {
			t.Errorf("%q", x.name)
		}
		seen[x.name] = true
	}
}
