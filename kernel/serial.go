package kernel

import "github.com/usbarmory/tamago/soc/intel/uart"

// COM1 (PC16550D). TamaGo's driver names the registers and raises the modem lines;
// the line's format it leaves alone, and firmware may have left anything there. Its
// Tx is not used: without a UART it would wait for ever.
var com1 = uart.UART{Index: 1, Base: 0x3f8, DTR: true, RTS: true}

// Tests put a UART of their own here.
var comIn, comOut = In8, Out8

const (
	lcr8N1     = 3
	lcrDLAB    = 1 << 7
	fcrEnable  = 7 // on, both FIFOs cleared
	baudDivide = 1 // 115200

	iir      = 2 // interrupt identification, on reading
	iirNone  = 1
	iirFIFOs = 0xc0 // both set: there are FIFOs, and they are on
	ierData  = 1 << 0
	ierEmpty = 1 << 1
	lsrIdle  = 1 << 6

	irqCOM1 = 4
)

// txBurst is how many bytes an empty transmitter takes: 16 with FIFOs, 1 in an 8250 or
// 16450, which has none (PC16550D, 8.4 and 8.5).
var txBurst = 16

// early is what had been typed when the kernel began: switching the FIFOs on empties
// them, and the bytes behind the one that waited would make another line without it.
var early struct {
	n int
	b [256]byte
}

// earlyLooks is how often the next byte is looked for behind one that waited: some ten
// milliseconds. An emulator hands over what was typed byte by byte, each when the one
// before has been read, and one that comes just before the FIFOs are switched on is lost.
// Where none waits, nobody has typed, and nothing is waited for.
const earlyLooks = 20_000

func initSerial() {
	comOut(com1.Base+uart.IER, 0)
	comOut(com1.Base+uart.LCR, lcr8N1) // for the receiver to be at hand
	for looks := 0; early.n < len(early.b) && looks < earlyLooks; looks++ {
		if received() {
			early.b[early.n] = comIn(com1.Base + uart.RBR)
			early.n++
			looks = 0
		} else if early.n == 0 {
			break
		}
	}
	comOut(com1.Base+uart.LCR, lcrDLAB)
	comOut(com1.Base, baudDivide)
	comOut(com1.Base+1, 0)
	comOut(com1.Base+uart.LCR, lcr8N1)
	comOut(com1.Base+uart.FCR, fcrEnable)
	if comIn(com1.Base+iir)&iirFIFOs != iirFIFOs {
		txBurst = 1
	}
	com1.Init()
}

// received reports whether a byte has come. Where there is no UART every register reads
// as all ones.
func received() bool {
	v := comIn(com1.Base + uart.LSR)
	return v&(1<<uart.LSR_DR) != 0 && v != noUART
}

const noUART = 0xff

// What the console wrote waits here until the UART takes it.
var (
	com1Lock spinlock
	txHead   uint32
	txTail   uint32
	txRing   [64 << 10]byte
)

// txPatience is how many times putc looks for room: for a second or two, and once that
// was in vain hardly at all until there is room again. Else a UART that hangs would hold
// up a report of thousands of letters, and the reboot after it, for an hour.
var txPatience = txMost

const (
	txMost  = 2_000_000
	txLeast = 20
)

// putc writes one character, waiting for the transmitter for a bounded time so that a
// machine without COM1 still runs.
func putc(c byte) {
	for i := 0; comIn(com1.Base+uart.LSR)&(1<<uart.LSR_THRE) == 0; i++ {
		if i >= txPatience {
			txPatience = txLeast
			return
		}
	}
	txPatience = txMost
	comOut(com1.Base+uart.THR, c)
}

func emit(c byte) {
	if c == '\n' {
		putc('\r')
	}
	putc(c)
}

// drainSerial moves waiting output to the UART: as much as it takes at once, or,
// if all is set, everything.
func drainSerial(all bool) {
	for txHead != txTail {
		if comIn(com1.Base+uart.LSR)&(1<<uart.LSR_THRE) == 0 {
			if !all {
				return
			}
			putc(txRing[txHead%uint32(len(txRing))])
			txHead++
			continue
		}
		for i := 0; i < txBurst && txHead != txTail; i++ {
			comOut(com1.Base+uart.THR, txRing[txHead%uint32(len(txRing))])
			txHead++
		}
	}
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
