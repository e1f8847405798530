package selftest

var parts = []part{
	{name: "crypto", start: startCrypto},
	{name: "float", start: startFloat},
	{name: "vector", start: startVector},
	{name: "registers", start: startRegisters},
	{name: "maps", start: startMaps},
	{name: "gc", start: startGC, note: noteGC},
	{name: "channels", start: startChannels},
	{name: "timers", start: startTimers, note: noteLate},
	{name: "preempt", start: startPreempt, single: true},
	{name: "faults", start: startFaults},
	{name: "memory", start: startMemory},
	{name: "calls", start: startCalls, single: true},
	{name: "unmap", start: startUnmap, single: true},
	{name: "threads", start: startThreads, single: true},
	{name: "random", start: startRandom, single: true},
	{name: "pinned", start: startPinned, single: true, bare: true},
	{name: "kicks", start: startKicks, single: true, bare: true},
	{name: "ringzero", start: startRingZero, bare: true},
	{name: "timer", start: startTimer, single: true, bare: true, note: noteLate},
	{name: "frames", start: startFrames, bare: true},
}

// repeat makes a round of a function that must always give the same.
func repeat(f func() string) func() string {
	want := f()
	return func() string {
		if got := f(); got != want {
			return "got " + got + ", want " + want
		}
		return ""
	}
}
