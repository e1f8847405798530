package rtc

import "time"

// isTime tells whether a register counts time.
func isTime(i uint8) bool {
	switch i {
	case regSecond, regMinute, regHour, regWeekday, regDay, regMonth, regYear, Century:
		return true
	}
	return false
}

// encode is a number as register B's data mode has it.
func (r *RTC) encode(n int) uint8 {
	if r.ram[regB]&bBinary != 0 {
		return uint8(n)
	}
	return uint8(n/10<<4 | n%10)
}

func (r *RTC) decode(v uint8) int {
	if r.ram[regB]&bBinary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&15)
}

// encodeHour: in 12-hour mode bit 7 means PM, and midnight is 12.
func (r *RTC) encodeHour(h int) uint8 {
	if r.ram[regB]&b24h != 0 {
		return r.encode(h)
	}
	v := r.encode((h+11)%12 + 1)
	if h >= 12 {
		v |= 0x80
	}
	return v
}

func (r *RTC) decodeHour(v uint8) int {
	if r.ram[regB]&b24h != 0 {
		return r.decode(v)
	}
	h := r.decode(v&0x7f) % 12
	if v&0x80 != 0 {
		h += 12
	}
	return h
}

// fill puts the time into the registers.
func (r *RTC) fill() {
	t := time.Unix(r.seconds(), 0).UTC()
	y := t.Year()
	r.ram[regSecond] = r.encode(t.Second())
	r.ram[regMinute] = r.encode(t.Minute())
	r.ram[regHour] = r.encodeHour(t.Hour())
	r.ram[regWeekday] = r.encode(int(t.Weekday()) + 1)
	r.ram[regDay] = r.encode(t.Day())
	r.ram[regMonth] = r.encode(int(t.Month()))
	r.ram[regYear] = r.encode(y % 100)
	// The century byte is the firmware's, not the chip's: always BCD.
	c := y / 100
	r.ram[Century] = uint8(c/10<<4 | c%10)
}

// setTime makes the registers the time, with this fraction of a second. A date
// that there is not becomes the one it would be if months went on.
func (r *RTC) setTime(fraction int64) {
	c := int(r.ram[Century]>>4)*10 + int(r.ram[Century]&15)
	if c < 19 || c > 20 { // never set, or nonsense; also keeps nanoseconds in range
		c = 20
	}
	t := time.Date(c*100+r.decode(r.ram[regYear])%100, time.Month(r.decode(r.ram[regMonth])), r.decode(r.ram[regDay]),
		r.decodeHour(r.ram[regHour]), r.decode(r.ram[regMinute]), r.decode(r.ram[regSecond]), 0, time.UTC)
	r.offset = t.UnixNano() + fraction - r.wall()
	r.seen = r.seconds()
	r.update()
}
