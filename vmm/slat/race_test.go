package slat

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// Four processors write while rounds of collection go on, as in a migration. A
// shadow of what each page holds plays the target: after a last collection with
// the processors stopped it must equal memory.
func TestNoWriteIsLost(t *testing.T) {
	for mode := WriteFaults; mode <= DirtyBits; mode++ {
		for _, f := range []Format{EPT, NPT} {
			m, tt := tracked(t, f, mode)
			const pages = 4096
			memory := make([]atomic.Uint64, pages)
			var stop atomic.Bool
			// A processor holds an access (lock for reading) from its check
			// until its write, as real ones do until their TLB is flushed;
			// taking the lock is Sync.
			var inGuest sync.RWMutex
			var wg sync.WaitGroup
			for cpu := range uint64(4) {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(cpu, 7))
					for n := 0; !stop.Load() || n < 2000; n++ {
						gfn := rnd.Uint64N(pages)
						if rnd.IntN(2) == 0 {
							gfn %= 64 // a hot spot, for collisions
						}
						inGuest.RLock()
						_, _, ok := m.access(t, f, tt.Root(), gfn*PageSize, true, false)
						if ok {
							memory[gfn].Add(1)
						}
						inGuest.RUnlock()
						if !ok {
							if what, _ := tt.WriteFault(gfn*PageSize, 1<<rnd.IntN(7)); what != Opened && what != Raced {
								t.Errorf("write fault: %d", what)
								return
							}
						}
					}
				})
			}
			copied := make([]uint64, pages)
			b := NewBitmap(tt.Limit())
			round := func() {
				clear(b)
				tt.CollectDirty(b)
				inGuest.Lock() // Sync
				inGuest.Unlock()
				for gfn, ok := b.Next(0); ok; gfn, ok = b.Next(gfn + 1) {
					copied[gfn] = memory[gfn].Load()
				}
			}
			for range 200 {
				round()
			}
			stop.Store(true)
			wg.Wait()
			round()
			for gfn := range copied {
				if copied[gfn] != memory[gfn].Load() {
					t.Fatalf("mode %d: gfn %#x: target %d, source %d", mode, gfn, copied[gfn], memory[gfn].Load())
				}
			}
		}
	}
}

// Structure changes under the feet of faulting processors.
func TestFaultsDuringMapAndTrackingChanges(t *testing.T) {
	m, tt := tracked(t, NPT, Off)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for cpu := range uint64(3) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(cpu, 9))
			for !stop.Load() {
				gpa := rnd.Uint64N(64 << 20)
				if _, _, ok := m.access(t, NPT, tt.Root(), gpa, true, false); !ok {
					tt.WriteFault(gpa, 8)
				}
				tt.Lookup(gpa)
			}
		})
	}
	rnd := rand.New(rand.NewPCG(3, 9))
	for i := range 300 {
		gpa := rnd.Uint64N(32) << 21
		switch i % 6 {
		case 0:
			tt.StartTracking(Mode(1 + rnd.IntN(3)))
		case 1:
			tt.Unmap(gpa+PageSize, PageSize)
		case 2:
			tt.Map(gpa, 8<<30+gpa, 2<<20, PermRWX, WriteBack)
		case 3:
			tt.CollectDirty(NewBitmap(tt.Limit()))
		case 4:
			tt.Protect(gpa, 3*PageSize, PermRX)
		case 5:
			tt.StopTracking()
		}
	}
	stop.Store(true)
	wg.Wait()
	tt.StopTracking()
	if err := tt.Map(0, 8<<30, 64<<20, PermRWX, WriteBack); err != nil {
		t.Fatal(err)
	}
	for gpa := uint64(0); gpa < 64<<20; gpa += PageSize {
		if l, ok := tt.Lookup(gpa); !ok || l.HPA != 8<<30+gpa || !l.Writable {
			t.Fatalf("%#x: %+v, %v", gpa, l, ok)
		}
	}
	tt.Close()
	if m.sim.Live() != 0 {
		t.Errorf("%d bytes leaked", m.sim.Live())
	}
}
