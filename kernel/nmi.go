package kernel

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// Port 61h says why an NMI came (ISA system control port B).
const (
	portBSERR  = 1 << 7
	portBIOCHK = 1 << 6
)

// A CPU's NMIs. An NMI comes in the middle of anything, so its handler takes no lock
// and wakes nobody: it counts, and raises an interrupt that does.
type nmiState struct {
	count  uint32 // so far
	told   uint32 // of them
	why    uint32 // what port 61h said
	raised uint32 // 1 until that interrupt is taken
}

// What FenceNMIs was told.
var nmiFence, nmiMSR, nmiValue uint32

// FenceNMIs has NMIs and machine checks begin as an exit from a guest does, because one
// may come after an exit and before the fence there: the return stack is filled anew and,
// unless msr is 0, the MSR written, before the first return. The branches that fill it
// take the place of the guest's in the history, too. If the MSR is SPEC_CTRL, it holds in
// the end what it held before.
func FenceNMIs(msr, value uint32) { nmiMSR, nmiValue, nmiFence = msr, value, 1 }

// handleNMI stops this CPU if another ends the machine. Any other NMI is
// the hardware's word that something is wrong, or the operator's who presses a
// button; it is told, and work goes on.
func handleNMI(c *cpu, f *trapFrame) {
	switch atomic.LoadUint32(&stopping) {
	case 0:
	case uint32(c.index) + 1:
		return // this CPU reports the end, and shall get to its own
	default:
		haltForAnother(c)
	}
	n := &c.nmi
	atomic.OrUint32(&n.why, uint32(In8(portB)&(portBSERR|portBIOCHK)))
	atomic.AddUint32(&n.count, 1)
	if atomic.SwapUint32(&n.raised, 1) != 0 {
		printStuck(c, f)
	}
	interruptSelfFromNMI() // again too: one raised before there was a local APIC never came
}

var stuckLock spinlock

// printStuck tells where a CPU stands that has taken no interrupt since its last NMI:
// nobody but its NMI handler can.
func printStuck(c *cpu, f *trapFrame) {
	for !stuckLock.tryLock() {
		if atomic.LoadUint32(&stopping) != 0 {
			haltForAnother(c)
		}
		pause()
	}
	print1("\ngodwit: NMI on CPU ")
	printUint(c.index)
	print1(", which has taken no interrupt since the one before:\n")
	reportFrame(f, 0)
	stuckLock.unlock()
}

// nmiRaised answers vecNMIRaised.
func nmiRaised(c *cpu) {
	atomic.StoreUint32(&c.nmi.raised, 0)
	wakeIRQ(&irqs[vecNMI])
}

// tellNMIs tells of the NMIs that came since it did so last.
func tellNMIs() {
	var cpus []string
	why := uint32(0)
	for i := range ncpu {
		n := &cpuAt(i).nmi
		count := atomic.LoadUint32(&n.count)
		more := count - n.told
		if more == 0 {
			continue
		}
		n.told = count
		why |= atomic.SwapUint32(&n.why, 0)
		who := fmt.Sprint(i)
		if more > 1 {
			who += fmt.Sprintf(" (%d times)", more)
		}
		cpus = append(cpus, who)
	}
	if len(cpus) != 0 {
		fmt.Println(describeNMI(cpus, why))
	}
}

func describeNMI(cpus []string, why uint32) string {
	s := "kernel: NMI on CPU " + strings.Join(cpus, ", ")
	switch {
	case why&portBSERR != 0:
		return s + ": system error (SERR#)"
	case why&portBIOCHK != 0:
		return s + ": I/O channel check"
	}
	return s + "; port 61h names no cause"
}

const (
	// Corrected errors raise nothing by themselves, so the banks are looked at so often.
	bankInterval = 10 * time.Second
	// A source of NMIs that repeats itself is told no more often.
	nmiInterval = time.Second
)

// watchHardware is the goroutine that tells what the hardware reports of itself.
func watchHardware() {
	nmi := Interrupt{vector: vecNMI, name: "NMI"}
	for old := true; ; old = false {
		tellNMIs()
		OnEachCPU(func(cpu int) { tellErrors(cpu, old) })
		time.Sleep(nmiInterval)
		nmi.Wait(bankInterval - nmiInterval)
	}
}

func init() {
	if running {
		go watchHardware()
	}
}
