package slat

import "testing"

func smallCode(t *testing.T, f Format, mode Mode) (*machine, *Tables) {
	t.Helper()
	m := &machine{smallCode: true}
	tt, err := New(f, m, Options{Limit: 4 << 30, Page2M: true, Page1G: true, AD: true, SmallCode: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := tt.Map(0, 8<<30, 2<<30, PermRWX, WriteBack); err != nil {
		t.Fatal(err)
	}
	if mode != Off {
		if err := tt.StartTracking(mode); err != nil {
			t.Fatal(err)
		}
	}
	return m, tt
}

// Only the 2 MiB around the code lose their large page, and whatever reads or writes
// there needs no further fault.
func TestCodeBreaksItsLargePageOnly(t *testing.T) {
	for _, f := range []Format{EPT, NPT} {
		m, tt := smallCode(t, f, Off)
		const code = 1<<30 + 5<<20 + 0x1000
		if _, mapped, ok := m.access(t, f, tt.Root(), code, false, true); !mapped || ok {
			t.Fatalf("mapped %v, executable %v", mapped, ok)
		}
		gen := tt.Generation()
		if again, err := tt.ExecFault(code); !again || err != nil {
			t.Fatal(again, err)
		}
		if tt.Generation() != gen {
			t.Error("nothing was taken away, and all translations are dropped")
		}
		if hpa, _, ok := m.access(t, f, tt.Root(), code, false, true); !ok || hpa != 8<<30+code {
			t.Errorf("executable %v, at %#x", ok, hpa)
		}
		for gpa, want := range map[uint64]uint64{code: PageSize, code - 0x1000: PageSize, 1<<30 + 4<<20: PageSize, 1<<30 + 6<<20: 2 << 20, 5 << 20: 1 << 30} {
			l, ok := tt.Lookup(gpa)
			if !ok || l.Size != want || l.Perm != PermRWX || !l.Writable || l.Code != (want == PageSize) {
				t.Errorf("%s: %#x: %+v", formats[f].name, gpa, l)
			}
		}
		if again, err := tt.ExecFault(code); !again || err != nil {
			t.Errorf("a second processor's fault: %v, %v", again, err)
		}
	}
}

func TestExecFaultElsewhere(t *testing.T) {
	m, tt := smallCode(t, EPT, Off)
	if err := tt.Protect(0, 2<<20, PermRW); err != nil {
		t.Fatal(err)
	}
	for _, gpa := range []uint64{0, 3 << 30, 4 << 30, ^uint64(0)} {
		if again, err := tt.ExecFault(gpa); again || err != nil {
			t.Errorf("%#x: %v, %v", gpa, again, err)
		}
	}
	m.fail = true
	if again, err := tt.ExecFault(1 << 30); again || err == nil {
		t.Errorf("without memory for a table: %v, %v", again, err)
	}
	if l, _ := tt.Lookup(1 << 30); l.Code {
		t.Error("without memory for a table the large page is executable")
	}
}

// Code that is written while writes are tracked is found in every mode, whichever of
// the two faults comes first.
func TestTrackingSeesWritesToCode(t *testing.T) {
	for mode := WriteFaults; mode < numModes; mode++ {
		m, tt := smallCode(t, EPT, mode)
		write := func(gpa uint64) {
			for range 3 {
				if _, _, ok := m.access(t, EPT, tt.Root(), gpa, true, false); ok {
					if mode == PageLog {
						tt.Log([]uint64{gpa})
					}
					return
				}
				tt.WriteFault(gpa, 1)
			}
			t.Fatalf("mode %d: no write to %#x", mode, gpa)
		}
		fetch := func(gpa uint64) {
			if again, err := tt.ExecFault(gpa); !again || err != nil {
				t.Fatal(again, err)
			}
		}
		fetch(0x1000)
		write(0x1000)
		write(4 << 20)
		fetch(4 << 20)
		write(4<<20 + 0x1000)
		got := NewBitmap(tt.Limit())
		tt.CollectDirty(got)
		for _, gpa := range []uint64{0x1000, 4 << 20, 4<<20 + 0x1000} {
			if !got.Test(gpa / PageSize) {
				t.Errorf("mode %d: the write to %#x is lost", mode, gpa)
			}
		}
		tt.StopTracking()
		if l, _ := tt.Lookup(0x1000); l.Size != 1<<30 || l.Code {
			t.Errorf("mode %d: after tracking: %+v", mode, l)
		}
	}
}
