package boot

import "testing"

func TestMultibootHeaderThatDoesNotFitItsFileIsRefused(t *testing.T) {
	good := newMultibootHeader(Base+0x4000, Base+0x6000, Base+0x200)
	file := func(change func(*MultibootHeader)) []byte {
		h := good
		change(&h)
		h.Checksum = -(h.Magic + h.Flags)
		b := make([]byte, 0x4000)
		h.put(b[headerAddr-Base:])
		return b
	}
	if _, err := ParseMultiboot(file(func(*MultibootHeader) {})); err != nil {
		t.Fatalf("good header refused: %v", err)
	}
	for name, change := range map[string]func(*MultibootHeader){
		"another magic":            func(h *MultibootHeader) { h.Magic++ },
		"no address fields":        func(h *MultibootHeader) { h.Flags = 3 },
		"header elsewhere":         func(h *MultibootHeader) { h.Header += 4 },
		"load above header":        func(h *MultibootHeader) { h.Load = h.Header + 4 },
		"load end beyond the file": func(h *MultibootHeader) { h.LoadEnd++ },
		"load end before load":     func(h *MultibootHeader) { h.LoadEnd = h.Load - 1 },
		"bss end before load end":  func(h *MultibootHeader) { h.BSSEnd = h.LoadEnd - 1 },
		"entry below":              func(h *MultibootHeader) { h.Entry = h.Load - 1 },
		"entry above":              func(h *MultibootHeader) { h.Entry = h.LoadEnd },
	} {
		if h, err := ParseMultiboot(file(change)); err == nil {
			t.Errorf("%s: accepted %+x", name, h)
		}
	}
	b := file(func(*MultibootHeader) {})
	b[headerAddr-Base+8]++
	if _, err := ParseMultiboot(b); err != errNoMultiboot {
		t.Errorf("wrong checksum: got %v", err)
	}
}

func FuzzParseMultiboot(f *testing.F) {
	b := make([]byte, 0x400)
	newMultibootHeader(Base+0x400, Base+0x500, Base+0x200).put(b[0x100:])
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		h, err := ParseMultiboot(file)
		if err == nil && (h.Entry < h.Load || h.Entry >= h.LoadEnd || int(h.LoadEnd-h.Load) > len(file)) {
			t.Errorf("accepted %+x for %d bytes", h, len(file))
		}
	})
}
