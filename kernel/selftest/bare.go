package selftest

import (
	"fmt"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"godwit/kernel"
)

// startPinned runs code on every CPU and asks it where it is.
func startPinned(_ int, _ *shared) func() string {
	return func() (why string) {
		var mu sync.Mutex
		seen := 0
		kernel.OnEachCPU(func(cpu int) {
			a := kernel.ThisCPU()
			x := spin(20_000)
			b := kernel.ThisCPU()
			mu.Lock()
			defer mu.Unlock()
			seen++
			if a != cpu || b != cpu {
				why = fmt.Sprintf("pinned to CPU %d but on %d, then %d", cpu, a, b)
			}
			if x != spin(20_000) {
				why = "a loop's result changed"
			}
		})
		if seen != kernel.NumCPU() {
			return fmt.Sprintf("%d of %d CPUs answered", seen, kernel.NumCPU())
		}
		return why
	}
}

// startKicks sends interrupts to all CPUs from all CPUs.
func startKicks(_ int, _ *shared) func() string {
	return func() string {
		kernel.OnEachCPU(func(int) {
			for range 20 {
				for c := range kernel.NumCPU() {
					kernel.KickCPU(c)
				}
			}
		})
		return ""
	}
}

// ringArgs is startRingZero's argument: only plain numbers, as Privileged demands.
type ringArgs struct {
	flags    uint64
	cpu0     int
	cpu1     int
	sum      uint64
	backward bool
}

func inRingZero(arg unsafe.Pointer) {
	a := (*ringArgs)(arg)
	a.flags = flags()
	a.cpu0 = kernel.ThisCPU()
	t := kernel.Nanotime()
	for i := range uint64(500) {
		a.sum += i * i
	}
	a.backward = kernel.Nanotime() < t
	a.cpu1 = kernel.ThisCPU()
}

// startRingZero checks what Privileged promises.
func startRingZero(_ int, _ *shared) func() string {
	return func() string {
		for range 50 {
			var a ringArgs
			kernel.Privileged(inRingZero, unsafe.Pointer(&a))
			switch {
			case a.flags&(1<<9) != 0:
				return "interrupts are on inside Privileged"
			case a.cpu0 != a.cpu1:
				return fmt.Sprintf("moved from CPU %d to %d inside Privileged", a.cpu0, a.cpu1)
			case a.sum != 499*500*999/6:
				return fmt.Sprintf("computed %d inside Privileged", a.sum)
			case a.backward:
				return "time went backwards inside Privileged"
			}
		}
		if flags()&(1<<9) == 0 {
			return "interrupts are off after Privileged"
		}
		// Whether this faults is the machine's affair (emulators answer 0).
		if v, _ := kernel.ReadMSRSafe(0x12345678); v != 0 {
			return fmt.Sprintf("an MSR that cannot exist reads %#x", v)
		}
		return ""
	}
}

// startTimer checks that SetTimer's interrupt comes: as a guest would, a thread
// waits with interrupts off until the local APIC has it pending.
func startTimer(_ int, s *shared) func() string {
	i := 0
	return func() (why string) {
		i++
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		kernel.Pin(i % kernel.NumCPU())
		defer kernel.Pin(-1)
		var a timerWait
		a.limit = kernel.TSCFrequency() * 2
		a.delta = kernel.TSCFrequency() / 1000000 * uint64(50+i%300)
		kernel.Privileged(waitTimer, unsafe.Pointer(&a))
		if !a.fired {
			return fmt.Sprintf("no timer interrupt within 2 s of %d us", 50+i%300)
		}
		late := int64(a.late) * 1_000_000 / int64(kernel.TSCFrequency()) * 1000
		s.maximum(late)
		s.sum.Add(max(late, 0))
		return ""
	}
}

type timerWait struct {
	delta, limit uint64
	late         int64
	fired        bool
}

func waitTimer(arg unsafe.Pointer) {
	a := (*timerWait)(arg)
	begin := kernel.TSC()
	kernel.SetTimer(begin+a.delta, 0)
	for kernel.TSC()-begin < a.limit {
		if kernel.InterruptPending() {
			a.fired = true
			a.late = max(0, int64(kernel.TSC()-begin-a.delta))
			break
		}
	}
	kernel.SetTimer(0, 0)
}

// startFrames takes physical memory in all sizes and checks that nobody else has it.
func startFrames(w int, _ *shared) func() string {
	sizes := []uint64{4 << 10, 12 << 10, 64 << 10, 2 << 20, 4 << 10, 1 << 20, 20 << 10}
	type block struct {
		phys uint64
		data []byte
		mark byte
	}
	var held []block
	i := 0
	check := func(b block) string {
		for k := 0; k < len(b.data); k += 4096 {
			if b.data[k] != b.mark || b.data[k+4095] != b.mark {
				return fmt.Sprintf("memory at %#x was changed by another", b.phys+uint64(k))
			}
		}
		return ""
	}
	return func() string {
		i++
		for n := range 4 {
			size := sizes[(i*5+n+w)%len(sizes)]
			phys, data, err := kernel.AllocPhys(size, size&-size)
			if err != nil {
				return err.Error()
			}
			if phys%(size&-size) != 0 {
				return fmt.Sprintf("%#x is not aligned to %#x", phys, size&-size)
			}
			if kernel.PhysOf(unsafe.Pointer(&data[0])) != phys {
				return "PhysOf does not undo AllocPhys"
			}
			b := block{phys, data, byte(i)*8 + byte(w) | 1}
			for k := 0; k < len(data); k += 4096 {
				if data[k] != 0 || data[k+4095] != 0 {
					return fmt.Sprintf("new memory at %#x is not zero", phys+uint64(k))
				}
				data[k], data[k+4095] = b.mark, b.mark
			}
			held = append(held, b)
		}
		time.Sleep(0)
		for _, b := range held {
			if why := check(b); why != "" {
				return why
			}
			kernel.FreePhys(b.phys, uint64(len(b.data)))
		}
		held = held[:0]
		return ""
	}
}
