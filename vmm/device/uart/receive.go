package uart

// fifoSize is the receiver's FIFO.
const fifoSize = 16

// inputSize bounds what Input takes ahead of the guest's reads.
const inputSize = 4096

// triggers are the receiver FIFO's trigger levels (section 8.5).
var triggers = [4]int{1, 4, 8, 14}

// Input gives bytes to the guest and returns how many it took; Room tells when to
// offer the rest. Callable from anywhere.
func (u *UART) Input(p []byte) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := min(len(p), inputSize-len(u.input))
	u.input = append(u.input, p[:n]...)
	u.refill()
	u.update()
	return n
}

// Room has a value after the guest made room for more Input.
func (u *UART) Room() <-chan struct{} { return u.room }

// Break sends a break condition (Linux's SysRq on a serial console).
func (u *UART) Break() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mcr&mcrLoop == 0 {
		u.receive(0)
		u.lsr |= lsrBreak
		u.update()
	}
}

func (u *UART) signalRoom() {
	select {
	case u.room <- struct{}{}:
	default:
	}
}

// capacity is the receiver's: one byte without FIFO.
func (u *UART) capacity() uint8 {
	if u.fcr&fcrEnable == 0 {
		return 1
	}
	return fifoSize
}

// refill moves waiting input into the receiver. In loopback the input pin is cut off.
func (u *UART) refill() {
	if len(u.input) == 0 || u.mcr&mcrLoop != 0 {
		return
	}
	full := len(u.input) == inputSize
	n := 0
	for n < len(u.input) && u.count < u.capacity() {
		u.receive(u.input[n])
		n++
	}
	// Slide down rather than re-slice: the buffer keeps its array.
	u.input = u.input[:copy(u.input, u.input[n:])]
	if full && n > 0 {
		u.signalRoom()
	}
}

// receive takes a byte; if the receiver is full it is an overrun.
func (u *UART) receive(b byte) {
	if u.count >= u.capacity() {
		u.lsr |= lsrOverrun
		if u.fcr&fcrEnable == 0 { // without FIFO the new byte replaces the old
			u.fifo[u.head] = b
		}
		return
	}
	u.fifo[(u.head+u.count)%fifoSize] = b
	u.count++
}
