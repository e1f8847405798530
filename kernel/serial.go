package kernel

import (
	"io"
	"time"

	"github.com/usbarmory/tamago/soc/intel/uart"
)

// COM1 (PC16550D). TamaGo's driver moves the bytes; the line's format it leaves
// alone, and firmware may have left anything there.
var com1 = uart.UART{Index: 1, Base: 0x3f8, DTR: true, RTS: true}

const (
	lcr8N1     = 3
	lcrDLAB    = 1 << 7
	fcrEnable  = 7 // on, both FIFOs cleared
	baudDivide = 1 // 115200
)

func initSerial() {
	Out8(com1.Base+uart.IER, 0)
	Out8(com1.Base+uart.LCR, lcrDLAB)
	Out8(com1.Base, baudDivide)
	Out8(com1.Base+1, 0)
	Out8(com1.Base+uart.LCR, lcr8N1)
	Out8(com1.Base+uart.FCR, fcrEnable)
	com1.Init()
}

var logLock spinlock

// putc writes one character, waiting for the transmitter at most some milliseconds
// so that a machine without COM1 still runs.
func putc(c byte) {
	for i := 0; i < 20000 && In8(com1.Base+uart.LSR)&(1<<uart.LSR_THRE) == 0; i++ {
	}
	Out8(com1.Base+uart.THR, c)
}

func emit(c byte) {
	if c == '\n' {
		putc('\r')
	}
	putc(c)
}

// logWrite prints what the program wrote to its standard output or error.
func logWrite(b []byte) {
	logLock.lock()
	for _, c := range b {
		emit(c)
	}
	logLock.unlock()
}

// print1 prints without locks and without memory: before the runtime runs, and in
// reports of faults.
func print1(s string) {
	for i := range len(s) {
		emit(s[i])
	}
}

func printHex(v uint64, digits int) {
	for i := digits - 1; i >= 0; i-- {
		emit("0123456789abcdef"[v>>(4*uint(i))&15])
	}
}

func printUint(v uint64) {
	if v >= 10 {
		printUint(v / 10)
	}
	emit('0' + byte(v%10))
}

type serialConsole struct{}

// SerialConsole is COM1.
func SerialConsole() io.ReadWriter { return serialConsole{} }

func (serialConsole) Write(p []byte) (int, error) {
	_, err := stdout.Write(p)
	return len(p), err
}

func (serialConsole) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n := 0
		for n < len(p) && In8(com1.Base+uart.LSR)&(1<<uart.LSR_DR) != 0 {
			p[n] = In8(com1.Base + uart.RBR)
			n++
		}
		if n > 0 {
			return n, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
}
