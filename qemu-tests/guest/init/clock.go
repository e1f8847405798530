package main

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tsc reads the time-stamp counter, after all earlier loads.
func tsc() uint64

// watermark is the highest value of a clock that any CPU has seen.
type watermark struct{ high atomic.Uint64 }

// observe reads the clock and tells by how much it stands below what was read, anywhere, before this call began.
func (w *watermark) observe(read func() uint64) (back uint64) {
	before := w.high.Load()
	now := read()
	if now < before {
		return before - now
	}
	for before < now && !w.high.CompareAndSwap(before, now) {
		before = w.high.Load()
	}
	return 0
}

func monotonic() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // fails only for a bad pointer
	}
	return uint64(t.Nano())
}

// ticker counts the expirations of a periodic kernel timer. The kernel adds up those it could not deliver in time, so
// the count and the clock must agree however long the machine stood still.
type ticker struct {
	start   uint64
	ticks   atomic.Uint64
	longest atomic.Uint64 // nanoseconds between two deliveries
}

const tickPeriod = 10 * time.Millisecond

func startTicker(fail func(error)) (*ticker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	period := unix.NsecToTimespec(int64(tickPeriod))
	t := &ticker{start: monotonic()}
	first := unix.NsecToTimespec(int64(t.start) + int64(tickPeriod))
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Interval: period, Value: first}, nil); err != nil {
		return nil, fmt.Errorf("timerfd_settime: %w", err)
	}
	go func() {
		var b [8]byte
		for last := t.start; ; {
			switch n, err := unix.Read(fd, b[:]); {
			case err == unix.EINTR:
				continue
			case err != nil || n != len(b):
				fail(fmt.Errorf("timer read %d bytes: %v", n, err))
				return
			}
			t.ticks.Add(binary.NativeEndian.Uint64(b[:]))
			now := monotonic()
			t.longest.Store(max(t.longest.Load(), now-last))
			last = now
		}
	}()
	return t, nil
}

// lost is how many ticks are missing. A late delivery is given time to come: it is late, not lost.
func (t *ticker) lost() (n int64) {
	for range 1000 {
		before := int64(t.ticks.Load())
		due := int64(monotonic()-t.start) / int64(tickPeriod)
		after := int64(t.ticks.Load())
		if before > due {
			return due - before // more than there was time for
		}
		// Ticks that came while we looked at the clock are neither.
		if n = max(0, due-after); n <= 1 {
			break
		}
		time.Sleep(tickPeriod)
	}
	return n
}
