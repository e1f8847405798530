package vmm

import (
	"sync/atomic"

	"godwit/vmm/device/vclock"
	"godwit/vmm/vcpu"
)

// maxRun bounds how long a processor runs without an exit, so that a hang is noticed.
const maxRun = 2 * nsPerSecond

// hangAfter is how long an interrupt may wait, or all processors spin with interrupts
// off, before the operator is told.
const hangAfter = 10 * nsPerSecond

// checkHang tells of a processor that an interrupt waits for.
func (c *cpu) checkHang() {
	if c.windowSince == 0 || c.hangs.Load() != 0 {
		return
	}
	if d := c.vm.clock.Now() - c.windowSince; d > hangAfter {
		c.hangs.Store(c.windowSince)
		c.vm.event("CPU %d has not taken an interrupt for %d s: it hangs with interrupts off near RIP %#x; `vm nmi %s` makes many guests say where", c.index, d/nsPerSecond, c.regs.RIP, c.vm.cfg.Name)
	}
}

// takes: no interrupt waits for the processor any more, or it can take the one that does.
func (c *cpu) takes() {
	c.windowSince = 0
	if at := c.hangs.Load(); at != 0 {
		c.hangs.Store(0)
		c.vm.event("CPU %d hangs no more: it had not taken an interrupt for %d s", c.index, (c.vm.clock.Now()-at)/nsPerSecond)
	}
}

// A watch looks every maxRun whether a processor does anything but spin with interrupts
// off. Only since is for others to read.
type watch struct {
	next  int64        // when to look, in the machine's time
	alive bool         // something has happened since the last look
	since atomic.Int64 // spinning since; 0: not; negative: sleeping since, and nothing but NMI and INIT ends that
}

func (w *watch) begin(now int64) {
	w.next, w.alive = now+maxRun, true
	w.since.Store(0)
}

// exit counts as life, but for those that a spinning guest has, too.
func (w *watch) exit(r vcpu.Reason) {
	switch r {
	case vcpu.ExitHost, vcpu.ExitKicked, vcpu.ExitDeadline, vcpu.ExitPause:
	default:
		w.alive = true
	}
}

// rest: the processor is about to sleep; wakes says that an interrupt can end that.
func (w *watch) rest(wakes bool, clock *vclock.Clock) {
	w.alive = true
	if wakes {
		w.since.Store(0)
	} else if w.since.Load() >= 0 {
		w.since.Store(-max(1, clock.Now()))
	}
}

// patrol makes the look when it is time.
func (c *cpu) patrol() {
	w := &c.watch
	now := c.vm.clock.Now()
	if now < w.next {
		return
	}
	w.next = now + maxRun
	switch {
	case w.alive || c.regs.RFLAGS&flagIF != 0:
		w.since.Store(0)
		c.vm.hangsNoMore()
	case w.since.Load() <= 0:
		w.since.Store(now)
	case now-w.since.Load() >= hangAfter:
		c.vm.allHang(now)
	}
	w.alive = false
}

// allHang tells if every processor spins with interrupts off, or sleeps for good. (One
// alone may do so rightly, for as long as no interrupt waits for it.)
func (vm *VM) allHang(now int64) {
	for _, c := range vm.cpus {
		if s := c.watch.since.Load(); s == 0 || s > 0 && now-s < hangAfter {
			return
		}
	}
	if !vm.health.hung.Swap(true) && toldOf(vm.health.times.Add(1)) {
		vm.event("it hangs: for %d s no processor has done anything but spin with interrupts off; `vm nmi %s` makes many guests say where", int64(hangAfter/nsPerSecond), vm.cfg.Name)
	}
}
