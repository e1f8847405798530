package kernel

// While a CPU starts, it and the boot CPU read their TSCs by turns: all CPUs' are taken to
// be in step, and one that lags lets time step back for a thread that moves to it.
type tscTurns struct {
	mu   spinlock
	last uint64 // what was read last
	back uint64 // by how much a later reading was less, at most
}

var tscCheck tscTurns

const tscRounds = 1000 // that a starting CPU makes: less than a millisecond

func (k *tscTurns) take() {
	k.mu.lock()
	k.note(TSC())
	k.mu.unlock()
}

func (k *tscTurns) note(now uint64) {
	if now < k.last {
		k.back = max(k.back, k.last-now)
	} else {
		k.last = now
	}
}

// logClockStep says in the log if CPUs' TSCs are not in step.
func logClockStep() {
	if tscCheck.back == 0 {
		return
	}
	logString("kernel: the CPUs' TSCs are not in step: one is ")
	logUint(tscCheck.back)
	logString(" ticks behind; time may step back\n")
}
