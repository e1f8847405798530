package kernel

import "sync/atomic"

// While a CPU starts, it and the boot CPU read their TSCs by turns: all CPUs' are taken to
// be in step, and one that lags lets time step back for a thread that moves to it.
//
// There is no lock: a CPU that comes too late is stopped wherever it is (startAP), and
// would keep it.
type tscTurns struct {
	last atomic.Uint64 // the latest that was read
	back atomic.Uint64 // by how much a later reading was less, at most
}

var tscCheck tscTurns

const tscRounds = 1000 // that a starting CPU makes: less than a millisecond

func (k *tscTurns) take() {
	last := k.last.Load()
	k.note(last, TSC()) // TSC waits for the load
}

// note is told what this CPU's TSC said when last had been read.
func (k *tscTurns) note(last, now uint64) {
	if now >= last {
		k.last.CompareAndSwap(last, now) // else another CPU has read it since
		return
	}
	for b := k.back.Load(); last-now > b && !k.back.CompareAndSwap(b, last-now); b = k.back.Load() {
	}
}

// logClockStep says in the log if CPUs' TSCs are not in step.
func logClockStep() {
	back := tscCheck.back.Load()
	if back == 0 {
		return
	}
	logString("kernel: the CPUs' TSCs are not in step: one is ")
	logUint(back)
	logString(" ticks behind; time may step back\n")
}
