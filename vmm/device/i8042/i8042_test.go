package i8042

import (
	"testing"

	"godwit/vmm/device/devicetest"
)

type board struct {
	*Controller
	key, aux devicetest.Line
	resets   int
}

func newBoard() *board {
	b := &board{}
	b.Controller = New(&b.key, &b.aux, func() { b.resets++ })
	return b
}

// answer is the byte a command or data write gives, with the status before it.
func (b *board) answer(t *testing.T, port uint16, v uint32) (out, status uint32) {
	t.Helper()
	b.Out(port, 1, v)
	status = b.In(Command, 1)
	if status&statusOutput == 0 {
		t.Fatalf("no answer to %#x on port %#x", v, port)
	}
	out = b.In(Data, 1)
	if b.In(Command, 1)&statusOutput != 0 {
		t.Error("the output buffer stays full")
	}
	return out, status
}

func TestIdleStatus(t *testing.T) {
	b := newBoard()
	// Linux waits for bit 1 to be clear before each write, and reads data while
	// bit 0 is set: neither may stick.
	if v := b.In(Command, 1); v != statusSystem|statusUnlock {
		t.Errorf("status is %#x", v)
	}
	b.Out(Command, 1, 0xd4)
	if v := b.In(Command, 1); v&3 != 0 {
		t.Errorf("status after a command is %#x", v)
	}
}

func TestSelfTestsPass(t *testing.T) {
	b := newBoard()
	for cmd, want := range map[uint32]uint32{0xaa: 0x55, 0xab: 0, 0xa9: 0, 0xd0: 3} {
		if v, _ := b.answer(t, Command, cmd); v != want {
			t.Errorf("command %#x gives %#x, want %#x", cmd, v, want)
		}
	}
}

func TestCommandByte(t *testing.T) {
	b := newBoard()
	b.Out(Command, 1, 0x60)
	b.Out(Data, 1, 0x47)
	if v, _ := b.answer(t, Command, 0x20); v != 0x47 {
		t.Errorf("command byte is %#x", v)
	}
	b.Out(Command, 1, 0xa7)
	b.Out(Command, 1, 0xad)
	if v, _ := b.answer(t, Command, 0x20); v != 0x77 {
		t.Errorf("with both ports off it is %#x", v)
	}
}

func TestAbsentDevicesTimeOut(t *testing.T) {
	b := newBoard()
	if v, st := b.answer(t, Data, 0xff); v != resend || st&(statusTimeout|statusAux) != statusTimeout {
		t.Errorf("keyboard reset gives %#x, status %#x", v, st)
	}
	b.Out(Command, 1, 0xd4)
	if v, st := b.answer(t, Data, 0xf2); v != resend || st&(statusTimeout|statusAux) != statusTimeout|statusAux {
		t.Errorf("mouse identify gives %#x, status %#x", v, st)
	}
	if v, st := b.answer(t, Command, 0x20); v != modeKeyIRQ|modeSystem || st&(statusTimeout|statusAux) != 0 {
		t.Errorf("after that the command byte is %#x, status %#x", v, st)
	}
}

func TestInterruptsFollowTheOutputBuffer(t *testing.T) {
	b := newBoard()
	b.Out(Command, 1, 0x60)
	b.Out(Data, 1, modeKeyIRQ|modeAuxIRQ)
	b.Out(Command, 1, 0xd3) // the aux loop test of Linux
	b.Out(Data, 1, 0x5a)
	if !b.aux.Level || b.key.Level {
		t.Error("not the mouse's interrupt")
	}
	if b.In(Data, 1) != 0x5a || b.aux.Level {
		t.Error("the interrupt outlasts the byte")
	}
	b.Out(Command, 1, 0xd2)
	b.Out(Data, 1, 0x5b)
	if !b.key.Level || b.In(Data, 1) != 0x5b || b.key.Level {
		t.Error("not the keyboard's interrupt")
	}
}

func TestResets(t *testing.T) {
	b := newBoard()
	b.Out(Command, 1, 0xff) // pulses nothing
	b.Out(Command, 1, 0xd1)
	b.Out(Data, 1, 0xdf) // A20 on
	if b.resets != 0 {
		t.Fatal("reset too soon")
	}
	b.Out(Command, 1, 0xfe)
	b.Out(Command, 1, 0xd1)
	b.Out(Data, 1, 0xde)
	if b.resets != 2 {
		t.Errorf("%d resets, want 2", b.resets)
	}
}

func TestStateRoundTrip(t *testing.T) {
	a, z := newBoard(), newBoard()
	a.Out(Data, 1, 0xf4)
	a.Out(Command, 1, 0xd4)
	devicetest.RoundTrip(t, a.Controller, z.Controller)
	if z.key.Edges != 0 {
		t.Error("loading made an edge")
	}
	z.Out(Data, 1, 0xf2)
	if v := z.In(Command, 1); v&statusAux == 0 {
		t.Error("the command that waited is lost")
	}
	good := devicetest.Save(a)
	devicetest.Refused(t, z, good, 0, 0x80, "command byte")
	devicetest.Refused(t, z, good, 1, 0x82, "status")
	devicetest.Refused(t, z, good, 3, 0x61, "pending command")
}
