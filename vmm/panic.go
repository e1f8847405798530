package vmm

// panicWatch stands between the serial port and the console ring and notices when
// the guest's kernel says that it panicked. (The pvpanic port tells it too, but needs a
// driver, which Debian's kernel has as a module only: too late for a kernel that can
// not mount its disk.)
type panicWatch struct {
	vm *VM
	at int // how much of panicMark has been seen; guarded by the port's lock
}

// panicMark is what Linux writes (kernel/panic.c), FreeBSD's and Xen's differ.
const panicMark = "Kernel panic - not syncing"

// WriteByte implements io.ByteWriter for the serial port.
func (w *panicWatch) WriteByte(b byte) error {
	switch {
	case b == panicMark[w.at]:
		if w.at++; w.at == len(panicMark) {
			w.at = 0
			w.vm.panicked(false)
		}
	case b == panicMark[0]:
		w.at = 1
	default:
		w.at = 0
	}
	return w.vm.ring.WriteByte(b)
}

// panicked tells the operator once, whoever learns of it first. It may be called with
// a device's lock held.
func (vm *VM) panicked(crashKernel bool) {
	vm.health.panicked.CompareAndSwap(0, max(1, vm.clock.Now()))
	switch {
	case crashKernel && vm.first(tellCrashKernel):
		go vm.event("the guest's kernel panicked, and its crash kernel takes over")
	case !crashKernel && vm.first(tellPanic):
		go vm.event("the guest's kernel panicked: its console says why (vm console %s)", vm.cfg.Name)
	}
}
