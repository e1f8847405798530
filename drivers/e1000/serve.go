package e1000

import (
	"time"

	"godwit/vnet/nic"
)

const (
	// intIdle are the causes that are always enabled; see arm for the other.
	intIdle = intLSC | intRXDMT0 | intRXO | intRXT0

	// moderation is the least time between interrupts, in units of 256 ns,
	// 8254x 13.4.18: 50 us.
	moderation = 195

	tick = time.Second
	// hangTicks is how long frames may lie unsent, with the link up, before the
	// device is reset.
	hangTicks = 5

	// lostTicks is for how many seconds in a row frames may come and no interrupt, before
	// the device is looked at every lostPoll instead. A pin may be wired otherwise than
	// firmware says without its AML.
	lostTicks = 3
	lostPoll  = time.Millisecond
)

// serve is the device's goroutine.
//
// ICR is read, and thereby cleared, before the rings are looked at: what comes
// later interrupts again. Reading it also takes the level off a shared line, so
// Ack can follow at once.
func (d *Device) serve() {
	defer close(d.done)
	d.handler.LinkChanged(d.Link())
	next := time.Now().Add(tick)
	var last time.Time // when the rings were looked at
	more := false      // frames may wait whose interrupt has been taken
	for !d.closing.Load() {
		wait := time.Until(next)
		polls := d.lost >= lostTicks
		switch {
		case more:
			wait = 0
		case polls:
			wait = min(wait, lostPoll)
		}
		came := d.cfg.Interrupt.Wait(wait)
		if came || more || polls {
			begin := time.Now()
			if came {
				if polls {
					d.logf("its interrupts come again")
				}
				d.lost = 0
				causes := d.regs.Read32(regICR)
				d.cfg.Interrupt.Ack()
				d.counters.interrupts.Add(1)
				if causes&intLSC != 0 {
					d.updateLink(false)
				}
			}
			var frames int
			frames, more = d.receive()
			if d.transmitted() {
				d.handler.TransmitReady()
			}
			if frames > 0 {
				d.cfg.Sleep(rest(frames, time.Since(begin), begin.Sub(last)))
			}
			last = begin
		}
		if !time.Now().Before(next) {
			next = time.Now().Add(tick)
			d.watch()
		}
	}
}

const (
	// restShare: the service goroutine takes at most a seventeenth of a CPU.
	restShare = 16
	// restLimit is the longest that a frame may wait for others.
	restLimit = 8 * time.Millisecond
)

// rest is how long to leave the rings alone after a look at them that found
// frames, took so long, and came so long after the one before. What a look costs,
// and the stack's work that follows it (wake-ups, an acknowledgement for a run of
// segments), hardly depends on how many frames it finds. So on a machine on which
// that is much, frames are left to gather: a fixed moderation of interrupts is
// right for one speed of machine only. While they gather not more than a quarter of
// the ring may fill, at the rate they came with.
func rest(frames int, took, since time.Duration) time.Duration {
	d := min(took*restShare, restLimit)
	return min(d, since/time.Duration(frames)*(rxRing/4))
}

// watch runs once a second: it looks for what an interrupt should have told, and
// for a transmitter that hangs.
func (d *Device) watch() {
	if d.regs.Read32(regSTATUS) == statusAbsent {
		return // gone; nothing in it can be trusted
	}
	d.updateLink(false)
	frames, _ := d.receive() // what it leaves the next interrupt or tick finds
	d.noteLost(frames)
	if d.transmitted() {
		d.handler.TransmitReady()
	}
	d.readStatistics()
	t := &d.tx
	t.mu.Lock()
	hung := false
	if t.paused {
		hung = true // the last attempt to reset it failed
	} else if t.used > 0 && d.Link().Up {
		t.stalled++
		hung = t.stalled >= hangTicks
	} else {
		t.stalled = 0
	}
	t.mu.Unlock()
	if hung {
		d.recover()
	}
}

// noteLost is told once a second how many frames were found without an interrupt.
func (d *Device) noteLost(frames int) {
	n := d.counters.interrupts.Load()
	switch {
	case n != d.lostSince:
		d.lost = 0
	case frames > 0 && d.lost < lostTicks:
		if d.lost++; d.lost == lostTicks {
			d.logf("frames come and its interrupt does not: it is looked at every %v instead; a card with MSI needs no line that firmware routes", lostPoll)
		}
	}
	d.lostSince = n
}

// recover resets a device that does not send any more.
func (d *Device) recover() {
	d.counters.resets.Add(1)
	d.logf("nothing sent for %v with frames waiting: resetting the device", hangTicks*tick)
	t := &d.tx
	t.mu.Lock()
	t.paused = true
	t.mu.Unlock()
	err := d.stop()
	t.mu.Lock()
	t.dropAll()
	t.mu.Unlock()
	if err != nil {
		d.logf("%v", err) // the next tick tries again
		return
	}
	d.initialize()
	d.updateLink(false)
	d.handler.TransmitReady()
}

// updateLink reads the link's state, 8254x 13.4.2, and tells of a change.
func (d *Device) updateLink(quiet bool) {
	s := d.regs.Read32(regSTATUS)
	var l nic.Link
	if s&statusLU != 0 && s != statusAbsent {
		l = nic.Link{Up: true, Mbps: [4]int{10, 100, 1000, 1000}[s&statusSpeed>>6], FullDuplex: s&statusFD != 0}
	}
	if l == *d.link.Load() {
		return
	}
	d.link.Store(&l)
	if !quiet {
		d.handler.LinkChanged(l)
	}
}
