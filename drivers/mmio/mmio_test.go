package mmio

import "testing"

func TestAccessesHaveTheirSizeAndPlace(t *testing.T) {
	w := Window(make([]byte, 16))
	w.Write32(4, 0x11223344)
	w.Write8(0, 0xaa)
	w.Write16(2, 0xbbcc)
	w.Write64(8, 0x0102030405060708)
	if v := w.Read64(0); v != 0x11223344_bbcc_00aa {
		t.Errorf("Read64(0) = %#x", v)
	}
	if v := w.Read32(8); v != 0x05060708 {
		t.Errorf("Read32(8) = %#x", v)
	}
	if v := w.Read16(14); v != 0x0102 {
		t.Errorf("Read16(14) = %#x", v)
	}
	if v := w.Read8(5); v != 0x33 {
		t.Errorf("Read8(5) = %#x", v)
	}
}

func TestBadAccessPanics(t *testing.T) {
	w := Window(make([]byte, 16))
	for name, f := range map[string]func(){
		"outside":   func() { w.Read32(16) },
		"straddles": func() { w.Write64(16-8+8, 0) },
		"unaligned": func() { w.Read32(2) },
		"wraps":     func() { w.Read32(^uint64(3)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
