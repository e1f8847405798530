package kernel

import (
	"sync"
	"sync/atomic"
	gosyscall "syscall"
	"unsafe"
)

// The log keeps the last lines that the program wrote to its standard output and
// error, and the kernel's own. Until SetLogSink is called they go to the serial
// port at once; afterwards the sink prints them, and the port gets directly only
// what a report at the end finds undelivered.
const (
	logText  = 256 << 10
	logLines = 4096
	maxLine  = 1 << 10 // a longer line is broken
)

type logLine struct {
	time int64
	off  uint64 // in text, counted from the log's beginning
	n    uint32
}

var hostLog struct {
	mu    spinlock
	next  uint64 // sequence number of the line being written
	end   uint64 // offset after its last byte
	start uint64 // of its first
	line  [logLines]logLine
	text  [logText]byte

	sink  bool
	shown uint64 // lines below this went to the sink
	bell  uint32 // rings for every line while there is a sink: the futex its goroutine sleeps on
}

// logWrite takes what was written to standard output or error. It runs in the
// kernel, possibly with the runtime dying above it.
func logWrite(b []byte) {
	l := &hostLog
	l.mu.lock()
	before := l.next
	for _, c := range b {
		logByte(c)
	}
	sink, lines := l.sink, l.next != before
	if !sink {
		com1Lock.lock()
		drainSerial(true)
		for _, c := range b {
			emit(c)
		}
		com1Lock.unlock()
	}
	l.mu.unlock()
	if sink && lines {
		atomic.AddUint32(&l.bell, 1)
		a := uintptr(unsafe.Pointer(&l.bell))
		futexQueue(a).wake(a, 1)
	}
}

// logByte adds one byte to the line being written. The lock is held, or the machine
// is past locks.
func logByte(c byte) {
	l := &hostLog
	if c != '\n' {
		if c == '\r' {
			return
		}
		l.text[l.end%logText] = c
		l.end++
		if l.end-l.start < maxLine {
			return
		}
	}
	l.line[l.next%logLines] = logLine{Nanotime(), l.start, uint32(l.end - l.start)}
	l.next++
	l.start = l.end
}

// A LogEntry is one line of the host's log.
type LogEntry struct {
	Time int64 // Nanotime
	Text string
}

// logCall copies one line out of the log.
type logCall struct {
	seq, next uint64 // the line asked for; the first there will be later
	ok        bool
	time      int64
	n         int
	buf       [maxLine]byte
}

func copyLine(arg unsafe.Pointer) {
	a, l := (*logCall)(arg), &hostLog
	clear(a.buf[:1]) // so that no page fault comes under the lock
	a.buf[maxLine-1] = 0
	l.mu.lock()
	defer l.mu.unlock()
	a.next, a.ok = l.next, false
	if a.seq >= l.next || l.next-a.seq > logLines {
		return
	}
	e := l.line[a.seq%logLines]
	if l.end-e.off > logText { // overwritten
		return
	}
	a.ok, a.time, a.n = true, e.time, int(e.n)
	for i := range a.n {
		a.buf[i] = l.text[(e.off+uint64(i))%logText]
	}
}

// Log returns the log's lines from sequence number since on, and the number to
// ask for next time. Writes to os.Stdout and os.Stderr go there. Lines too old to
// be kept are left out.
func Log(since uint64) (lines []LogEntry, next uint64) {
	if !running {
		return nil, 0
	}
	a := new(logCall)
	a.seq = since
	critical(copyLine, unsafe.Pointer(a))
	first := since
	if a.next > logLines {
		first = max(first, a.next-logLines)
	}
	next = a.next
	for a.seq = first; a.seq < next; a.seq++ {
		critical(copyLine, unsafe.Pointer(a))
		if a.ok {
			lines = append(lines, LogEntry{a.time, string(a.buf[:a.n])})
		}
	}
	return lines, max(next, since)
}

var logSink struct {
	sync.Mutex
	f       func(line string)
	started bool
}

// SetLogSink hands the printing of log lines to the console, so that they never
// tear a line being typed. The sink is called from one goroutine, in order. nil
// gives the printing back to the kernel.
func SetLogSink(f func(line string)) {
	if !running {
		return
	}
	logSink.Lock()
	defer logSink.Unlock()
	logSink.f = f
	a := sinkCall{on: f != nil}
	critical(switchSink, unsafe.Pointer(&a))
	if f != nil && !logSink.started {
		logSink.started = true
		go feedSink()
	}
}

type sinkCall struct{ on bool }

func switchSink(arg unsafe.Pointer) {
	on := (*sinkCall)(arg).on
	hostLog.mu.lock()
	if on && !hostLog.sink {
		hostLog.shown = hostLog.next // what came before is on the port already
	}
	hostLog.sink = on
	hostLog.mu.unlock()
}

// feedSink is the goroutine that gives lines to the sink.
func feedSink() {
	for {
		bell := atomic.LoadUint32(&hostLog.bell)
		seq := atomic.LoadUint64(&hostLog.shown)
		lines, next := Log(seq)
		logSink.Lock()
		f := logSink.f
		logSink.Unlock()
		if f != nil {
			for _, e := range lines {
				f(e.Text)
			}
			atomic.StoreUint64(&hostLog.shown, next)
		}
		gosyscall.Syscall6(gosyscall.SYS_FUTEX, uintptr(unsafe.Pointer(&hostLog.bell)), futexWait, uintptr(bell), 0, 0, 0)
	}
}

// flushLog prints what the sink has not shown, when the end has come.
func flushLog() {
	l := &hostLog
	if !l.sink {
		return
	}
	l.sink = false
	// All of it: of a long trace the first lines tell most.
	seq := max(l.shown, l.next-min(l.next, logLines))
	for ; seq < l.next; seq++ {
		printLine(seq)
	}
	for o := l.start; o < l.end; o++ {
		emit(l.text[o%logText])
	}
}

func printLine(seq uint64) {
	e := hostLog.line[seq%logLines]
	for i := range uint64(e.n) {
		emit(hostLog.text[(e.off+i)%logText])
	}
	emit('\n')
}

// printLastLines shows the log's end in a report.
func printLastLines(n uint64) {
	l := &hostLog
	if l.next == 0 {
		return
	}
	print1("last lines of the log:\n")
	for seq := l.next - min(l.next, n); seq < l.next; seq++ {
		print1("  ")
		printLine(seq)
	}
}

// printLinesBefore shows the n lines that came before the last one that begins with
// one of two words, in a report.
func printLinesBefore(word, other string, n uint64) {
	l := &hostLog
	first := l.next - min(l.next, logLines)
	for seq := l.next; seq > first; seq-- {
		if !lineBegins(seq-1, word) && !lineBegins(seq-1, other) {
			continue
		}
		print1("last lines of the log before:\n")
		for s := max(first, seq-1-min(seq-1, n)); s < seq-1; s++ {
			print1("  ")
			printLine(s)
		}
		return
	}
}

// lineBegins reports whether a line is still kept and begins with word.
func lineBegins(seq uint64, word string) bool {
	l := &hostLog
	e := l.line[seq%logLines]
	if l.end-e.off > logText || uint64(e.n) < uint64(len(word)) {
		return false
	}
	for i := range len(word) {
		if l.text[(e.off+uint64(i))%logText] != word[i] {
			return false
		}
	}
	return true
}

// logString and logUint write to the log only: what is worth knowing, not worth a
// line on the console.
func logString(s string) {
	for i := range len(s) {
		logByte(s[i])
	}
}

func logUint(v uint64) {
	if v >= 10 {
		logUint(v / 10)
	}
	logByte('0' + byte(v%10))
}
