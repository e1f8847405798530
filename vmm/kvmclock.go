package vmm

import (
	"encoding/binary"
)

// The clock that a Linux guest takes its time from: a page of memory that turns
// the time-stamp counter into nanoseconds (Linux, Documentation/virt/kvm/x86/
// msr.rst, MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).
//
// All processors of a machine share one time base, taken when the machine is
// resumed, and their counters stand still while it is paused. So time never goes
// back, neither between processors nor when the machine moves to a host whose
// counter runs at another rate.
const (
	clockEnable    = 1 << 0
	clockStable    = 1 << 0 // of flags: all processors' clocks agree
	clockInfoSize  = 32     // struct pvclock_vcpu_time_info
	wallInfoSize   = 12     // struct pvclock_wall_clock
	clockAlignment = 4
)

// timeBase is a moment: the machine's counter and the machine's clock at it.
type timeBase struct {
	tsc uint64
	ns  int64
}

// enableClock is a write of MSR_KVM_SYSTEM_TIME_NEW.
func (c *cpu) enableClock(v uint64) bool {
	if v&clockEnable == 0 {
		c.systemTime = v
		return true
	}
	gpa := v &^ clockEnable
	if gpa%clockAlignment != 0 || !c.vm.ram.each(gpa, clockInfoSize, func([]byte) {}) {
		return false
	}
	c.systemTime = v
	c.publishClock()
	return true
}

// publishClock writes the guest's clock page. The processor is not in the guest.
func (c *cpu) publishClock() {
	if c.systemTime&clockEnable == 0 {
		return
	}
	gpa := c.systemTime &^ clockEnable
	b := c.clockPage[:]
	le := binary.LittleEndian
	// Even: not being changed. Other processors may be reading (Linux's vDSO takes CPU
	// 0's page on all), but what changes while they run is one field, written whole.
	c.clockVersion += 2
	le.PutUint32(b[0:], c.clockVersion)
	le.PutUint64(b[8:], c.vm.base.tsc+c.tscOffset)
	le.PutUint64(b[16:], uint64(c.vm.base.ns))
	le.PutUint32(b[24:], c.vm.pace.Load().scale.mul)
	b[28] = uint8(c.vm.pace.Load().scale.shift)
	b[29] = clockStable
	if err := c.vm.ram.WriteAt(b, gpa); err != nil {
		c.systemTime = 0 // cannot be: enableClock has looked, and RAM stays
	}
}

// writeWallClock is a write of MSR_KVM_WALL_CLOCK_NEW: the time of day at which
// the machine's clock stood at zero.
func (c *cpu) writeWallClock(gpa uint64) bool {
	if gpa%clockAlignment != 0 {
		return false
	}
	boot := c.vm.host.WallClock().UnixNano() - c.vm.clock.Now()
	var b [wallInfoSize]byte
	le := binary.LittleEndian
	version := c.vm.wall.Add(2)
	le.PutUint32(b[0:], version)
	le.PutUint32(b[4:], uint32(boot/nsPerSecond))
	le.PutUint32(b[8:], uint32(boot%nsPerSecond))
	if c.vm.ram.WriteAt(b[:], gpa) != nil {
		return false
	}
	c.wallClock = gpa
	return true
}

// setTSC makes the guest's counter v now.
func (c *cpu) setTSC(v uint64) {
	c.tscOffset = v - c.vm.counter()
	c.v.SetTSCOffset(c.tscOffset)
	c.publishClock()
}
