package vmx

import (
	"fmt"
	"sync/atomic"
)

// A word is the state of a VCPU that others look at: Kick and Space.Sync.
//
//	from       to         by
//	out        outKicked  Kick
//	out        in         Run, entering; on CPU word>>8
//	outKicked  out        Run, which returns ExitKicked
//	in         inKicked   Kick, which then sends that CPU an interrupt
//	in         out        Run, leaving
//	inKicked   outKicked  Run, leaving
//	out, outKicked  closed  Close
//
// Between entering and leaving interrupts are off outside the guest, so one that
// Kick sends after it saw "in" is still pending at VM entry and ends the guest's
// run at once.
type word struct{ v atomic.Uint64 }

const (
	out uint64 = iota
	outKicked
	in
	inKicked
	closed

	stateMask = 0xff
	cpuShift  = 8
)

func badWord(op string, w uint64) {
	panic(fmt.Sprintf("vmx: %s of a VCPU in state %d on CPU %d", op, w&stateMask, w>>cpuShift))
}

// kick returns the CPU to interrupt, if one must be.
func (w *word) kick() (cpu int, send bool) {
	for {
		v := w.v.Load()
		switch v & stateMask {
		case out:
			if w.v.CompareAndSwap(v, outKicked) {
				return 0, false
			}
		case in:
			if w.v.CompareAndSwap(v, v&^stateMask|inKicked) {
				return int(v >> cpuShift), true
			}
		case outKicked, inKicked, closed:
			return 0, false
		default:
			badWord("Kick", v)
		}
	}
}

// enter fails if a kick has come. It runs inside privileged.
func (w *word) enter(cpu int) bool { return w.v.CompareAndSwap(out, uint64(cpu)<<cpuShift|in) }

// leave runs inside privileged.
func (w *word) leave() {
	for {
		v := w.v.Load()
		n := out
		if v&stateMask == inKicked {
			n = outKicked
		}
		if w.v.CompareAndSwap(v, n) {
			return
		}
	}
}

// takeKick consumes a kick between runs.
func (w *word) takeKick() bool { return w.v.CompareAndSwap(outKicked, out) }

// inside tells whether the VCPU is in, and where.
func (w *word) inside() (cpu int, running bool) {
	v := w.v.Load()
	return int(v >> cpuShift), v&stateMask == in || v&stateMask == inKicked
}

func (w *word) close() {
	for {
		v := w.v.Load()
		switch v & stateMask {
		case out, outKicked:
			if w.v.CompareAndSwap(v, closed) {
				return
			}
		default:
			badWord("Close", v)
		}
	}
}
