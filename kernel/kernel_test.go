package kernel

import (
	"encoding/hex"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// TestHeapBudget: the limit never falls below the floor nor below what the heap has,
// and never takes all that is free.
func TestHeapBudget(t *testing.T) {
	for _, heap := range []uint64{0, 1 << 20, 1 << 30} {
		last := uint64(0)
		for _, free := range []uint64{0, 4096, 64 << 20, 8 << 30, 1 << 40} {
			got := heapBudget(heap, free)
			if got < heapFloor || got < heap || got < last || free > heapFloor && got >= heap+free {
				t.Errorf("heapBudget(%d, %d) = %d", heap, free, got)
			}
			last = got
		}
	}
}

// RFC 8439, 2.3.2, with the nonce's words where a 64-bit counter's high half and a
// 64-bit nonce have them.
func TestChaCha20Block(t *testing.T) {
	var key [8]uint32
	for i := range key {
		b := uint32(4 * i)
		key[i] = b | (b+1)<<8 | (b+2)<<16 | (b+3)<<24
	}
	out := chachaBlock(&key, 1|0x09000000<<32, 0x4a000000)
	want := "10f1e7e4"
	got := hex.EncodeToString([]byte{byte(out[0]), byte(out[0] >> 8), byte(out[0] >> 16), byte(out[0] >> 24)})
	if got != want || out[15] != 0x4e3c50a2 {
		t.Errorf("block begins %s and ends %#x, want %s and 0x4e3c50a2", got, out[15], want)
	}
}

func TestRandomNeverRepeatsAndForgetsItsKey(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		key := rng.key
		b := make([]byte, 16+i%50)
		random(b)
		if seen[string(b[:16])] {
			t.Fatalf("answer %d came before", i)
		}
		seen[string(b[:16])] = true
		if rng.key == key {
			t.Fatal("the key outlived an answer")
		}
	}
}

// A processor that names its crystal's rate names the TSC's. What it says of its base
// frequency is not taken for that.
func TestOnlyAnExactRateIsTakenFromTheProcessor(t *testing.T) {
	for _, c := range []struct {
		name string
		leaf map[uint32][3]uint32
		want uint64
	}{
		{"Ice Lake", map[uint32][3]uint32{0: {0x1b}, 0x15: {2, 104, 38_400_000}, 0x16: {2000, 3900, 100}}, 1_996_800_000},
		{"Skylake", map[uint32][3]uint32{0: {0x16}, 0x15: {2, 292, 0}, 0x16: {3500, 3900, 100}}, 0},
		{"Haswell", map[uint32][3]uint32{0: {0xd}}, 0},
		{"Zen", map[uint32][3]uint32{0: {0x16}}, 0},
	} {
		got := leafTSC(func(leaf, _ uint32) (a, b, c2, d uint32) {
			v := c.leaf[leaf]
			return v[0], v[1], v[2], 0
		})
		if got != c.want {
			t.Errorf("%s: %d Hz, want %d", c.name, got, c.want)
		}
	}
}

func TestPinsThatFirmwareKeepsForItself(t *testing.T) {
	for low, want := range map[uint32]bool{
		0x0200: true, 0xa200: true, redirMasked | 0x0200: true,
		0: false, redirMasked: false, 0x0030: false, 0x0400: false, 0x0700: false,
	} {
		if firmwares(low) != want {
			t.Errorf("redirection entry %#x: %v", low, !want)
		}
	}
}

func TestAGeneratorThatRepeatsItselfIsNotBelieved(t *testing.T) {
	n := uint64(0)
	for name, c := range map[string]struct {
		draw func() (uint64, bool)
		want bool
	}{
		"all ones":       {func() (uint64, bool) { return 1<<64 - 1, true }, false},
		"zero":           {func() (uint64, bool) { return 0, true }, false},
		"never ready":    {func() (uint64, bool) { n++; return n, false }, false},
		"one that works": {func() (uint64, bool) { n++; return n * 0x9e3779b97f4a7c15, n%3 != 0 }, true},
	} {
		if seedFrom(c.draw) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}

func TestUnixDays(t *testing.T) {
	for d := time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC); d.Year() < 2101; d = d.AddDate(0, 0, 13) {
		if got := unixDays(int64(d.Year()), int64(d.Month()), int64(d.Day())); got != d.Unix()/86400 {
			t.Fatalf("%s is day %d, got %d", d.Format(time.DateOnly), d.Unix()/86400, got)
		}
	}
}

func TestRealTimeClockInEveryMode(t *testing.T) {
	want := time.Date(2026, 11, 28, 0, 34, 56, 0, time.UTC)
	for _, c := range []struct {
		mode  uint8
		r     [6]uint8
		hours time.Duration
	}{
		{rtc24Hours, [6]uint8{0x56, 0x34, 0x13, 0x28, 0x11, 0x26}, 13},
		{rtc24Hours | rtcBinary, [6]uint8{56, 34, 23, 28, 11, 26}, 23},
		{0, [6]uint8{0x56, 0x34, 0x12, 0x28, 0x11, 0x26}, 0},
		{0, [6]uint8{0x56, 0x34, 0x92, 0x28, 0x11, 0x26}, 12},
		{rtcBinary, [6]uint8{56, 34, 11 | rtcPM, 28, 11, 26}, 23},
	} {
		if got, ok := rtcTime(c.r, c.mode); !ok || got != want.Add(c.hours*time.Hour).Unix() {
			t.Errorf("mode %d, %x: %s, %v", c.mode, c.r, time.Unix(got, 0).UTC(), ok)
		}
	}
	for _, r := range [][6]uint8{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {}, {0, 0, 0, 1, 0x13, 0}, {0, 0, 0x24, 1, 1, 0}} {
		if got, ok := rtcTime(r, rtc24Hours); ok || got != 0 {
			t.Errorf("%x passes for a date: %d", r, got)
		}
	}
}

func TestTimeConversionGoesBothWays(t *testing.T) {
	for _, hz := range []uint64{1_000_000, 24_000_000, 999_999_937, 2_100_000_000, 5_800_000_000} {
		setTSC(hz)
		for _, ns := range []int64{1, 1000, 1_000_000_007, 86400e9, 365 * 86400e9} {
			back := int64(mulShift32(tscAt(ns)-tscBoot, nsMult))
			if d := back - ns; d < -ns/1e6-2 || d > ns/1e6+int64(2e9/hz)+2 {
				t.Errorf("%d Hz: %d ns come back as %d", hz, ns, back)
			}
		}
	}
	tscHz, nsMult, tscMult = 0, 0, 0
}

func TestTimesTooFarForTheTSCDoNotComeAtOnce(t *testing.T) {
	defer func() { tscHz, nsMult, tscMult, tscBoot = 0, 0, 0, 0 }()
	for _, hz := range []uint64{1_000_000, 1_000_000_000, 2_000_000_000, 2_100_000_000, 4_000_000_000} {
		setTSC(hz)
		tscBoot = 1 << 40
		last := uint64(0)
		for _, ns := range []int64{0, 1, 1e9, 1e17, 1 << 62, forever - 1, forever} {
			at := tscAt(ns)
			if at < last || ns >= 1e17 && at < tscBoot+1e13 {
				t.Errorf("%d Hz: %d ns are at %#x", hz, ns, at)
			}
			last = at
		}
	}
}

func TestTimeoutsAreNeverCutOrTurnedRound(t *testing.T) {
	for _, c := range []struct {
		s, ns, want int64
		ok          bool
	}{
		{0, 0, 0, true}, {1, 999_999_999, 1_999_999_999, true}, {forever, 0, forever, true}, {forever / second, 999_999_999, forever, true},
		{-1, 0, 0, false}, {0, -1, 0, false}, {0, second, 0, false},
	} {
		ts := [2]int64{c.s, c.ns}
		if ns, ok := timespec(uintptr(unsafe.Pointer(&ts))); ns != c.want || ok != c.ok {
			t.Errorf("%d s %d ns: %d, %v", c.s, c.ns, ns, ok)
		}
	}
	for _, c := range [][3]int64{{0, 0, 1}, {5, 0, 5}, {5, 7, 12}, {5, forever, forever}, {5, forever - 5, forever}, {1 << 62, 1 << 62, forever}} {
		if got := deadline(c[0], c[1]); got != c[2] {
			t.Errorf("%d ns after %d: %d", c[1], c[0], got)
		}
	}
}

// The trampoline's operands are patched by offset.
func TestTrampolineOffsets(t *testing.T) {
	if trampoline[trampJump-2] != 0x66 || trampoline[trampJump-1] != 0xea || trampoline[trampJump+4] != selCode {
		t.Error("trampJump is not the far jump's operand")
	}
	if trampoline[trampLong] != 0x66 || trampoline[trampLong+1] != 0xb8 {
		t.Error("trampLong is not the first 64-bit instruction")
	}
	for _, o := range []int{trampStack, trampCPU, trampEntry} {
		if trampoline[o-4] != 0x48 || trampoline[o-3] != 0x8b || trampoline[o-1] != 0x25 {
			t.Errorf("%d is not a load's operand", o)
		}
	}
}

func TestEachFreeLeavesReservedSpansOut(t *testing.T) {
	save, n := reserved, nreserved
	defer func() { reserved, nreserved = save, n }()
	reserved[0], reserved[1], reserved[2] = span{0x5000, 0x7000}, span{0x1000, 0x2000}, span{0x6000, 0x9000}
	nreserved = 3
	var got []span
	eachFree(0, 0x10000, func(a, b uint64) { got = append(got, span{a, b}) })
	want := []span{{0, 0x1000}, {0x2000, 0x5000}, {0x9000, 0x10000}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestAClockThatLagsIsNoticed(t *testing.T) {
	var k tscTurns
	for _, v := range []uint64{100, 110, 110, 105, 120, 118} {
		k.note(k.last.Load(), v)
	}
	k.note(110, 119) // another CPU read 120 meanwhile
	if k.back.Load() != 5 || k.last.Load() != 120 {
		t.Errorf("%d behind %d, want 5 behind 120", k.back.Load(), k.last.Load())
	}
}

// A CPU whose TSC has not come to the time of boot yet must not be centuries ahead.
func TestTimeStandsOnACPUThatLagsBehindTheBoot(t *testing.T) {
	defer func() { tscHz, nsMult, tscMult, tscBoot = 0, 0, 0, 0 }()
	for _, hz := range []uint64{1_000_000_000, 3_000_000_000} {
		setTSC(hz)
		tscBoot = TSC() + 1<<40
		if now := Nanotime(); now != 0 {
			t.Errorf("%d Hz: it is %d ns after boot there", hz, now)
		}
	}
}

// Threads of both kinds wait all the time; turns take as long as the machine lets them.
func TestNeitherWhoComputesNorWhoWasWokenStarves(t *testing.T) {
	for _, turn := range []int64{slice / 100, slice, patience - 1, patience, 10 * patience} {
		q := runQueue{woken: threadList{head: 1, tail: 1}, spent: threadList{head: 2, tail: 2}}
		var turns, longest [2]int
		waited := [2]int{}
		for now := int64(0); turns[0]+turns[1] < 10_000; now += turn {
			who := 0
			if q.spentFirst(now) {
				who = 1
			}
			q.took(who == 1, now)
			turns[who]++
			waited[who], waited[1-who] = 0, waited[1-who]+1
			longest[1-who] = max(longest[1-who], waited[1-who])
		}
		if longest[0] > 1 || int64(longest[1]) > patience/turn+1 {
			t.Errorf("turns of %d us: %v turns, who was woken waited for %d of them, who computes for %d", turn/1000, turns, longest[0], longest[1])
		}
	}
}

func TestMedian(t *testing.T) {
	for _, v := range [][3]uint64{{1, 2, 3}, {3, 1, 2}, {2, 3, 1}, {2, 2, 9}} {
		if median(v) != 2 {
			t.Errorf("median of %v is %d", v, median(v))
		}
	}
}

func TestMostXCR0IsAValueThatXSETBVTakes(t *testing.T) {
	for _, c := range [][2]uint64{{3, 3}, {7, 7}, {0x207, 0x207}, {0xe7, 0xe7}, {0x67, 7}, {0xe3, 3}, {0x602e7, 0x2e7}, {0, 3}} {
		if got := mostXCR0(c[0]); got != c[1] {
			t.Errorf("offered %#x: %#x, want %#x", c[0], got, c[1])
		}
	}
}

func TestUnknownSystemCallsAreNotedOnce(t *testing.T) {
	defer func() { unknownCalls = [numSyscalls / 64]atomic.Uint64{} }()
	for _, n := range []uintptr{0, 435, numSyscalls - 1} {
		if !firstUnknown(n) || firstUnknown(n) {
			t.Errorf("call %d is not new once", n)
		}
	}
	if firstUnknown(1 << 40) {
		t.Error("numbers beyond the table are told apart")
	}
	if got := string(appendUint(make([]byte, 0, 20), 1<<64-1)); got != "18446744073709551615" {
		t.Error(got)
	}
}

func TestPICMaskKeepsTheCascadeForTheSlave(t *testing.T) {
	m := uint16(0xffff)
	for _, c := range []struct {
		line   uint8
		masked bool
		want   uint16
	}{{4, false, 0xffef}, {11, false, 0xf7eb}, {4, true, 0xf7fb}, {10, false, 0xf3fb}, {11, true, 0xfbfb}, {10, true, 0xffff}} {
		if m = picNewMask(m, c.line, c.masked); m != c.want {
			t.Errorf("line %d masked %v: %#x, want %#x", c.line, c.masked, m, c.want)
		}
	}
}
