package rtc

import (
	"fmt"
	"time"

	"godwit/vmm/state"
)

// maxOffset is more than a guest can set its clock off the host's, and leaves room
// for sums in 64 bits of nanoseconds.
const maxOffset = 200 * 366 * 24 * int64(time.Hour)

// StateName implements state.Device.
func (r *RTC) StateName() string { return "rtc" }

// StateVersion implements state.Device.
func (r *RTC) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (r *RTC) SaveState(w *state.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.U8(r.index)
	w.Bool(r.nmi)
	w.Blob(r.ram[:])
	w.I64(r.offset)
	w.I64(r.seen)
	w.Bool(r.asserts)
}

// LoadState implements state.Device. The Clock has been loaded before. The time
// goes on with the new host's wall clock.
func (r *RTC) LoadState(_ uint16, rd *state.Reader) error {
	index := rd.U8()
	nmi := rd.Bool()
	ram := rd.Blob(len(r.ram))
	offset, seen := rd.I64(), rd.I64()
	asserts := rd.Bool()
	switch {
	case index > 0x7f:
		rd.Fail(fmt.Errorf("index %#x", index))
	case rd.Err() == nil && len(ram) != len(r.ram):
		rd.Fail(fmt.Errorf("%d bytes of CMOS memory, not %d", len(ram), len(r.ram)))
	case rd.Err() == nil && (ram[regA]&aUIP != 0 || ram[regC]&0x0f != 0 || ram[regD] != dValid):
		rd.Fail(fmt.Errorf("registers A, C, D are %#x, %#x, %#x", ram[regA], ram[regC], ram[regD]))
	case offset < -maxOffset || offset > maxOffset:
		rd.Fail(fmt.Errorf("the time is %v off", time.Duration(offset)))
	}
	if rd.Err() != nil {
		return rd.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index, r.nmi, r.offset, r.seen, r.asserts = index, nmi, offset, seen, asserts
	copy(r.ram[:], ram)
	r.ticks = r.periodicTicks(r.clock.Now())
	// Only timers: the line is as it was, and an interrupt that fell due while
	// the machine moved comes with the first tick.
	if r.ram[regB]&(bAIE|bUIE|bPIE) != 0 {
		r.updates.Arm(r.clock.Now())
	}
	return nil
}
