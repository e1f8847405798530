package kernel

// Names for code addresses, read from the runtime's own table (runtime/symtab.go:
// pcHeader, functab, _func). runtime.FuncForPC allocates for inlined calls, which a
// report from a handler must not; this reads, and nothing else.

// pcHeader's fields.
const (
	pclnMagic      = 0xfffffff1 // Go 1.20 and later
	hdrFuncs       = 8
	hdrNameOffset  = 32
	hdrCUOffset    = 40
	hdrFileOffset  = 48
	hdrPCOffset    = 56
	hdrFuncsOffset = 64
)

// _func's fields.
const (
	funcName     = 4
	funcPCFile   = 20
	funcPCLine   = 24
	funcCUOffset = 32
)

// A codePlace is where an address lies. name and file are addresses of strings that
// end in a zero byte, 0 if unknown.
type codePlace struct {
	name, file uintptr
	line       int32
}

// findCode looks an address of code up.
func findCode(pc uintptr) (p codePlace) {
	text := imageText()
	if pc < text || pc >= imageEtext() {
		return
	}
	hdr := pclnTable()
	if ld32(hdr) != pclnMagic {
		return
	}
	off := uint32(pc - text)
	table := hdr + uintptr(ld64(hdr+hdrFuncsOffset)) // pairs of entry and function offset
	lo, hi := uintptr(0), uintptr(ld64(hdr+hdrFuncs))
	for lo < hi { // the first function that begins above off
		if mid := (lo + hi) / 2; ld32(table+8*mid) <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return
	}
	entry := ld32(table + 8*(lo-1))
	f := table + uintptr(ld32(table+8*(lo-1)+4))
	p.name = hdr + uintptr(ld64(hdr+hdrNameOffset)) + uintptr(ld32(f+funcName))
	tab := hdr + uintptr(ld64(hdr+hdrPCOffset))
	if o := ld32(f + funcPCLine); o != 0 {
		p.line = pcValue(tab+uintptr(o), off-entry)
	}
	if o := ld32(f + funcPCFile); o != 0 {
		n := pcValue(tab+uintptr(o), off-entry)
		if n >= 0 {
			cu := hdr + uintptr(ld64(hdr+hdrCUOffset)) + 4*(uintptr(ld32(f+funcCUOffset))+uintptr(n))
			if at := ld32(cu); at != 1<<32-1 {
				p.file = hdr + uintptr(ld64(hdr+hdrFileOffset)) + uintptr(at)
			}
		}
	}
	return
}

// pcValue decodes a table of pairs (value difference, zigzag; length in bytes of
// code) up to the one that covers off.
func pcValue(tab uintptr, off uint32) int32 {
	v, pc := int32(-1), uint32(0)
	for first := true; ; first = false {
		d, n := uvarint(tab)
		if d == 0 && !first {
			return -1
		}
		tab += n
		v += int32(-(d & 1) ^ d>>1)
		d, n = uvarint(tab)
		tab += n
		if pc += d; pc > off {
			return v
		}
	}
}

func uvarint(a uintptr) (v uint32, n uintptr) {
	for shift := uint(0); ; shift += 7 {
		b := ld8(a + n)
		n++
		v |= uint32(b&0x7f) << (shift & 31)
		if b&0x80 == 0 || n == 5 {
			return
		}
	}
}

// printString prints a string that ends in a zero byte.
func printString(a uintptr) {
	for i := uintptr(0); i < 512; i++ {
		c := ld8(a + i)
		if c == 0 {
			return
		}
		emit(c)
	}
}
