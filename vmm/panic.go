package vmm

// panicWatch stands between the serial port and the console ring and notices when
// the guest's kernel says that it panicked. (The pvpanic device that QEMU has for
// this needs a driver, which Debian's kernel has as a module only: too late for a
// kernel that can not mount its disk.)
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
			if w.vm.first(tellPanic) {
				go w.vm.event("the guest's kernel panicked: its console says why (vm console %s)", w.vm.cfg.Name)
			}
		}
	case b == panicMark[0]:
		w.at = 1
	default:
		w.at = 0
	}
	return w.vm.ring.WriteByte(b)
}
