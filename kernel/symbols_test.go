package kernel

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

func cString(a uintptr) string {
	if a == 0 {
		return ""
	}
	n := uintptr(0)
	for ld8(a+n) != 0 {
		n++
	}
	return string(unsafe.Slice((*byte)(ptr(a)), n))
}

func TestCodeIsFoundAsTheRuntimeFindsIt(t *testing.T) {
	for _, f := range []any{strings.Index, TestCodeIsFoundAsTheRuntimeFindsIt, runtime.GC, In8, (*waitQueue).wake, initialStack} {
		pc := reflect.ValueOf(f).Pointer()
		for off := uintptr(0); off < 24; off += 3 {
			want := runtime.FuncForPC(pc + off)
			got := findCode(pc + off)
			if want == nil || runtime.FuncForPC(want.Entry()).Name() != cString(got.name) {
				t.Errorf("%#x: found %q, the runtime %v", pc+off, cString(got.name), want.Name())
			}
			file, line := runtime.FuncForPC(pc).FileLine(pc)
			if p := findCode(pc); cString(p.file) != file || int(p.line) != line {
				t.Errorf("%#x: found %s:%d, the runtime %s:%d", pc, cString(p.file), p.line, file, line)
			}
		}
	}
	if p := findCode(1); p.name != 0 {
		t.Errorf("address 1 has name %q", cString(p.name))
	}
}
