package vmm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"godwit/vmm/loader"
	"godwit/vmm/vcpu"
)

// A Status is where a machine is in its life.
//
//	        Start                 Pause
//	Stopped -------> Running <-------------> Paused
//	   ^               | | |      Resume       |
//	   |  power-off,   | | | the guest's fault |
//	   +---- Stop -----+ | +------> Crashed    |
//	   |                 |             |       |
//	   +---------------- | <--- Stop --+-------+
//	                     v Reset: Running again
//
// A machine that another host sends is Arriving from its first byte to its last: it is the migration's alone, which
// leads it to Running or, if it fails, to Deleted.
// One that came from another host left its files there. When it boots anew it is Booting until they are here (files.go),
// from where it becomes Running, or Crashed without them, or Stopped by Stop.
// A guest whose configuration says so is reset after a crash, perhaps after a pause: see crash.go.
// Delete leads from any but Running to Deleted, where nothing leads on.
type Status uint32

const (
	Stopped Status = iota // never started, or powered off
	Running
	Paused
	Crashed
	Deleted
	Arriving // being filled by a migration
	Booting  // the files it boots from are being fetched
	numStatus
)

var statusNames = [numStatus]string{"stopped", "running", "paused", "crashed", "deleted", "arriving", "booting"}

func (s Status) String() string {
	if s < numStatus {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// transitions are all there are, as bits of the Statuses that follow one.
var transitions = [numStatus]uint32{
	Stopped:  1<<Running | 1<<Paused | 1<<Deleted, // Paused: loaded with a saved state
	Running:  1<<Stopped | 1<<Paused | 1<<Crashed | 1<<Booting,
	Paused:   1<<Running | 1<<Stopped | 1<<Crashed | 1<<Booting | 1<<Deleted,
	Crashed:  1<<Stopped | 1<<Running | 1<<Booting | 1<<Deleted, // Running: reset
	Booting:  1<<Running | 1<<Stopped | 1<<Crashed,
	Arriving: 1<<Running | 1<<Deleted,
}

// Status is where the machine is now.
func (vm *VM) Status() Status { return Status(vm.status.Load()) }

// become makes a transition. ctl is held. An impossible one is our own mistake: it
// is told, and the machine stays as it is.
func (vm *VM) become(s Status) error {
	old := vm.Status()
	if transitions[old]>>s&1 == 0 {
		err := fmt.Errorf("vm %s: it can not become %v: it is %v", vm.cfg.Name, s, old)
		vm.event("internal error: %v", err)
		return err
	}
	vm.status.Store(uint32(s))
	return nil
}

// What a guest asks for: VM.asked.
const (
	askNothing = iota
	askPowerOff
	askReset
	askCrash
)

// ask notes what the guest wants and stops its processors; settle does it. It is
// called from a processor's goroutine or a device's, with locks held.
func (vm *VM) ask(what uint32) {
	if !vm.asked.CompareAndSwap(askNothing, what) {
		return // the first request counts
	}
	for _, c := range vm.cpus {
		c.notify(reqStop)
	}
	go vm.settle()
}

func (vm *VM) powerOff() { vm.ask(askPowerOff) }
func (vm *VM) reset()    { vm.ask(askReset) }

// crash stops the machine for a fault of its guest's; c's processor found it.
func (vm *VM) crash(c *cpu, err error) {
	if vm.asked.Load() == askNothing {
		vm.event("stopped by CPU %d: %v", c.index, err)
		vm.event("CPU %d then: %s", c.index, c.describe())
	}
	vm.ask(askCrash)
}

// describe is the processor's registers in a line.
func (c *cpu) describe() string {
	var b strings.Builder
	r := c.regs
	fmt.Fprintf(&b, "RIP %#x RFLAGS %#x CR0 %#x CR2 %#x CR3 %#x CR4 %#x EFER %#x CS %#x SS %#x;", r.RIP, r.RFLAGS,
		c.v.Get(vcpu.CR0), c.v.Get(vcpu.CR2), c.v.Get(vcpu.CR3), c.v.Get(vcpu.CR4), c.v.Get(vcpu.EFER),
		c.v.Segment(vcpu.CS).Selector, c.v.Segment(vcpu.SS).Selector)
	for i, n := range [16]string{"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"} {
		fmt.Fprintf(&b, " %s %#x", n, r.GPR[i])
	}
	return b.String()
}

// settle does what the guest asked for.
func (vm *VM) settle() {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if vm.Status() == Running && vm.asked.Load() != askNothing {
		vm.halt()
		vm.settleLocked()
	}
}

// settleLocked does it once no processor runs. ctl is held; the status is Running.
func (vm *VM) settleLocked() {
	switch vm.asked.Swap(askNothing) {
	case askPowerOff:
		vm.become(Stopped)
		vm.event("the guest powered off after %v", vm.uptime())
	case askReset:
		vm.guestReset()
	case askCrash:
		vm.crashed()
	}
}

// uptime is how long the guest has run since it booted; pauses do not count.
func (vm *VM) uptime() time.Duration {
	return time.Duration(max(0, vm.clock.Now()-vm.restart.bootedAt.Load())).Round(time.Millisecond)
}

// reboot starts from the beginning what was halted, once its files are here.
func (vm *VM) reboot() {
	if vm.files.Kernel == nil && vm.host.File != nil {
		vm.fetchAndBoot()
		return
	}
	if err := vm.boot(); err != nil {
		if vm.Status() != Crashed {
			vm.become(Crashed)
		}
		vm.event("it can not boot: %v", err)
		return
	}
	if vm.Status() != Running {
		vm.become(Running)
	}
	vm.run()
}

// boot puts the machine into the state in which its kernel starts.
func (vm *VM) boot() error {
	if vm.files.Kernel == nil {
		return errNoFiles
	}
	if err := vm.firmware(); err != nil {
		return err
	}
	var s vcpu.State
	if _, err := loader.Load(vm.ram, vm.files.image(&vm.cfg), &s); err != nil {
		return err
	}
	if !vm.restart.untold {
		vm.events.mu.Lock()
		clear(vm.events.told)
		vm.events.mu.Unlock()
		vm.health.times.Store(0)
	}
	vm.booted()
	vm.health.panicked.Store(0)
	vm.health.hung.Store(false)
	if err := vm.setTSC(vm.host.TSCHz); err != nil { // the guest will measure it
		return err
	}
	vm.stoppedAt = vm.counter()
	for _, c := range vm.cpus {
		if c.index > 0 {
			s.Reset(false)
		}
		c.activity = s.Activity
		if err := c.v.Load(&s); err != nil {
			return fmt.Errorf("CPU %d: %w", c.index, err)
		}
		c.msrs.reset()
		c.systemTime, c.wallClock = 0, 0
		c.tscOffset = -vm.stoppedAt // the guest's counter begins at zero
		c.windowSince = 0
		c.hangs.Store(0)
		c.watch.since.Store(0)
	}
	return nil
}

// run lets the processors go on. ctl is held, none runs, asked is nothing.
func (vm *VM) run() {
	stood := vm.clock.Now()
	vm.clock.Resume()
	vm.offset, _ = vm.clock.Offset()
	// When the clock went on, so must the guest's counters; and not a rounding later, lest they be behind the
	// time base when the guest reads them.
	now := min(vm.countAt(stood), vm.counter())
	vm.base = timeBase{tsc: now, ns: vm.pace.Load().scale.ns(now) + vm.offset}
	for _, c := range vm.cpus {
		c.tscOffset += vm.stoppedAt - now // the time it stood still did not pass
		c.v.SetTSCOffset(c.tscOffset)
		c.publishClock()
		c.window = 0
		c.v.WantInterrupt(0)
		c.req.Store(0)
		c.mode.Store(modeOut)
	}
	vm.loops.Add(len(vm.cpus))
	for _, c := range vm.cpus {
		go c.loop()
	}
}

// halt makes all processors leave the guest and time stand still. ctl is held.
func (vm *VM) halt() {
	for _, c := range vm.cpus {
		c.notify(reqStop)
	}
	vm.loops.Wait()
	vm.clock.Pause()
	// The guest's counters stop at the very moment at which the clock did. Whatever passes between two looks at the
	// host's counter would set them apart, and a guest that compares them (Linux's clock source watchdog does) gives
	// up its TSC.
	vm.stoppedAt = vm.countAt(vm.clock.Now())
}

// atRest calls f while no processor runs, and lets those go on that did. ctl is
// held.
func (vm *VM) atRest(f func()) {
	if vm.Status() != Running {
		f()
		return
	}
	vm.halt()
	f()
	if vm.asked.Load() != askNothing {
		vm.settleLocked()
	} else {
		vm.run()
	}
}

// busy is why an operator's command is refused while a migration has the machine.
func (vm *VM) busy() error {
	n := vm.cfg.Name
	switch {
	case vm.taken:
		return fmt.Errorf("vm %s is being moved to another host: `migrate cancel %s` keeps it here; if it is in doubt, `migrate list` says what to do", n, n)
	case vm.Status() == Arriving:
		return fmt.Errorf("vm %s is arriving from another host, where its guest still runs: `migrate cancel %s` ends that", n, n)
	}
	return nil
}

func (vm *VM) wrong(verb, next string) error {
	return fmt.Errorf("vm %s is %v and can not be %s: %s", vm.cfg.Name, vm.Status(), verb, next)
}

// Start boots a stopped machine, or lets a paused one go on. Where its files are not here
// it gets them first; FetchFiles before it can be interrupted, and tells how far it is.
func (vm *VM) Start() error {
	if vm.Status() == Stopped {
		if err := vm.FetchFiles(context.Background(), vm.host.File); err != nil {
			return err
		}
	}
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	switch vm.Status() {
	case Paused:
		vm.become(Running)
		vm.run()
		return nil
	case Stopped:
	case Booting:
		return vm.fetches("started")
	case Crashed:
		return vm.wrong("started", "`vm reset "+vm.cfg.Name+"` boots it again")
	default:
		return vm.wrong("started", "only a stopped or paused one can")
	}
	vm.dontRestart()
	if err := vm.boot(); err != nil {
		return fmt.Errorf("vm %s: %w", vm.cfg.Name, err)
	}
	vm.started = vm.host.WallClock()
	vm.become(Running)
	vm.run()
	return nil
}

// Pause stops time for the machine.
func (vm *VM) Pause() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	return vm.pause()
}

func (vm *VM) pause() error {
	if vm.Status() != Running {
		return vm.wrong("paused", "only a running machine can")
	}
	vm.halt()
	// A request must not outlive the pause: whoever goes on with the machine, here or
	// on another host, would not know of it.
	for vm.asked.Load() != askNothing {
		vm.settleLocked()
		if vm.Status() != Running {
			return vm.wrong("paused", "its guest has just ended")
		}
		vm.halt()
	}
	return vm.become(Paused)
}

// Resume undoes Pause.
func (vm *VM) Resume() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	if vm.Status() != Paused {
		return vm.wrong("resumed", "only a paused machine can")
	}
	vm.become(Running)
	vm.run()
	return nil
}

// Stop presses the power button and waits for the guest to power off; when ctx's
// time is over first it is switched off, but when ctx is cancelled it is left running:
// whoever waited has lost patience, not the machine. An ended ctx switches it off at once.
func (vm *VM) Stop(ctx context.Context) error {
	vm.ctl.Lock()
	err := vm.busy()
	vm.ctl.Unlock()
	if err != nil {
		return err // and not after the guest has been told to shut down
	}
	if ctx.Err() == nil && vm.Status() == Running {
		vm.pm.PressPower()
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for vm.Status() == Running && ctx.Err() == nil {
			select {
			case <-t.C:
			case <-ctx.Done():
			}
		}
		if vm.Status() == Running && errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("vm %s runs on, though its power button was pressed (vm stop %s force switches it off): %w", vm.cfg.Name, vm.cfg.Name, ctx.Err())
		}
	}
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	vm.dontRestart()
	switch vm.Status() {
	case Stopped:
		return nil
	case Running:
		vm.halt()
		if vm.asked.Swap(askNothing) != askPowerOff {
			vm.event("switched off by the operator after %v", vm.uptime())
		}
	case Booting:
		vm.dontFetch()
	case Deleted:
		return vm.wrong("stopped", "it is gone from this host")
	}
	return vm.become(Stopped)
}

// Reset is the reset button: the machine boots again.
func (vm *VM) Reset() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	switch vm.Status() {
	case Running:
		vm.halt()
		vm.asked.Store(askNothing)
	case Crashed, Paused:
	case Booting:
		return vm.fetches("reset")
	default:
		return vm.wrong("reset", "`vm start "+vm.cfg.Name+"` starts it")
	}
	vm.dontRestart()
	vm.event("reset by the operator")
	vm.reboot()
	if s := vm.Status(); s != Running && s != Booting {
		return fmt.Errorf("vm %s did not boot again: its events say why (vm show %s)", vm.cfg.Name, vm.cfg.Name)
	}
	return nil
}

// Delete ends a machine that does not run and frees all it has.
func (vm *VM) Delete() error {
	vm.ctl.Lock()
	defer vm.ctl.Unlock()
	if err := vm.busy(); err != nil {
		return err
	}
	return vm.delete()
}

func (vm *VM) delete() error {
	switch vm.Status() {
	case Running, Booting:
		return vm.wrong("deleted", "`vm stop "+vm.cfg.Name+"` first")
	case Deleted:
		return vm.wrong("deleted", "it is gone already")
	}
	vm.dontRestart()
	vm.become(Deleted)
	return vm.free()
}
