package uart

import (
	"fmt"

	"godwit/vmm/state"
)

// StateName implements state.Device.
func (u *UART) StateName() string { return u.name }

// StateVersion implements state.Device.
func (u *UART) StateVersion() uint16 { return 1 }

// SaveState implements state.Device.
func (u *UART) SaveState(w *state.Writer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, v := range []uint8{u.ier, u.fcr, u.lcr, u.mcr, u.lsr, u.msr, u.scr} {
		w.U8(v)
	}
	w.U16(u.divisor)
	w.Bool(u.thre)
	w.Bool(u.asserts)
	fifo := make([]byte, u.count)
	for i := range fifo {
		fifo[i] = u.fifo[(int(u.head)+i)%fifoSize]
	}
	w.Blob(fifo)
	w.Blob(u.input)
}

// LoadState implements state.Device.
func (u *UART) LoadState(_ uint16, r *state.Reader) error {
	var s UART
	for _, v := range []*uint8{&s.ier, &s.fcr, &s.lcr, &s.mcr, &s.lsr, &s.msr, &s.scr} {
		*v = r.U8()
	}
	s.divisor = r.U16()
	s.thre = r.Bool()
	s.asserts = r.Bool()
	fifo := r.Blob(fifoSize)
	input := r.Blob(inputSize)
	for _, c := range []struct {
		what string
		bad  bool
		v    uint8
	}{
		{"IER", s.ier&^ierAll != 0, s.ier},
		{"FCR", s.fcr&^fcrKept != 0 || s.fcr != 0 && s.fcr&fcrEnable == 0, s.fcr},
		{"MCR", s.mcr&^mcrWritable != 0, s.mcr},
		{"LSR", s.lsr&^lsrLatched != 0, s.lsr},
		{"receiver FIFO's length", len(fifo) > int(s.capacity()), uint8(len(fifo))},
	} {
		if c.bad {
			r.Fail(fmt.Errorf("%s is %#x", c.what, c.v))
		}
	}
	if r.Err() != nil {
		return r.Err()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ier, u.fcr, u.lcr, u.mcr, u.lsr, u.msr, u.scr = s.ier, s.fcr, s.lcr, s.mcr, s.lsr, s.msr, s.scr
	u.divisor, u.thre, u.asserts, u.bursts = s.divisor, s.thre, s.asserts, 0
	u.head, u.count = 0, uint8(copy(u.fifo[:], fifo))
	u.input = append(u.input[:0], input...)
	return nil
}
