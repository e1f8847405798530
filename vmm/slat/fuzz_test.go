package slat

import (
	"encoding/binary"
	"testing"
)

// FuzzOperations reads operations from the input. Whatever they are, nothing may
// panic, no table may leak, and Lookup must agree with the hardware's walk.
func FuzzOperations(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 6, 2, 0, 1, 0, 7, 0, 0, 0, 5, 1, 3, 0, 4, 0})
	f.Add([]byte{0x80, 0, 2, 0, 2, 0, 1, 0, 1, 0, 6, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 16 << 20
		m := &machine{smallCode: len(b)/2%2 == 0}
		format := Format(len(b) % 2)
		tt, err := New(format, m, Options{Limit: limit, Page2M: true, AD: true, SmallCode: m.smallCode})
		if err != nil {
			t.Fatal(err)
		}
		dirty := NewBitmap(limit)
		for ; len(b) >= 5; b = b[5:] {
			gpa := uint64(binary.LittleEndian.Uint16(b[1:])) * PageSize
			size := uint64(binary.LittleEndian.Uint16(b[3:])) * PageSize
			switch b[0] & 7 {
			case 0:
				tt.Map(gpa, gpa+1<<30, size, Perm(b[0]>>3&7), Kind(b[0]>>6))
			case 1:
				tt.Unmap(gpa, size)
			case 2:
				tt.StartTracking(Mode(b[0] >> 3))
			case 3:
				tt.StopTracking()
			case 4:
				tt.CollectDirty(dirty)
			case 5:
				tt.Protect(gpa, size, Perm(b[0]>>3))
			case 6:
				tt.WriteFault(gpa, int(int8(b[3])))
			case 7:
				tt.MarkDirty(gpa, size)
				tt.ExecFault(gpa)
			}
			if gpa < limit {
				m.access(t, format, tt.Root(), gpa, false, true)
			}
			l, ok := tt.Lookup(gpa)
			hpa, mapped, _ := uint64(0), false, false
			if gpa < limit {
				hpa, mapped, _ = m.access(t, format, tt.Root(), gpa, false, false)
			}
			if ok != mapped || ok && l.HPA != hpa {
				t.Fatalf("%#x: Lookup %+v, %v; hardware %#x, %v", gpa, l, ok, hpa, mapped)
			}
		}
		tt.Close()
		if m.sim.Live() != 0 {
			t.Fatalf("%d bytes leaked", m.sim.Live())
		}
	})
}
