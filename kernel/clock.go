package kernel

import "math/bits"

// Time is counted by the TSC, which every CPU this kernel meets keeps running at
// one rate and in step (clockstep.go looks).
var (
	tscHz   uint64
	tscBoot uint64 // TSC at Nanotime 0: as the boot stub's first instruction found it
	nsMult  uint64 // nanoseconds per TSC tick, times 2^32
	tscMult uint64 // TSC ticks per nanosecond, times 2^32
	wallAt0 int64  // Unix time in ns at Nanotime 0
)

// mulShift32 is a*b/2^32.
func mulShift32(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi<<32 | lo>>32
}

// Nanotime is monotonic time in nanoseconds since the image's first instruction. It may be called inside
// Privileged.
//
// Where CPUs are not in step (clockstep.go) one may lag behind the time of boot itself. There time stands until it has
// caught up: the difference, taken for a time, would be centuries ahead, and who slept until then would not wake.
func Nanotime() int64 {
	since := TSC() - tscBoot
	if int64(since) < 0 {
		return 0
	}
	return int64(mulShift32(since, nsMult))
}

// tscAt is the TSC's value at a Nanotime, rounded up. For a time that the TSC can not
// tell it is the latest that the timer can.
func tscAt(ns int64) uint64 {
	hi, lo := bits.Mul64(uint64(ns), tscMult)
	at := tscBoot + (hi<<32 | lo>>32) + 1
	if hi>>32 != 0 || at < tscBoot {
		return 1<<64 - 1
	}
	return at
}

// TSCFrequency is the TSC's rate in Hz, as exactly as is known by now.
func TSCFrequency() uint64 {
	if hz := refine.hz.Load(); hz != 0 {
		return hz
	}
	return tscHz
}

// setTSC makes hz the TSC's rate.
func setTSC(hz uint64) {
	tscHz = hz
	nsMult, _ = bits.Div64(1e9>>32, 1e9<<32&(1<<64-1), hz)
	tscMult, _ = bits.Div64(hz>>32, hz<<32, 1e9)
}

// delay spins. Only for start-up.
func delay(us uint64) {
	for end := TSC() + tscHz/1_000_000*us; TSC() < end; {
		pause()
	}
}

// The MC146818's registers.
const (
	rtcSeconds = 0
	rtcMinutes = 2
	rtcHours   = 4
	rtcDay     = 7
	rtcMonth   = 8
	rtcYear    = 9
	rtcA       = 0xa
	rtcB       = 0xb

	rtcUpdating = 1 << 7 // in A
	rtcBinary   = 1 << 2 // in B
	rtc24Hours  = 1 << 1
	rtcPM       = 1 << 7 // in the hours
)

func cmos(reg uint8) uint8 {
	Out8(0x70, reg)
	return In8(0x71)
}

// readRTC returns the Unix time in ns, 0 if the clock holds no date. TamaGo's rtc
// package assumes BCD, 24 hours and a century register, and may read across an update,
// so this is our own.
func readRTC() int64 {
	var a, b [6]uint8
	regs := [6]uint8{rtcSeconds, rtcMinutes, rtcHours, rtcDay, rtcMonth, rtcYear}
	for tries := 0; tries < 1000; tries++ { // until two readings agree
		for i := 0; cmos(rtcA)&rtcUpdating != 0 && i < 10000; i++ {
		}
		for i, r := range regs {
			a[i] = cmos(r)
		}
		if a == b {
			break
		}
		b = a
	}
	t, ok := rtcTime(a, cmos(rtcB))
	if !ok {
		print1("kernel: the real-time clock holds no date: the wall clock begins in 1970\n")
	}
	return t * 1e9
}

// rtcTime is the Unix time that the registers tell: seconds, minutes, hours, day,
// month, year of the century, in the mode that register B says.
func rtcTime(r [6]uint8, mode uint8) (unix int64, ok bool) {
	num := func(v uint8) int64 {
		if mode&rtcBinary == 0 {
			v = v>>4*10 + v&0xf
		}
		return int64(v)
	}
	hour := num(r[2])
	if mode&rtc24Hours == 0 {
		hour = num(r[2]&^rtcPM) % 12
		if r[2]&rtcPM != 0 {
			hour += 12
		}
	}
	sec, minute, day, month, year := num(r[0]), num(r[1]), num(r[3]), num(r[4]), num(r[5])
	if sec > 59 || minute > 59 || hour > 23 || day < 1 || day > 31 || month < 1 || month > 12 || year > 99 {
		return 0, false
	}
	return unixDays(2000+year, month, day)*86400 + hour*3600 + minute*60 + sec, true
}

// unixDays is the number of days from 1970-01-01 to a Gregorian date.
func unixDays(y, m, d int64) int64 {
	if m <= 2 { // count the year from March, so that the leap day is its last
		y--
		m += 12
	}
	return 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + d - 1 - 719468
}
